"""One ReLU in the place of all of its layer that have an equal or the opposite pre-activation: an equal network of fewer variables.

`relu(-p)` is `relu(p) - p`. A certificate says which pre-activations are left out. Each has to be, to the last bit, one that stays or
its opposite; or else nothing may be left of its ReLU where it is read, but of `p`. No new coefficient is rounded, or it is refused.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from verify.checker.errors import Refused
from verify.checker.maps import Dense, Map
from verify.checker.network import Affine, Layer, Network, Node
from verify.checker.rationals import Array

# the tensor of what is left out, with its type
MERGED = {"merged.variable": "<i4"}
_BITS = 52  # of a sum; float64 has one more, for what its size is rounded by
_MOST_TERMS = 32  # of sums that are looked at each
_LEAST = -1000  # exponent of a product that float64 has whole


def merged(network: Network, variables: Array) -> Network:
    """The network without these pre-activations, by their variables in increasing order. Raises Refused where it would not be equal."""
    variables = variables.astype(np.int64)
    ends = [network.inputs - 1, *variables.tolist(), network.variables]
    if any(above <= below for below, above in pairwise(ends)):
        raise Refused("the variables that are left out are no pre-activations in increasing order")
    found = network
    for number, layer in reversed([*enumerate(network.layers)]):
        span = layer.variables
        gone = variables[(variables >= span.start) & (variables < span.stop)] - span.start
        if len(gone):
            stays = np.ones(span.stop - span.start, dtype=bool)
            stays[gone] = False
            found = without(found, number, stays)
    return found


def without(network: Network, number: int, stays: Array) -> Network:
    """The network with those ReLUs of a layer alone, of bool [size], that stay. Raises Refused where it would not be equal."""
    try:
        return _without(network, network.layers[number], stays)
    except Refused as problem:
        raise Refused(f"layer {number} cannot be merged: {problem}") from None


def _without(network: Network, layer: Layer, stays: Array) -> Network:
    if layer.kind != "relu" or _readers(network, layer.operand) != [layer.node]:
        raise Refused("it is not of ReLUs alone, or something else reads their pre-activations")
    if layer.node == len(network.nodes) - 1:
        raise Refused("it is the output")
    if not stays.any():
        raise Refused("nothing is left of it")
    pre = network.nodes[layer.operand]
    if not isinstance(pre, Affine) or len(pre.operands) != 1:
        raise Refused("its pre-activations are not one map of one value")
    ((mapping, source),) = pre.operands
    kinds = _Kinds(_matrix(mapping), _numbers(pre.bias), stays)
    nodes = list(network.nodes)
    nodes[layer.operand] = Affine(
        ((_dense(_matrix(mapping)[:, stays]), source),), pre.bias[stays], (int(stays.sum()),)
    )
    nodes[layer.node] = replace(network.nodes[layer.node], shape=(int(stays.sum()),))
    for reader in _readers(network, layer.node):
        nodes[reader] = _reader(network.nodes[reader], layer.node, source, kinds)
    return replace(network, nodes=tuple(nodes))


def _readers(network: Network, node: int) -> list[int]:
    return [index for index, other in enumerate(network.nodes) if node in other.sources]


def _numbers(array: Array) -> Array:
    """The same, refused unless they are finite numbers of float64."""
    if array.dtype != np.float64 or not np.isfinite(array).all():
        raise Refused("a coefficient is not finite, or no float64 number")
    return array


def _matrix(mapping: Map) -> Array:
    """A dense map's [k, m]."""
    if not isinstance(mapping, Dense) or mapping.rows != 1 or len(mapping.weight) != 1:
        raise Refused("a map before or behind it is no single matrix")
    return _numbers(mapping.weight[0])


def _dense(matrix: Array) -> Dense:
    return Dense(matrix[None], 1)


