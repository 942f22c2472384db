"""The same network with one ReLU for all that have equal or opposite pre-activations.

`relu(-p)` is `relu(p) - p`. Absolute values, maxima and minima that are written with ReLUs have such pairs, and so have ReLUs that were split:
relaxed each alone, `relu(p) - relu(-p)` is an interval where it is `p`. Neurons are rows of dense maps that dense maps read, or channels of
convolutions that are mixed place by place. Rewritten only where all new weights are exact, so that it is the same function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from verify.network.activations import Activation
from verify.network.activations.relu import Relu
from verify.network.affine import Affine, Combine, Dense, Shape
from verify.network.convolution import Convolution
from verify.network.exactness import BITS, unit_exponent
from verify.network.graph import Layer, Network, Node
from verify.network.reduced import readers_of

Map = Dense | Convolution
# of a layer's number, and its rows or channels that stay, whether it is to be
Agreed = Callable[[int, Int[Tensor, " kept"]], bool]
_SPREAD = 0x1E3779B97F4A7C15  # the golden ratio's bits, which multiples of differ in many places
_LEAST = -1000  # exponent of a product that float64 has whole
_MOST_TERMS = 32  # of sums that are looked at each


def without_opposites(network: Network, agreed: Agreed | None = None) -> Network:
    """An equal network, of no more neurons; one and the same where nothing is to be gained.

    agreed: asked of each layer, the last first; ReLUs of ReLUs stay as they are then, and one neuron of each layer.
    """
    readers = readers_of(network)
    # a layer changes what is behind it alone: from the last on, indices stay what they were
    for number, layer in reversed([*enumerate(network.layers)]):
        if type(layer.activation) is Relu and readers[layer.pre_node] == [layer.node]:
            without = _without(network, layer, readers, agreed and partial(agreed, number))
            if without is not None:
                network, readers = without, readers_of(without)
    return network


def _without(
    network: Network, layer: Layer, readers: list[list[int]], agreed: Callable[[Tensor], bool] | None
) -> Network | None:
    """A ReLU of each kind in that layer; None where each is of its own, new weights would be rounded, or it is not agreed to."""
    own = network.nodes[layer.pre_node].operator
    if not isinstance(own, Map) or not _plain(own) or not readers[layer.node]:
        return None
    first, of, opposite = _alike(torch.cat([own.weight.flatten(1), _bias(own)[:, None]], 1))
    if len(first) == len(of):
        return None
    maps = {}
    for reader in readers[layer.node]:
        read = _reading(network.nodes[reader].operator, own)
        behind = [network.nodes[index].operator for index in readers[reader]]
        again = agreed is None and bool(behind) and all(type(operator) is Relu for operator in behind)
        known = None if read is None else _read(read, own, first, of, opposite, again)
        if known is None:
            return None
        maps[reader] = known
    used = torch.stack([(known.own != 0).any(0) for known in maps.values()]).any(0)
    if agreed is not None:
        used[0] |= ~used.any()  # no layer goes for good
        if not agreed(first[used]):
            return None
    return _rewritten(network, layer, own, first[used], used, maps)


def _plain(operator: Map) -> bool:
    """Whether each neuron (of each place) is one row of weights and a bias that was not rounded."""
    if isinstance(operator, Convolution) and (operator.transposed or operator.groups > 1):
        return False
    size, bias = operator.bias_size, operator.bias
    return size is None or (bias is not None and torch.equal(size, bias.abs()))


def _reading(read: Affine | Activation | None, own: Map) -> Map | None:
    """A map whose values are each of a single place, with a column for each row of `own`; None of another."""
    if isinstance(own, Dense):
        return read if isinstance(read, Dense) and _plain(read) else None
    if not isinstance(read, Convolution) or read.weight.dim() != own.weight.dim() or not _plain(read):
        return None
    return (
        read if read.weight[0, 0].numel() == 1 and {*read.stride} == {1} and not any(read.padding) else None
    )


def _bias(operator: Map) -> Float[Tensor, " rows"]:
    return operator.weight.new_zeros(len(operator.weight)) if operator.bias is None else operator.bias


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


class _Read(NamedTuple):
    """What a map makes of all ReLUs: of each kind's first ReLU, and of what the rows are of, with a bias."""

    own: Float[Tensor, "rows kinds"]
    straight: Float[Tensor, "rows columns"]
    bias: Float[Tensor, " rows"] | None


