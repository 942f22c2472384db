"""The same network with one ReLU for all that have equal or opposite pre-activations.

`relu(-p)` is `relu(p) - p`. Absolute values, maxima and minima that are written with ReLUs have such pairs, concatenated ReLUs nothing else:
relaxed each alone, `relu(p) - relu(-p)` is an interval where it is `p`. Rewritten only where all new weights are exact, so that it is the
same function.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from verify.network.activations.relu import Relu
from verify.network.affine import Combine, Dense
from verify.network.exactness import BITS, unit_exponent
from verify.network.graph import Layer, Network, Node
from verify.network.reduced import between_dense, readers_of

_SPREAD = 0x1E3779B97F4A7C15  # the golden ratio's bits, which multiples of differ in many places
_LEAST = -1000  # exponent of a product that float64 has whole


def without_opposites(network: Network) -> Network:
    """An equal network, of no more neurons; one and the same where nothing is to be gained."""
    readers = readers_of(network)
    # a layer changes what is behind it alone: from the last on, indices stay what they were
    for layer in reversed(network.layers):
        if type(layer.activation) is Relu and between_dense(network, layer, readers):
            without = _without(network, layer, readers[layer.node])
            if without is not None:
                network, readers = without, readers_of(without)
    return network


def _without(network: Network, layer: Layer, readers: list[int]) -> Network | None:
    """A ReLU of each kind in that layer; None where each is of its own, or the new weights would have to be rounded."""
    dense = network.nodes[layer.pre_node].operator
    assert isinstance(dense, Dense)
    rows = dense.weight if dense.bias is None else torch.cat([dense.weight, dense.bias[:, None]], 1)
    first, of, opposite = _alike(rows)
    if len(first) == len(rows) or dense.bias_size is not None:
        return None
    maps = {}
    for reader in readers:
        read = network.nodes[reader].operator
        assert isinstance(read, Dense)
        found = _read(read, dense, first, of, opposite)
        if found is None:
            return None
        maps[reader] = found
    used = torch.stack([(own.weight != 0).any(0) for own, _ in maps.values()]).any(0)
    used[0] |= ~used.any()  # no layer is empty
    return _rewritten(network, layer, dense, first[used], used, maps)


def _alike(rows: Float[Tensor, "rows columns"]) -> tuple[Tensor, Tensor, Tensor]:
    """The first row of each kind that is equal up to its sign, each row's kind, and whether it is the first one's opposite.

    Rows that share a digest by chance, and are not alike, are each of a kind of its own.
    """
    place = torch.arange(len(rows), device=rows.device)
    at, column = rows.nonzero(as_tuple=True)
    values = rows[at, column]
    opens = torch.ones_like(at, dtype=torch.bool)
    opens[1:] = at[1:] != at[:-1]
    negative = torch.zeros_like(place, dtype=torch.bool)
    negative[at[opens]] = values[opens] < 0
    bits = torch.where(negative[at], -values, values).double().view(torch.int64)
    mixed = torch.arange(1, rows.shape[1] + 1, device=rows.device) * _SPREAD
    odd = (mixed ^ (mixed >> 29)) * 2 + 1
    # short numbers differ in their upper bits alone
    digest = place.new_zeros(len(rows)).index_add_(0, at, (bits ^ (bits >> 32)) * odd[column])
    _, of = digest.unique(return_inverse=True)
    first = place.new_full((len(rows),), len(rows)).scatter_reduce_(0, of, place, "amin")[of]
    opposite = negative != negative[first]
    later = (first != place).nonzero()[:, 0]
    expected = torch.where(opposite[later, None], -rows[first[later]], rows[first[later]])
    first[later] = torch.where((rows[later] == expected).all(1), first[later], later)
    kinds, of = first.unique(return_inverse=True)
    return kinds, of, opposite & (first != place)


def _read(
    read: Dense,
    dense: Dense,
    first: Int[Tensor, " kinds"],
    of: Int[Tensor, " rows"],
    opposite: Bool[Tensor, " rows"],
) -> tuple[Dense, Dense] | None:
    """A map of all ReLUs as one of each kind's first ReLU and one of the operand of `dense`; None where that takes rounding."""
    none = read.weight.new_zeros(len(read.weight), len(first))
    own = none.index_add(1, of, read.weight)
    through = none.index_add(1, of[opposite], -read.weight[:, opposite])
    rows, bias = dense.weight[first], read.bias
    exact = _exact(read.weight, torch.ones_like(read.weight[:1].mT)) and _exact(through, rows)
    if not exact or read.bias_size is not None:
        return None
    if dense.bias is not None:
        terms = torch.cat([through, (none.new_zeros(len(none)) if bias is None else bias)[:, None]], 1)
        factors = torch.cat([dense.bias[first], none.new_ones(1)])[:, None]
        if not _exact(terms, factors):
            return None
        bias = _product(terms, factors)[:, 0]
    return replace(read, weight=own, bias=bias), Dense(_product(through, rows))


def _exact(left: Float[Tensor, "rows inner"], right: Float[Tensor, "inner columns"]) -> bool:
    """Whether no sum of a product of matrices is rounded, in any order."""
    largest = float(_product(left.abs(), right.abs()).amax())
    if largest == 0 or not math.isfinite(largest):
        return largest == 0
    unit = sum(float(unit_exponent(part[part != 0][None])) for part in (left, right))
    # a bit to spare, for `largest` may be rounded itself
    return unit > _LEAST and math.log2(largest) < unit + BITS - 1


def _product(left: Tensor, right: Tensor) -> Tensor:
    """As quick as a map of few numbers."""
    return Dense(right).transpose(left)[0]


def _rewritten(
    network: Network,
    layer: Layer,
    dense: Dense,
    rows: Int[Tensor, " kept"],
    used: Bool[Tensor, " kinds"],
    maps: dict[int, tuple[Dense, Dense]],
) -> Network:
    nodes: list[Node] = []
    place: dict[int, int] = {}
    for index, node in enumerate(network.nodes):
        operands = tuple(place[operand] for operand in node.operands)
        if index == layer.pre_node:
            some = Dense(dense.weight[rows], None if dense.bias is None else dense.bias[rows])
            nodes.append(Node(some, operands, (*node.shape[:-1], len(rows)), node.name))
        elif index == layer.node:
            nodes.append(replace(node, operands=operands, shape=(*node.shape[:-1], len(rows))))
        elif index in maps:
            own, through = maps[index]
            nodes.append(replace(node, operator=replace(own, weight=own.weight[:, used]), operands=operands))
            if bool((through.weight != 0).any()):
                before = nodes[place[layer.pre_node]].operands
                both = (len(nodes) - 1, len(nodes))
                nodes.append(Node(through, before, node.shape, node.name))
                nodes.append(Node(Combine((1, 1)), both, node.shape, node.name))
        else:
            nodes.append(replace(node, operands=operands))
        place[index] = len(nodes) - 1
    return replace(network, nodes=tuple(nodes))
