"""A clause's one row beside objectives on an earlier layer, pulled down to that layer once for all of them.

For objectives `side z_i + w (c . y - d)` with w >= 0 a sweep above the layer is w times the row's own: slopes depend on the signs
of cotangents alone, and splits' multipliers go with w. What `z_i` pulls on the activations before it is a row of a matrix,
the same in all subproblems. So what is left to do for each objective begins where the latest of these activations is.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from verify.lagrangian.dual import DualProblem, end_sweep
from verify.lagrangian.supports import join
from verify.lagrangian.sweeps import pull
from verify.lagrangian.value import RoundingError, Value
from verify.network.graph import Layer, Network
from verify.state import DualState

_MOST = 16_000_000  # entries of the matrices' rows


class Entries:
    """What single pre-activations of a layer pull on the activations (and the input) before them, without loss."""

    def __init__(
        self, network: Network, layer: Layer, neurons: Int[Tensor, " count"], magnitudes: dict[int, Tensor]
    ) -> None:
        """neurons: places within the layer, each once."""
        node = layer.pre_node
        self.place = neurons.new_zeros(layer.size)
        every = torch.arange(len(neurons), device=neurons.device)
        self.place[neurons] = every
        ones = torch.zeros(len(neurons), layer.size, dtype=network.dtype, device=network.device)
        ones[every, neurons] = 1.0
        self.bound = network.offsets[node][neurons, None]
        self.rounding = RoundingError(magnitudes, network.gamma, self.bound)
        self.rounding.add(ones[:, None], node)
        self.pending = {node: ones.reshape(-1, *network.nodes[node].shape)}
        self.last = network.affine_from(node)
        for index in range(node, self.last - 1, -1):
            if index in self.pending:
                pull(network, index, self.pending.pop(index), self.pending, self.rounding)

    @staticmethod
    def fit(network: Network, layer: Layer, count: int) -> bool:
        """Whether so many neurons' entries are few enough to be kept."""
        widest = max(network.nodes[index].size for index in network.ancestors[layer.pre_node])
        return count * widest <= _MOST


def bound_output_constrained(
    problem: DualProblem,
    state: DualState,
    entries: Entries,
    neurons: Int[Tensor, "batch objectives"],
    sides: Float[Tensor, " objectives"],
    weights: Float[Tensor, "batch objectives"],
    magnitudes: dict[int, Tensor],
) -> Float[Tensor, "batch objectives"]:
    """Bounds of `side z_i` where the row of each subproblem's clause holds, with the rounding of the sweep charged.

    problem, state: one objective of one row each, on which the multipliers of splits are those of weight 1.
    """
    above, places = problem.start_sweep(state, magnitudes).down_to(entries.last), entries.place[neurons]
    bound = weights * above.value.bound + sides * entries.bound[places, 0]
    rounding = RoundingError(magnitudes, problem.domain.view.gamma, bound)
    rounding.total = weights * above.value.rounding.total + entries.rounding.total[places, 0]
    rounding.deployed = weights * above.value.rounding.deployed + entries.rounding.deployed[places, 0]
    flat = places.numel()
    scaled = {
        index: (weights[..., None] * value.reshape(len(neurons), 1, -1)).reshape(flat, *value.shape[1:])
        for index, value in above.pending.items()
    }
    for index, rows in entries.pending.items():
        own = sides[:, None] * rows.flatten(1)[places]
        join(scaled, index, own.reshape(flat, *rows.shape[1:]))
    wide, value = problem.widened(neurons.shape[1]), Value(problem.domain, bound, rounding)
    return end_sweep(wide.descent(weighed(state, weights), scaled, value).down_to(1)).bound


def weighed(state: DualState, weights: Float[Tensor, "batch objectives"]) -> DualState:
    """Points of one objective each for so many; the multipliers of splits belong to the rows, so they go with the rows' weights."""
    wide = state.map(lambda part: part.expand(-1, weights.shape[1], -1))
    return wide | {"beta": wide["beta"] * weights[..., None]}
