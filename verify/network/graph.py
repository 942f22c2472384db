"""The network: a DAG of affine maps between activations, and one flat axis of variables.

Node 0 is the input, the last node the output; every other node is an affine map of earlier nodes or an activation of one.
The *variables* of the verification problem are the inputs and every pre-activation, in network order, on one flat
axis: a box over them is all that a subproblem is, and a split, of an input or of an activation, splits one of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from verify.deadline import tick
from verify.network.activations.base import Activation
from verify.network.activations.relu import Relu
from verify.network.affine import Affine, Combine, Shape, tensors
from verify.network.ball import Ball
from verify.network.exactness import Units, units_of


@dataclass(frozen=True)
class Node:
    """One value of the network. `operator` is None for the input; `shape` is the sample shape of the value."""

    operator: Affine | Activation | None
    operands: tuple[int, ...]
    shape: Shape
    name: str = ""

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def weights(self) -> int:
        """Numbers in its map's weights and biases; none in an activation."""
        held = tensors(self.operator) if isinstance(self.operator, Affine) else {}
        return sum(v.numel() for name, v in held.items() if v.is_floating_point() and name != "bias_size")


@dataclass(frozen=True)
class Layer:
    """An activation's place: its node, the node of its pre-activations, its slices of the flat axes."""

    node: int
    pre_node: int
    activation: Activation
    variables: slice  # on the axis of variables (inputs first)
    alpha: slice  # on the axis of slope parameters
    posts: slice  # on the axis of all activations' outputs

    @property
    def size(self) -> int:
        return int(self.variables.stop - self.variables.start)


