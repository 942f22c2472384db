"""The checker's network: linear maps and activations on flat values.

Node 0 is the input, the last node the output. Every other node is affine (a sum of linear maps of earlier nodes, and a
bias) or an activation of one earlier node.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from verify.checker.activations import apply, operands_of
from verify.checker.errors import Refused
from verify.checker.maps import Map
from verify.checker.rationals import Array, Shape, rationals


@dataclass(frozen=True, eq=False)
class Input:
    """The network's input."""

    size: int
    shape: Shape
    sources: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Affine:
    """The sum of maps of earlier nodes, and a bias [size] (float64, or of dtype object with Fractions)."""

    operands: tuple[tuple[Map, int], ...]
    bias: Array
    shape: Shape

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def sources(self) -> tuple[int, ...]:
        """The nodes that it is of."""
        return tuple(operand for _, operand in self.operands)

    def exact(self) -> Affine:
        """The node with rational coefficients and bias."""
        return Affine(tuple((m.exact(), k) for m, k in self.operands), rationals(self.bias), self.shape)


@dataclass(frozen=True, eq=False)
class Activation:
    """An activation of an earlier node; `parameters` are Fractions (a limit of "clip" may be an infinite float)."""

    kind: str
    parameters: tuple[Any, ...]
    operand: int
    shape: Shape

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def sources(self) -> tuple[int, ...]:
        """The node that it is of."""
        return (self.operand,)


Node: TypeAlias = Input | Affine | Activation


class Layer(NamedTuple):
    """An activation's node, its operand, and the operand's entries on the axis of variables."""

    node: int
    operand: int
    variables: slice
    kind: str
    parameters: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Network:
    """The nodes in an order in which operands come first; sizes are checked."""

    nodes: tuple[Node, ...]
    undeployed: str = ""  # why nothing is known of what runtimes compute in float32; empty where something is
    # of the model's inputs, of each where there are several, where it was read from a file
    element_type: str | tuple[str, ...] = ""

    def __post_init__(self) -> None:
        for place, node in enumerate(self.nodes):
            if isinstance(node, Input) != (place == 0) or node.size != math.prod(node.shape) or node.size < 1:
                raise Refused(f"node {place} is no input where there must be one, or has a wrong size")
            self._check(place, node)

    def _check(self, place: int, node: Node) -> None:
        """Refuse a node that does not fit its operands."""
        if isinstance(node, Activation):
            fits = 0 <= node.operand < place
            times = operands_of(node.kind)
            fits = fits and self.nodes[node.operand].size == times * node.size
        elif isinstance(node, Affine):
            fits = node.bias.shape == (node.size,) and len(node.operands) > 0
            for mapping, operand in node.operands:
                fits = fits and 0 <= operand < place and mapping.size == node.size
                fits = fits and mapping.sources == self.nodes[operand].size
        else:
            fits = True
        if not fits:
            raise Refused(f"node {place} does not fit its operands")

    @property
    def inputs(self) -> int:
        """How many inputs there are."""
        return self.nodes[0].size

    @property
    def outputs(self) -> int:
        """How many outputs there are."""
        return self.nodes[-1].size

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The activations in the order of the nodes."""
        layers, start = [], self.inputs
        for place, node in enumerate(self.nodes):
            if isinstance(node, Activation):
                stop = start + self.nodes[node.operand].size
                layers.append(Layer(place, node.operand, slice(start, stop), node.kind, node.parameters))
                start = stop
        return tuple(layers)

    def layers_below(self, node: int) -> list[int]:
        """The numbers of the layers that a node's value depends on."""
        return [number for number, layer in enumerate(self.layers) if layer.node in self._ancestors[node]]

    @cached_property
    def _ancestors(self) -> list[set[int]]:
        found: list[set[int]] = []
        for index, node in enumerate(self.nodes):
            found.append({index}.union(*(found[operand] for operand in node.sources)))
        return found

    @property
    def variables(self) -> int:
        """How many variables there are: the inputs, then the operands of all activations."""
        return self.layers[-1].variables.stop if self.layers else self.inputs

    @cached_property
    def exact(self) -> Network:
        """The network with rational coefficients."""
        return Network(
            tuple(node.exact() if isinstance(node, Affine) else node for node in self.nodes), self.undeployed
        )

    def values(self, x: Array) -> list[Array]:
        """The values of all nodes at inputs x ([batch, inputs]): exact where x is of dtype object, else in float64."""
        if x.ndim != 2 or x.shape[1] != self.inputs:
            raise Refused(f"the inputs must be [batch, {self.inputs}], not {list(x.shape)}")
        if x.dtype == object:
            return self.exact._values(rationals(x))
        return self._values(x.astype(np.float64))

    def _values(self, x: Array) -> list[Array]:
        values = [x]
        for node in self.nodes[1:]:
            if isinstance(node, Activation):
                values.append(apply(node.kind, node.parameters, values[node.operand]))
            elif isinstance(node, Affine):
                total = node.bias.astype(x.dtype)
                for mapping, operand in node.operands:
                    total = total + mapping.forward(values[operand])
                values.append(total)
        return values
