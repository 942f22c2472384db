"""Every load is compared with the model itself: two readings that disagree must not verify anything.

Random inputs seldom reach the parts of a network where readings differ: a limit of Clip, the other side of a maximum, a
saturated layer. So besides the ends, corners and faces of the property's boxes, inputs are tried that some steps along signs of
gradients have driven to where single values inside the network, or outputs, are extreme.

The runner computes in the model's own type (float32 mostly), the network in float64, so they differ by rounding. Errors of
float32 evaluation grow with the magnitudes inside the network, not only with the output's, hence the tolerance is
`TOLERANCE * (1 + largest magnitude of any value of the network at that input)`. Beside a jump (of Floor, say) they may differ by
all of it, and beside a pole by more, so an input does not count where small errors of the values inside make outputs differ as much.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verify.errors import ModelError
from verify.network.activations.integer import Integer

if TYPE_CHECKING:
    from verify.loading.loaded import LoadedModel
    from verify.network.graph import Network

TOLERANCE = 1e-4
SCALES = (0.1, 1.0, 10.0)  # of inputs where there is no box
# inputs that are compared however long it takes, and others while these times last
FEWEST, FEW, FEW_SECONDS, SECONDS = 2, 5, 2.0, 0.25
SPREAD, DRIVEN, ROUNDS, STEPS = 30, 32, 2, (1.0, 0.5, 0.25)
_ENTRIES = 5_000_000  # of the network's values at a time
_NEIGHBOURS, _NEAR = 16, 2.0**-20
Box = tuple[NDArray[Any], NDArray[Any]]


class Comparison(NamedTuple):
    """At how many inputs two readings gave the same outputs, and by how much these differed at most."""

    inputs: int
    difference: float


def check_agreement(loaded: LoadedModel, box: Box | None = None) -> Comparison:
    """Compares the network with the model's own runtime. Raises ModelError where they disagree.

    box: lower and upper ends of the inputs, of one box or of several, [boxes, inputs].
    """
    if not (loaded.network.inputs and loaded.network.outputs):
        raise ModelError("its input or its output has no entries")
    points, pace = _Points(loaded.network, box), _Pace()
    compared = doubtful = 0
    largest = 0.0
    for batch in points.all(pace):
        for some in batch.split(points.at_once):
            # both must see the same numbers, so those that the model's type can hold
            same, unclear, difference = _compare(loaded, loaded.rounded(some.numpy()))
            compared, doubtful, largest = compared + same, doubtful + unclear, max(largest, difference)
            pace.done += len(some)
    if doubtful > compared:
        raise ModelError(
            "at most inputs tried its outputs hang on rounding alone, so its reading cannot be checked"
        )
    if not compared:
        raise ModelError(
            "the model gives infinity or NaN, or integers beyond what is known of their types, at every input "
            "tried, so its reading cannot be checked; give the box of inputs that it is for"
        )
    return Comparison(compared, largest)


@dataclass
class _Pace:
    """How many inputs there is time for."""

    began: float = field(default_factory=time.monotonic)
    done: int = 0

    def room(self, wanted: int) -> int:
        """At most `wanted`."""
        if self.done < FEWEST:
            return wanted
        spent = time.monotonic() - self.began
        each = spent / self.done
        few = min(FEW - self.done, (FEW_SECONDS - spent) / each)
        return max(0, int(min(wanted, max(few, (SECONDS - spent) / each))))


class _Points:
    """The inputs that are tried."""

    def __init__(self, network: Network, box: Box | None) -> None:
        self._network, self._random = network, np.random.default_rng(0)
        size = network.inputs
        self.at_once = max(1, _ENTRIES // sum(node.size for node in network.nodes))
        ends = None if box is None else [torch.from_numpy(np.array(end, dtype=np.float64)) for end in box]
        # else the property belongs to another model; Problem says so
        fits = ends is not None and (ends[0].numel() == size or ends[0].shape[1:] == (size,))
        self._ends = [end.reshape(-1, size) for end in ends] if ends is not None and fits else None

    def all(self, pace: _Pace) -> Iterator[Tensor]:
        """Batches of inputs, [batch, inputs], while there is time."""
        if self._ends is None:
            yield torch.stack([torch.zeros(self._network.inputs).double(), self._uniform(1)[0]])
        else:
            yield torch.stack([end[0] for end in self._ends])
        if room := pace.room(SPREAD):
            yield self._spread(room)
        for _ in range(ROUNDS):
            yield from self._driven(pace)

    def _uniform(self, count: int) -> Tensor:
        return torch.from_numpy(self._random.random((count, self._network.inputs)))

    def _chosen(self, most: int, count: int) -> Tensor:
        return torch.from_numpy(self._random.integers(most, size=count))

    def _boxes(self, count: int) -> tuple[Tensor, Tensor]:
        """A box for each of some inputs."""
        if self._ends is None:
            scale = torch.tensor(SCALES).double()[self._chosen(len(SCALES), count)][:, None]
            upper = scale.expand(-1, self._network.inputs)
            return -upper, upper
        lower, upper = self._ends
        which = torch.arange(count) % len(lower) if count >= len(lower) else self._chosen(len(lower), count)
        return lower[which], upper[which]

    def _spread(self, count: int) -> Tensor:
        """Inside boxes, at corners, and on faces of any dimension, in turn."""
        lower, upper = self._boxes(count)
        share, kind = self._uniform(count), torch.arange(count)[:, None] % 3
        at_end = self._uniform(count) < self._uniform(count)[:, :1]
        share = torch.where((kind == 1) | ((kind == 2) & at_end), share.round(), share)
        return (lower + share * (upper - lower)).clamp(lower, upper)

    def _driven(self, pace: _Pace) -> Iterator[Tensor]:
        """From places inside, each by some steps to where one value of the network is large or small."""
        count = min(pace.room(DRIVEN), self.at_once)
        if not count:
            return
        lower, upper = self._boxes(count)
        x = (lower + self._uniform(count) * (upper - lower)).clamp(lower, upper)
        targets = self._targets(count)
        for step in STEPS:
            gradient = self._gradient(x, targets)
            if gradient is None or not pace.room(1):
                return
            x = (x + step * (upper - lower) * gradient.sign()).clamp(lower, upper)
            yield x

    def _targets(self, count: int) -> list[tuple[int, int, int]]:
        """For each input a node (what enters an activation, or the outputs), an entry of it, and a direction."""
        last = len(self._network.nodes) - 1
        nodes = [layer.pre_node for layer in self._network.layers if layer.size] or [last]
        found = []
        for place, (node, entry, sign) in enumerate(self._chosen(2**31, 3 * count).reshape(-1, 3).tolist()):
            chosen = nodes[node % len(nodes)] if place % 4 else last
            found.append((chosen, entry % self._network.nodes[chosen].size, 1 - 2 * (sign % 2)))
        return found

    def _gradient(self, x: Tensor, targets: list[tuple[int, int, int]]) -> Tensor | None:
        """Of each input's target; None where there is none."""
        x = x.detach().requires_grad_(True)
        with torch.enable_grad():
            values = self._network.values(x)
            wanted = [
                sign * values[node][place].flatten()[entry]
                for place, (node, entry, sign) in enumerate(targets)
            ]
            total = torch.stack(wanted).sum()
        if not total.requires_grad:
            return None
        return torch.autograd.grad(total, x)[0].nan_to_num(0.0, 0.0, 0.0)


