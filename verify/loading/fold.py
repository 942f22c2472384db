"""Peephole folding: consecutive affine maps become one, where that costs nothing and no other node sees the
value between.

Folding computes new weights in float64, each as one product, which rounds at 1e-16 of its size, and new biases as
sums, whose terms may cancel: so a folded map remembers the sizes of those terms (`bias_size`), and the errors of
folding are charged like those of any sum (`Network.bias_sizes`). Products of matrices, whose weights are themselves
sums, are not folded. It is a step of its own, `load(fold=False)` leaves it out, and it is conservative: no fold
increases the number of weights, and only these pairs fold (first, then second):

* Dense or Convolution, then Scale: batch normalisation, added biases;
* Scale, then Dense or an unpadded Convolution: normalisation of the inputs;
* Scale, then Scale; Reshape, then Reshape; Permute, then Permute;
* Scale, then Reshape: exchanged, so that the scale meets the next matrix.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from verify.deadline import tick
from verify.loading.builder import prune
from verify.network.affine import Affine, Dense, Reshape, Scale, Shape
from verify.network.convolution import Convolution
from verify.network.graph import Network, Node
from verify.network.moves import Permute


class _Pair(NamedTuple):
    """Two maps in a row with the sample shapes before, between and after them."""

    first: Any
    second: Any
    before: Shape
    between: Shape
    after: Shape


class _Step(NamedTuple):
    operator: Affine
    shape: Shape


Fold = Callable[[_Pair], "list[_Step] | None"]


def fold(network: Network) -> Network:
    """An equal network of fewer nodes; see the head of this file."""
    while True:
        folded = _one_pass(network)
        if folded is None:
            return network
        network = folded


def _one_pass(network: Network) -> Network | None:
    """The network after all folds found from front to back; None if there are none."""
    consumers = Counter(operand for node in network.nodes for operand in node.operands)
    nodes: list[Node] = [network.nodes[0]]
    place, uses, changed = {0: 0}, {0: 2}, False  # `uses` of new nodes; the input is never folded away
    last = len(network.nodes) - 1
    for index, node in enumerate(network.nodes[1:], start=1):
        tick()
        operands = tuple(place[operand] for operand in node.operands)
        if isinstance(node.operator, Reshape) and nodes[operands[0]].shape == node.shape and index < last:
            place[index], changed = operands[0], True
            uses[operands[0]] += consumers[index] - 1
            continue
        steps = _folded(nodes, operands, node) if len(operands) == 1 and uses[operands[0]] == 1 else None
        if steps is None:
            nodes.append(replace(node, operands=operands))
        else:
            changed, source = True, nodes[operands[0]].operands
            for number, step in enumerate(steps, start=1):
                name = node.name if number == len(steps) else f"{node.name}#{number}"
                nodes.append(Node(step.operator, source, step.shape, name))
                source = (len(nodes) - 1,)
        place[index] = len(nodes) - 1
        uses[len(nodes) - 1] = consumers[index]
    return prune(nodes, place[last]) if changed else None


def _folded(nodes: list[Node], operands: tuple[int, ...], node: Node) -> list[_Step] | None:
    """What replaces the pair of a node and its only operand."""
    previous = nodes[operands[0]]
    rule = FOLDS.get((type(previous.operator), type(node.operator)))
    if rule is None:
        return None
    before = nodes[previous.operands[0]].shape
    return rule(_Pair(previous.operator, node.operator, before, previous.shape, node.shape))


# helpers


def _along(tensor: Tensor | None, shape: Shape, axis: int) -> Tensor | None:
    """`tensor`, broadcast to `shape`, as the vector along `axis` if it varies along that alone; else None."""
    if tensor is None:
        return torch.zeros(shape[axis], dtype=torch.float64)
    axis %= len(shape)
    padded = tensor.reshape(*(1,) * (len(shape) - tensor.dim()), *tensor.shape)
    for other in range(len(shape)):
        if other != axis and padded.shape[other] > 1:
            one = padded.narrow(other, 0, 1)
            if not torch.equal(padded, one.expand_as(padded)):
                return None
            padded = one
    return padded.flatten().expand(shape[axis])


class _Vectors(NamedTuple):
    """Factor, bias and the size of the bias's terms of a Scale, along one axis."""

    factor: Tensor
    bias: Tensor
    size: Tensor


def _sizes(operator: Any) -> Tensor | None:
    """The sizes of the terms that an operator's bias is made of."""
    if operator.bias_size is not None:
        return cast(Tensor, operator.bias_size)
    return None if operator.bias is None else operator.bias.abs()


def _affected(scale: Scale, shape: Shape, axis: int) -> _Vectors | None:
    """A Scale's numbers as vectors along an axis, if they are that."""
    vectors = [_along(tensor, shape, axis) for tensor in (scale.factor, scale.bias, _sizes(scale))]
    return None if any(vector is None for vector in vectors) else _Vectors(*cast("list[Tensor]", vectors))


def _scaled(bias: Tensor | None, factor: Tensor, shift: Tensor) -> Tensor | None:
    """factor * bias + shift, None for zeros."""
    result = shift if bias is None else bias * factor + shift
    return result.clone() if bool((result != 0).any()) else None


