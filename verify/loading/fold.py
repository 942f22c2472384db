"""Peephole folding: consecutive affine maps become one, where that costs nothing and no other node sees the
value between.

Folding computes new weights in float64, which rounds at 1e-16 of their size (unless a factor is 1, as for a
bias added behind a matrix product: that is exact). So it is a step of its own, `load(fold=False)` leaves it
out, and it is conservative: no fold increases the number of weights, and only these pairs fold (first, then
second):

* Dense or Convolution, then Scale: batch normalisation, added biases;
* Scale, then Dense or an unpadded Convolution: normalisation of the inputs;
* Scale, then Scale; Dense, then Dense (if that has no more weights); Reshape, then Reshape; Permute, then
  Permute;
* Scale, then Reshape: exchanged, so that the scale meets the next matrix.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from verify.loading.builder import prune
from verify.network.affine import Affine, Convolution, Dense, Permute, Reshape, Scale, Shape
from verify.network.graph import Network, Node


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


def _affected(factor: Tensor, shift: Tensor | None, shape: Shape, axis: int) -> tuple[Tensor, Tensor] | None:
    """Factor and shift of a Scale as vectors along an axis, if they are that."""
    factors, shifts = _along(factor, shape, axis), _along(shift, shape, axis)
    return None if factors is None or shifts is None else (factors, shifts)


def _bias(bias: Tensor | None, factor: Tensor, shift: Tensor) -> Tensor | None:
    """factor * bias + shift, None for zeros."""
    result = shift if bias is None else bias * factor + shift
    return result.clone() if bool((result != 0).any()) else None


# the folds


def _dense_scale(pair: _Pair) -> list[_Step] | None:
    first, second = pair.first, pair.second
    vectors = _affected(second.factor, second.shift, pair.between, -1)
    if vectors is None or pair.after != pair.between:
        return None
    factor, shift = vectors
    return [_Step(Dense(first.weight * factor[:, None], _bias(first.bias, factor, shift)), pair.after)]


def _convolution_scale(pair: _Pair) -> list[_Step] | None:
    first, second = pair.first, pair.second
    rank = first.weight.dim() - 2
    vectors = _affected(second.factor, second.shift, pair.between, -1 - rank)
    if vectors is None or pair.after != pair.between:
        return None
    factor, shift = vectors
    weight = first.weight
    if first.transposed:  # [in, out / groups, ..]: the outputs of a group are on axis 1
        grouped = weight.reshape(first.groups, -1, *weight.shape[1:])
        scaled = grouped * factor.reshape(first.groups, 1, -1, *(1,) * rank)
        weight = scaled.reshape(weight.shape)
    else:
        weight = weight * factor.reshape(-1, *(1,) * (rank + 1))
    return [_Step(replace(first, weight=weight, bias=_bias(first.bias, factor, shift)), pair.after)]


def _scale_dense(pair: _Pair) -> list[_Step] | None:
    first, second = pair.first, pair.second
    vectors = _affected(first.factor, first.shift, pair.between, -1)
    if vectors is None or pair.before != pair.between:
        return None
    factor, shift = vectors
    own = torch.zeros(second.weight.shape[0], dtype=torch.float64) if second.bias is None else second.bias
    moved = second.weight @ shift
    return [_Step(Dense(second.weight * factor, _bias(own, torch.ones_like(own), moved)), pair.after)]


def _scale_convolution(pair: _Pair) -> list[_Step] | None:
    first, second = pair.first, pair.second
    rank = second.weight.dim() - 2
    vectors = _affected(first.factor, first.shift, pair.between, -1 - rank)
    if vectors is None or pair.before != pair.between or second.transposed or second.groups != 1:
        return None
    factor, shift = vectors
    if any(second.padding) and bool((shift != 0).any()):
        return None  # the padded zeros are not shifted
    outputs = second.weight.shape[0]
    own = torch.zeros(outputs, dtype=torch.float64) if second.bias is None else second.bias
    moved = second.weight.flatten(2).sum(dim=2) @ shift
    weight = second.weight * factor.reshape(-1, *(1,) * rank)
    return [_Step(replace(second, weight=weight, bias=_bias(own, torch.ones_like(own), moved)), pair.after)]


def _scale_scale(pair: _Pair) -> list[_Step] | None:
    first, second = pair.first, pair.second
    if not pair.before == pair.between == pair.after:
        return None
    factor = first.factor * second.factor
    shifts = [first.shift * second.factor] if first.shift is not None else []
    shifts += [second.shift] if second.shift is not None else []
    shift = shifts[0] + shifts[-1] if len(shifts) == 2 else next(iter(shifts), None)
    before = _numbers(first) + _numbers(second)
    after = Scale(factor, shift)
    return [_Step(after, pair.after)] if _numbers(after) <= before else None


def _numbers(scale: Scale) -> int:
    return scale.factor.numel() + (0 if scale.shift is None else scale.shift.numel())


def _dense_dense(pair: _Pair) -> list[_Step] | None:
    first, second = pair.first, pair.second
    if second.weight.shape[0] * first.weight.shape[1] > second.weight.numel() + first.weight.numel():
        return None
    bias = second.bias
    if first.bias is not None:
        moved = second.weight @ first.bias
        bias = moved if bias is None else moved + bias
    return [_Step(Dense(second.weight @ first.weight, bias), pair.after)]


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
    scale = Scale(moved(first.factor), None if first.shift is None else moved(first.shift))
    if _numbers(scale) > _numbers(first) and math.prod(pair.after) != pair.after[-1]:
        return None  # it would grow, and no matrix behind could take it
    return [_Step(Reshape(pair.before, pair.after), pair.after), _Step(scale, pair.after)]


FOLDS: dict[tuple[type, type], Fold] = {
    (Convolution, Scale): _convolution_scale,
    (Dense, Dense): _dense_dense,
    (Dense, Scale): _dense_scale,
    (Permute, Permute): _permute_permute,
    (Reshape, Reshape): _reshape_reshape,
    (Scale, Convolution): _scale_convolution,
    (Scale, Dense): _scale_dense,
    (Scale, Reshape): _scale_reshape,
    (Scale, Scale): _scale_scale,
}