def _read(
    read: Map,
    own: Map,
    first: Int[Tensor, " kinds"],
    of: Int[Tensor, " rows"],
    opposite: Bool[Tensor, " rows"],
    again: bool,
) -> _Read | None:
    """None where that takes rounding. again: ReLUs alone read it: a ReLU that it only scales is left to them."""
    weight = read.weight.flatten(1)
    none = weight.new_zeros(len(weight), len(first))
    kept = none.index_add(1, of, weight)
    through = none.index_add(1, of[opposite], -weight[:, opposite])
    if again:
        scaled = ((kept != 0).sum(1) == 1) & (kept >= 0).all(1) & ~through.any(1) & (_bias(read) == 0)
        through = torch.where(scaled[:, None], kept, through)
        kept = torch.where(scaled[:, None], 0.0, kept)
    rows, bias = own.weight.flatten(1)[first], read.bias
    members = functional.one_hot(of, len(first)).to(weight).mT
    if not (_exact(members, weight.mT) and _exact(through, rows)):
        return None
    if own.bias is not None:
        terms = torch.cat([through, _bias(read)[:, None]], 1)
        factors = torch.cat([own.bias[first], none.new_ones(1)])[:, None]
        if not _exact(terms, factors):
            return None
        bias = _product(terms, factors)[:, 0]
    return _Read(kept, _product(through, rows), bias)


def _exact(left: Float[Tensor, "rows inner"], right: Float[Tensor, "inner columns"]) -> bool:
    """Whether no sum of a product of matrices is rounded, in any order: what its terms are multiples of is small beside their sizes' sum.

    Of all sums alike or, where that does not do and terms are few, of each.
    """
    size = _product(left.abs(), right.abs())
    # most are 0
    least = [unit_exponent(torch.cat([part[part != 0], part.new_zeros(1)])[None]) for part in (left, right)]
    if bool(_short(size.amax()[None], least[0] + least[1])):
        return True
    used = left != 0
    terms = int(used.sum(1).amax())
    if terms > _MOST_TERMS:
        return False
    places = (~used).to(torch.uint8).argsort(dim=1, stable=True)[:, :terms]
    of_left, of_right = (
        unit_exponent(part.reshape(-1, 1)).reshape(part.shape) for part in (left.gather(1, places), right)
    )
    unit = torch.full_like(size, torch.inf)
    for place, own in zip(places.mT, of_left.mT, strict=True):
        unit = torch.minimum(unit, own[:, None] + of_right[place])
    return bool(_short(size, unit).all())


def _short(size: Tensor, unit: Tensor) -> Bool[Tensor, "*shape"]:
    """Whether sums of multiples of 2^unit are exact whose sizes add up to `size`, which may be rounded itself, or to 0 if they are tiny."""
    return (unit > _LEAST) & (size.log2() < unit + BITS - 1)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """As quick as a map of few numbers."""
    return Dense(right).transpose(left)[0]


def _rewritten(
    network: Network,
    layer: Layer,
    own: Map,
    rows: Int[Tensor, " kept"],
    used: Bool[Tensor, " kinds"],
    maps: dict[int, _Read],
) -> Network:
    nodes: list[Node] = []
    place: dict[int, int] = {}
    left = bool(used.any())
    for index, node in enumerate(network.nodes):
        operands = tuple(place[operand] for operand in node.operands)
        if index == layer.pre_node:
            before = operands
            some = _with_rows(own, own.weight[rows], None if own.bias is None else own.bias[rows])
            new = [Node(some, operands, _resized(node.shape, own, len(rows)), node.name)] if left else []
        elif index == layer.node:
            new = [replace(node, operands=operands, shape=nodes[operands[0]].shape)] if left else []
        elif index in maps:
            new = _parts(node, maps[index], operands if left else (), before, own, used)
            if len(new) == 2:
                both = (len(nodes), len(nodes) + 1)
                new.append(Node(Combine((1, 1)), both, node.shape, node.name))
        else:
            new = [replace(node, operands=operands)]
        nodes += new
        place[index] = len(nodes) - 1
    return replace(network, nodes=tuple(nodes))


def _parts(
    node: Node,
    known: _Read,
    operands: tuple[int, ...],
    before: tuple[int, ...],
    own: Map,
    used: Bool[Tensor, " kinds"],
) -> list[Node]:
    """What a map is the sum of. operands: the ReLUs that are left, if any are; before: what these are of."""
    parts: list[Node] = []
    if operands:
        assert isinstance(node.operator, Map)
        parts.append(replace(node, operator=_of_kinds(node.operator, known, used), operands=operands))
    if not operands or bool(known.straight.any()):
        operator = _with_rows(own, known.straight, None if operands else known.bias)
        parts.append(Node(operator, before, node.shape, node.name))
    return parts


def _with_rows(own: Map, weight: Tensor, bias: Tensor | None) -> Map:
    return replace(own, weight=weight.reshape(len(weight), *own.weight.shape[1:]), bias=bias, bias_size=None)


def _of_kinds(read: Map, known: _Read, used: Bool[Tensor, " kinds"]) -> Map:
    weight = known.own[:, used]
    weight = weight.reshape(*weight.shape, *read.weight.shape[2:])
    changed = replace(read, weight=weight, bias=known.bias, bias_size=None)
    if isinstance(changed, Convolution):
        changed = replace(changed, input_shape=_resized(changed.input_shape, changed, weight.shape[1]))
    return changed


def _resized(shape: Shape, own: Map, rows: int) -> Shape:
    """A sample shape with so many neurons at each place."""
    axis = len(shape) - (1 if isinstance(own, Dense) else own.weight.dim() - 1)
    return (*shape[:axis], rows, *shape[axis + 1 :])