def _compare(loaded: LoadedModel, samples: NDArray[Any]) -> tuple[int, int, float]:
    """At how many inputs the outputs are the same, at how many it is unclear, and the largest difference of the former; raises ModelError
    where they differ."""
    expected = torch.from_numpy(loaded.evaluate(samples, as_written=True).astype(np.float64))
    x = torch.from_numpy(samples.astype(np.float64))
    with torch.no_grad():
        values = loaded.network.values(x)
    found = values[-1].flatten(1)
    if found.shape != expected.shape:
        raise ModelError(
            f"the model has {expected.shape[1]} outputs, the network read from it {found.shape[1]}"
        )
    # an overflow of the model's own type says nothing about the network, nor does one of float64
    usable = expected.isfinite().all(1) & found.isfinite().all(1)
    sizes = [value.flatten(1).abs().nan_to_num(0.0, 0.0).amax(1) for value in values if value.numel()]
    allowed = TOLERANCE * (1 + torch.stack(sizes).amax(0))
    difference = (found - expected).abs()
    same = usable & (difference <= allowed[:, None]).all(1)
    # where integers leave their types processors differ, and float64 does
    differs = usable & ~same & integers_known(loaded.network, values)
    for place in differs.nonzero()[:, 0].tolist():
        output = int(difference[place].argmax())
        if not _hangs_on_rounding(loaded.network, x[place], output, float(allowed[place])):
            raise ModelError(
                f"the model was read wrongly: its output {output} differs by {float(difference[place, output]):.3g} "
                f"from the model's own runtime (allowed: {float(allowed[place]):.3g}); please report this model"
            )
    largest = float(difference[same].max()) if bool(same.any()) else 0.0
    return int(same.sum()), int(differs.sum()), largest


@torch.no_grad()
def _hangs_on_rounding(network: Network, x: Tensor, output: int, allowed: float) -> bool:
    """Whether an output moves by more than what is allowed where every value is rounded a little otherwise, or in float32."""
    single = network.to("cpu", torch.float32).forward(x[None].float())
    found = torch.cat([network.forward(x[None]), _rounded_otherwise(network, x), single.double()])[:, output]
    return not float(found.max() - found.min()) <= allowed


def _rounded_otherwise(network: Network, x: Tensor) -> Tensor:
    """Outputs, [neighbours, outputs], with an error at every value: libraries' functions have small ones, not small ones relative
    to a small value (a sigmoid near 0, whose reciprocal is taken then)."""
    random = np.random.default_rng(0)

    def near(value: Tensor) -> Tensor:
        noise = torch.from_numpy(2 * random.random(tuple(value.shape)) - 1)
        return value + _NEAR * (1 + value.abs()) * noise

    values = [near(x.reshape(1, *network.nodes[0].shape).expand(_NEIGHBOURS, *network.nodes[0].shape))]
    for node in network.nodes[1:]:
        values.append(near(network.apply(node, [values[operand] for operand in node.operands])))
    return values[-1].flatten(1)


def integers_known(network: Network, values: list[Tensor]) -> Tensor:
    """Of each input whether all casts are of numbers that their types hold, and all sums and products small enough for float64."""
    known = torch.ones(len(values[0]), dtype=torch.bool)
    for layer in network.layers:
        if isinstance(layer.activation, Integer):
            known &= layer.activation.known(values[layer.pre_node]).flatten(1).all(1)
    return known