@dataclass(frozen=True)
class Network:
    """A DAG in topological order; see the head of this file. Tensors are on one device, in one dtype.

    deployed: bounds are to hold not of the real-valued function but of what any library computes of it in float32. plain: they are to be
    no better than those of each node alone, as proofs have them. ball: inputs are in question in it alone, besides their boxes.
    """

    nodes: tuple[Node, ...]
    deployed: bool = False
    plain: bool = False
    ball: Ball | None = None

    def __post_init__(self) -> None:
        if not self.nodes or self.nodes[0].operator is not None:
            raise ValueError("node 0 must be the input")
        for index, node in enumerate(self.nodes[1:], start=1):
            if node.operator is None or any(operand >= index for operand in node.operands):
                raise ValueError(f"node {index} ({node.name}) must be an operator of earlier nodes")

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The activations in network order."""
        layers, variable, parameter, post = [], self.inputs, 0, 0
        for index, node in enumerate(self.nodes):
            if isinstance(node.operator, Activation):
                size = self.nodes[node.operands[0]].size
                owned = size * node.operator.alphas_per_neuron
                layers.append(
                    Layer(
                        index,
                        node.operands[0],
                        node.operator,
                        slice(variable, variable + size),
                        slice(parameter, parameter + owned),
                        slice(post, post + node.size),
                    )
                )
                variable, parameter, post = variable + size, parameter + owned, post + node.size
        return tuple(layers)

    @cached_property
    def layer_of_node(self) -> dict[int, Layer]:
        """Layers by their node's index."""
        return {layer.node: layer for layer in self.layers}

    @property
    def inputs(self) -> int:
        return self.nodes[0].size

    @property
    def outputs(self) -> int:
        return self.nodes[-1].size

    @cached_property
    def variables(self) -> int:
        """Inputs and pre-activations."""
        return self.inputs + sum(layer.size for layer in self.layers)

    @cached_property
    def alphas(self) -> int:
        """Slope parameters."""
        return self.layers[-1].alpha.stop if self.layers else 0

    @cached_property
    def posts(self) -> int:
        """Outputs of activations."""
        return self.layers[-1].posts.stop if self.layers else 0

    @cached_property
    def weights(self) -> int:
        """Numbers in the weights and biases of affine maps."""
        return sum(node.weights for node in self.nodes)

    @cached_property
    def ancestors(self) -> tuple[frozenset[int], ...]:
        """For every node, the nodes its value depends on, itself included."""
        found: list[frozenset[int]] = []
        for index, node in enumerate(self.nodes):
            found.append(frozenset({index}).union(*(found[operand] for operand in node.operands)))
        return tuple(found)

    def affine_from(self, node: int) -> int:
        """The node behind the latest activation that a node depends on: from there on its value is affine."""
        activations = (i for i in self.ancestors[node] if isinstance(self.nodes[i].operator, Activation))
        return max(activations, default=0) + 1

    @cached_property
    def absolute(self) -> dict[int, Affine]:
        """The affine nodes' maps with absolute coefficients and no bias."""
        return {
            i: node.operator.absolute()
            for i, node in enumerate(self.nodes)
            if isinstance(node.operator, Affine)
        }

    @cached_property
    def extrema(self) -> dict[int, tuple[int, int, int]]:
        """The nodes that are a maximum (1) or a minimum (-1) of two others, made of a ReLU: `b + relu(a - b)`, `a - relu(a - b)`."""
        found = {}
        for index, node in enumerate(self.nodes):
            if not (isinstance(node.operator, Combine) and node.operator.signs in ((1, 1), (1, -1))):
                continue
            sign, pair = node.operator.signs[1], self._difference(node.operands[1])
            if pair is not None and node.operands[0] == pair[sign == 1]:
                found[index] = sign, *pair
        return found

    def _difference(self, index: int) -> tuple[int, int] | None:
        """The nodes a and b of a ReLU of `a - b`."""
        if not isinstance(self.nodes[index].operator, Relu):
            return None
        inner = self.nodes[self.nodes[index].operands[0]]
        if not (isinstance(inner.operator, Combine) and inner.operator.signs == (1, -1)):
            return None
        return inner.operands[0], inner.operands[1]

    @cached_property
    def signed(self) -> dict[int, tuple[Affine | None, Affine | None]]:
        """The affine nodes' maps with their positive coefficients alone, and with the absolute values of the negative ones."""
        return {
            i: (node.operator.signed(1), node.operator.signed(-1))
            for i, node in enumerate(self.nodes)
            if isinstance(node.operator, Affine)
        }

    @cached_property
    def overflows(self) -> bool:
        """Whether values may be no numbers, or larger than all numbers."""
        return any(layer.activation.overflows for layer in self.layers)

    @cached_property
    def sided(self) -> bool:
        """Whether it may matter much on which side of 0 a value is."""
        return any(layer.activation.sided for layer in self.layers)

    @cached_property
    def offsets(self) -> dict[int, Float[Tensor, " size"]]:
        """The value of every node, flattened, when the input and all activations' outputs are zero."""
        zeros: list[Tensor] = []
        for node in self.nodes:
            tick()
            if isinstance(node.operator, Affine):
                zeros.append(node.operator.forward(*(zeros[operand] for operand in node.operands)))
            else:
                zeros.append(torch.zeros(1, *node.shape, dtype=self.dtype, device=self.device))
        return {i: zero.flatten() for i, zero in enumerate(zeros)}

    @cached_property
    def weighted(self) -> dict[int, Float[Tensor, " size"]]:
        """For every affine node which entries have a coefficient other than 0 (1), flattened."""
        found = {}
        for index, operator in self.absolute.items():
            tick()
            ones = [
                torch.ones(1, *self.nodes[i].shape, dtype=self.dtype, device=self.device)
                for i in self.nodes[index].operands
            ]
            found[index] = operator.forward(*ones).flatten().sign()
        return found

    @cached_property
    def has_steps(self) -> bool:
        """Whether some activation's derivative is 0 wherever it has one."""
        return any(layer.activation.flat for layer in self.layers)

    @cached_property
    def units(self) -> dict[int, Units | None]:
        """Of affine nodes, what their coefficients are multiples of, where steps may depend on such."""
        exact_sums = self.has_steps and self.device.type == "cpu" and not self.deployed
        return {
            index: units_of(node.operator) if exact_sums else None
            for index, node in enumerate(self.nodes)
            if isinstance(node.operator, Affine)
        }

    @cached_property
    def bias_sizes(self) -> dict[int, Float[Tensor, " size"]]:
        """For every affine node the sizes of the terms its bias is made of, flattened: what rounding is charged by."""
        found = {}
        for index in self.absolute:
            tick()
            node = self.nodes[index]
            zeros = [
                torch.zeros(1, *self.nodes[i].shape, dtype=self.dtype, device=self.device)
                for i in node.operands
            ]
            assert isinstance(node.operator, Affine)
            found[index] = node.operator.bias_terms().forward(*zeros).abs().flatten()
        return found

    @cached_property
    def _sample(self) -> Tensor:
        operators = (node.operator for node in self.nodes if isinstance(node.operator, Affine))
        values = (value for operator in operators for value in tensors(operator).values())
        return next((value for value in values if value.is_floating_point()), torch.zeros(0).double())

    @property
    def dtype(self) -> torch.dtype:
        return self._sample.dtype

    @property
    def device(self) -> torch.device:
        return self._sample.device

    @cached_property
    def gamma(self) -> float:
        """The rounding-error constant `n u / (1 - n u)` for the longest sum that a pass through the network makes.

        Any order of summation, with or without fused multiply-adds (Higham 2002, section 3.1); n counts every term of the
        widest affine map, of the final sum over all variables, and some to spare for activations.
        """
        longest = max(
            (node.operator.terms for node in self.nodes if isinstance(node.operator, Affine)), default=1
        )
        rounding = (longest + self.variables + self.outputs + 64) * torch.finfo(self.dtype).eps / 2
        if rounding >= 0.5:
            raise ValueError("the network is too wide for rounding errors to be bounded in this precision")
        return rounding / (1 - rounding)

    def rounding32(self, index: int) -> float:
        """What a deployed network's affine node may be off by, relative to the sizes of its terms; 0 of the real function.

        The terms in any order, and some roundings to spare for the operators that were folded into it.
        """
        operator = self.nodes[index].operator
        if not self.deployed or not isinstance(operator, Affine):
            return 0.0
        rounding = (2 * operator.terms + 16) * 2.0**-24
        return rounding / (1 - rounding)

    def split_ends(self, variable: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Where the lower sides of splits end and the upper ones begin (`Activation.split_ends`)."""
        below = above = value
        for layer in self.layers:
            if layer.activation.flat:
                own = (variable >= layer.variables.start) & (variable < layer.variables.stop)
                ends = layer.activation.split_ends(value.double())
                below = torch.where(own, ends[0], below.double())
                above = torch.where(own, ends[1], above.double())
        return below, above

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Network:
        """The network with its tensors on `device`, as `dtype`."""
        target = torch.device(device)
        return Network(
            tuple(
                replace(node, operator=node.operator.to(target, dtype))
                if isinstance(node.operator, Affine)
                else node
                for node in self.nodes
            ),
            self.deployed,
            self.plain,
            None if self.ball is None else self.ball.to(target, dtype),
        )

    def apply(self, node: Node, operands: Sequence[Tensor]) -> Tensor:
        """The value of a node from its operands' values, each [batch, *shape]."""
        if isinstance(node.operator, Activation):
            return node.operator.forward(operands[0].flatten(1)).reshape(-1, *node.shape)
        assert node.operator is not None
        return node.operator.forward(*operands)

    def values(self, x: Float[Tensor, "batch ..."]) -> list[Tensor]:
        """The values of all nodes at inputs `x` ([batch, inputs] or [batch, *input shape])."""
        values = [x.reshape(x.shape[0], *self.nodes[0].shape)]
        for node in self.nodes[1:]:
            tick()
            values.append(self.apply(node, [values[operand] for operand in node.operands]))
        return values

    def upto(self, node: int) -> Network:
        """The network that ends in one of its nodes."""
        return replace(self, nodes=self.nodes[: node + 1])

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch outputs"]:
        """The flattened outputs at inputs `x`."""
        return self.values(x)[-1].flatten(1)