def _moved(
    second: Any, per_input: Tensor, shift: Tensor, size: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """The bias behind a matrix `per_input` whose operand is shifted, and the sizes of its terms."""
    outputs = per_input.shape[0]
    own = torch.zeros(outputs, dtype=torch.float64)
    bias, sizes = (
        (own if second.bias is None else second.bias),
        (_sizes(second) if second.bias is not None else own),
    )
    one = torch.ones_like(own)
    return _scaled(bias, one, per_input @ shift), _scaled(sizes, one, per_input.abs() @ size)


# the folds


def _dense_scale(pair: _Pair) -> list[_Step] | None:
    first, second = pair.first, pair.second
    vectors = _affected(second, pair.between, -1)
    if vectors is None or pair.after != pair.between:
        return None
    factor, shift, size = vectors
    bias, sizes = _scaled(first.bias, factor, shift), _scaled(_sizes(first), factor.abs(), size)
    return [_Step(Dense(first.weight * factor[:, None], bias, sizes), pair.after)]


def _convolution_scale(pair: _Pair) -> list[_Step] | None:
    first, second = pair.first, pair.second
    rank = first.weight.dim() - 2
    vectors = _affected(second, pair.between, -1 - rank)
    if vectors is None or pair.after != pair.between:
        return None
    factor, shift, size = vectors
    weight = first.weight
    if first.transposed:  # [in, out / groups, ..]: the outputs of a group are on axis 1
        grouped = weight.reshape(first.groups, -1, *weight.shape[1:])
        scaled = grouped * factor.reshape(first.groups, 1, -1, *(1,) * rank)
        weight = scaled.reshape(weight.shape)
    else:
        weight = weight * factor.reshape(-1, *(1,) * (rank + 1))
    bias, sizes = _scaled(first.bias, factor, shift), _scaled(_sizes(first), factor.abs(), size)
    return [_Step(replace(first, weight=weight, bias=bias, bias_size=sizes), pair.after)]


def _scale_dense(pair: _Pair) -> list[_Step] | None:
    first, second = pair.first, pair.second
    vectors = _affected(first, pair.between, -1)
    if vectors is None or pair.before != pair.between:
        return None
    factor, shift, size = vectors
    bias, sizes = _moved(second, second.weight, shift, size)
    return [_Step(Dense(second.weight * factor, bias, sizes), pair.after)]


def _scale_convolution(pair: _Pair) -> list[_Step] | None:
    first, second = pair.first, pair.second
    rank = second.weight.dim() - 2
    vectors = _affected(first, pair.between, -1 - rank)
    if vectors is None or pair.before != pair.between or second.transposed or second.groups != 1:
        return None
    factor, shift, size = vectors
    if any(second.padding) and bool((shift != 0).any()):
        return None  # the padded zeros are not shifted
    taps = second.weight.flatten(2)  # [outputs, inputs, taps]: every tap sees the shift
    repeats = taps.shape[2]
    bias, sizes = _moved(
        second, taps.flatten(1), shift.repeat_interleave(repeats), size.repeat_interleave(repeats)
    )
    weight = second.weight * factor.reshape(-1, *(1,) * rank)
    return [_Step(replace(second, weight=weight, bias=bias, bias_size=sizes), pair.after)]


def _scale_scale(pair: _Pair) -> list[_Step] | None:
    first, second = pair.first, pair.second
    if not pair.before == pair.between == pair.after:
        return None

    def summed(own: Tensor | None, factor: Tensor, other: Tensor | None) -> Tensor | None:
        parts = [part for part in (None if own is None else own * factor, other) if part is not None]
        return parts[0] + parts[-1] if len(parts) == 2 else next(iter(parts), None)

    bias = summed(first.bias, second.factor, second.bias)
    sizes = summed(_sizes(first), second.factor.abs(), _sizes(second))
    after = Scale(first.factor * second.factor, bias, sizes)
    return [_Step(after, pair.after)] if _numbers(after) <= _numbers(first) + _numbers(second) else None


def _numbers(scale: Scale) -> int:
    return scale.factor.numel() + (0 if scale.bias is None else scale.bias.numel())


def _reshape_reshape(pair: _Pair) -> list[_Step]:
    return [_Step(Reshape(pair.before, pair.after), pair.after)]


def _permute_permute(pair: _Pair) -> list[_Step]:
    axes = tuple(pair.first.axes[axis] for axis in pair.second.axes)
    identity = axes == tuple(range(len(axes)))
    return [_Step(Reshape(pair.before, pair.after) if identity else Permute(axes), pair.after)]


def _scale_reshape(pair: _Pair) -> list[_Step] | None:
    if pair.before != pair.between:
        return None

    def moved(tensor: Tensor) -> Tensor:
        if tensor.numel() == 1:
            return tensor.reshape(())
        return tensor.expand(pair.between).reshape(pair.after)

    first = pair.first
    bias, sizes = (None if tensor is None else moved(tensor) for tensor in (first.bias, first.bias_size))
    scale = Scale(moved(first.factor), bias, sizes)
    if _numbers(scale) > _numbers(first) and math.prod(pair.after) != pair.after[-1]:
        return None  # it would grow, and no matrix behind could take it
    return [_Step(Reshape(pair.before, pair.after), pair.after), _Step(scale, pair.after)]


FOLDS: dict[tuple[type, type], Fold] = {
    (Convolution, Scale): _convolution_scale,
    (Dense, Scale): _dense_scale,
    (Permute, Permute): _permute_permute,
    (Reshape, Reshape): _reshape_reshape,
    (Scale, Convolution): _scale_convolution,
    (Scale, Dense): _scale_dense,
    (Scale, Reshape): _scale_reshape,
    (Scale, Scale): _scale_scale,
}