class _Kinds:
    """A layer's neurons, those together whose pre-activations are equal or opposite; of each kind one stands for it, which stays if any does.

    weight [k, kinds], bias [kinds]: of the pre-activations of these. stays [kinds]: which of them stay.
    """

    def __init__(self, weight: Array, bias: Array, stays: Array) -> None:
        rows = np.concatenate([weight, bias[None]]).T
        places = np.arange(len(rows))
        negative = rows[places, (rows != 0).argmax(1)] < 0
        # a 0 with a sign has other bytes
        turned = rows * np.where(negative, -1.0, 1.0)[:, None] + 0.0
        known: dict[bytes, int] = {}
        for place in places[stays].tolist():
            if known.setdefault(turned[place].tobytes(), place) != place:
                raise Refused("two neurons that stay are alike")
        of = np.array([known.setdefault(row.tobytes(), place) for place, row in enumerate(turned)])
        self._opposite = negative != negative[of]
        self._order = np.argsort(of, kind="stable")
        first, self._starts = np.unique(of[self._order], return_index=True)
        self.weight, self.bias, self.stays = weight[:, first], bias[first], stays[first]

    def summed(self, columns: Array) -> tuple[Array, Array]:
        """What reads the neurons ([size, m]) as what reads one ReLU of each kind, and one pre-activation ([kinds, m] each)."""
        size, own, through = (
            np.add.reduceat(part[self._order], self._starts, axis=0)
            for part in (np.abs(columns), columns, np.where(self._opposite[:, None], -columns, 0.0))
        )
        unit = np.minimum.reduceat(_units(columns)[self._order], self._starts, axis=0)
        _check(size, unit)
        return own, through


def _reader(node: Node, relu: int, source: int, kinds: _Kinds) -> Affine:
    """A node that reads the layer: of the ReLUs that stay, and of what their pre-activations are computed from."""
    if not isinstance(node, Affine):
        raise Refused("an activation reads it")
    operands: list[tuple[Map, int]] = []
    bias = _numbers(node.bias)
    for mapping, operand in node.operands:
        if operand != relu:
            operands.append((mapping, operand))
            continue
        own, through = kinds.summed(_matrix(mapping))
        if own[~kinds.stays].any():
            raise Refused("a neuron that is left out is like none that stays, and is read")
        terms, shift = np.concatenate([through.T, bias[:, None]], 1), np.append(kinds.bias, 1.0)
        bias = _product(terms, shift[:, None])[:, 0]
        operands.append((_dense(own[kinds.stays]), relu))
        before = _product(through.T, kinds.weight.T)
        if before.any():
            operands.append((_dense(before.T), source))
    return Affine(tuple(operands), bias, node.shape)


def _product(left: Array, right: Array) -> Array:
    """left @ right, no sum of which is rounded in any order. Refused where one might be: of few terms each is looked at, else all alike."""
    used = left != 0
    terms = int(used.sum(1).max())
    if terms > _MOST_TERMS:
        with np.errstate(over="ignore"):
            size = np.abs(left) @ np.abs(right)
        _check(size, _units(left).min() + _units(right).min())
        product: Array = left @ right
        return product
    places = np.argsort(~used, axis=1, kind="stable")[:, :terms]
    factors, units = np.take_along_axis(left, places, 1), _units(right)
    size, product = np.zeros((2, len(left), right.shape[1]))
    unit = np.full(size.shape, np.inf)
    with np.errstate(over="ignore", invalid="ignore"):
        for place, factor, own in zip(places.T, factors.T, _units(factors).T, strict=True):
            part = factor[:, None] * right[place]
            product += part
            size += np.abs(part)
            unit = np.minimum(unit, own[:, None] + units[place])
    _check(size, unit)
    return product


def _check(size: Array, unit: Array) -> None:
    """Refused where sums of multiples of 2^unit may be no float64 numbers.

    size: what the sizes of the terms add up to, which may be rounded itself, or 0 if they are tiny.
    """
    short = np.isfinite(size) & ((size == 0) | (np.frexp(size)[1] <= unit + _BITS))
    if not (short & (unit > _LEAST)).all():
        raise Refused("a new coefficient may be no float64 number")


def _units(numbers: Array) -> Array:
    """The exponents of the greatest powers of two that numbers are multiples of; of 0 it is infinite."""
    some = numbers != 0
    fraction, exponent = np.frexp(numbers[some])
    whole = np.ldexp(fraction, 53).astype(np.int64)
    found = np.full(numbers.shape, np.inf)
    found[some] = np.frexp((whole & -whole).astype(np.float64))[1] - 1 + exponent - 53
    return found
