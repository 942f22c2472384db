"""Builds the network IR value by value: the primitives that all lowering rules are written in.

A `Value` names a node of the network under construction and knows its sample shape. Every primitive drops
no-ops, so a chain of reshapes to the same shape leaves nothing behind. Constants are float64 tensors on the
CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from verify.loading import reindex
from verify.loading.sizes import check_size
from verify.network.activations.base import Activation
from verify.network.activations.convex import Rsqrt, Sqrt
from verify.network.activations.copy import Copy
from verify.network.activations.product import Product
from verify.network.activations.reciprocal import Reciprocal
from verify.network.activations.relu import Relu
from verify.network.activations.square import Square
from verify.network.affine import Affine, Combine, Constant, Dense, Reshape, Scale, Shape
from verify.network.convolution import Convolution
from verify.network.graph import Network, Node
from verify.network.moves import NonNegative, Permute

# the lower and upper ends of a box of inputs, which take their time
Hull = Callable[[], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Value:
    """A node of the network under construction."""

    node: int
    shape: Shape

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def stored(self) -> Shape:
        """The sample shape of the node: every value of the IR has an axis, so a scalar gets one."""
        return self.shape or (1,)


def broadcast_shape(*shapes: Sequence[int]) -> Shape:
    """The common shape of numpy's broadcasting."""
    return np.broadcast_shapes(*map(tuple, shapes))


class Builder:
    """Appends nodes; `label` names the ones added next."""

    def __init__(self, input_shape: Shape, name: str, box: Hull | None = None) -> None:
        """box: gives the least box that all inputs in question lie in, [inputs] each."""
        self.input = Value(0, input_shape)
        self.nodes: list[Node] = [Node(None, (), self.input.stored, name)]
        self.label = name
        self.whole: set[int] = set()  # nodes of integer tensors
        self.rounds = 0  # of loops that were unrolled
        self.box = box
        self.within: tuple[Tensor, Tensor] | None = (
            None  # that box, where the network is the model's there alone
        )
        self.casts: dict[int, int] = {}  # nodes of casts to integers, and what they cast
        self.ranges: dict[int, tuple[Tensor, Tensor]] = {}  # of nodes, whatever the input is (integers.py)

    def network(self, output: Value) -> Network:
        """The network that ends in `output`."""
        return prune(self.nodes, output.node)

    def rename(self, value: Value, name: str, since: int) -> None:
        """Gives `value` its ONNX name, if the operation at hand made it (`since`: its first node)."""
        if value.node >= since:
            self.nodes[value.node] = replace(self.nodes[value.node], name=name)

    def affine(self, operator: Affine, *operands: Value, shape: Shape | None = None) -> Value:
        """Appends an affine map; `shape` is found by trying unless given."""
        if shape is None:
            zeros = [torch.zeros(1, *operand.stored, dtype=torch.float64) for operand in operands]
            shape = tuple(operator.forward(*zeros).shape[1:])
        return self._append(operator, operands, shape)

    def activation(self, activation: Activation, x: Value, shape: Shape | None = None) -> Value:
        """Appends an activation."""
        return self._append(activation, (x,), x.shape if shape is None else shape)

    def _append(self, operator: Affine | Activation, operands: Sequence[Value], shape: Shape) -> Value:
        check_size(shape)
        indices = tuple(operand.node for operand in operands)
        self.nodes.append(Node(operator, indices, shape or (1,), f"{self.label}#{len(self.nodes)}"))
        return Value(len(self.nodes) - 1, shape)

    def constant(self, value: Tensor) -> Value:
        """A value that does not depend on the input."""
        shape = tuple(value.shape)
        stored = value.double().reshape(shape or (1,))
        return self.affine(Constant(stored, self.input.stored), self.input, shape=shape)

    # reindexings

    def reshape(self, x: Value, shape: Shape) -> Value:
        if x.stored == (shape or (1,)):
            return replace(x, shape=shape)
        return self.affine(Reshape(x.stored, shape or (1,)), x, shape=shape)

    def permute(self, x: Value, axes: Shape) -> Value:
        if axes == tuple(range(len(axes))):
            return x
        return self.affine(Permute(axes), x, shape=tuple(x.shape[axis] for axis in axes))

    def expand(self, x: Value, shape: Shape) -> Value:
        if x.shape == shape:
            return x
        if x.size == math.prod(shape):
            return self.reshape(x, shape)
        copies = math.prod(shape) // x.size
        return self.affine(NonNegative(reindex.Expand(shape), (x.stored,), copies, "expand"), x, shape=shape)

    def broadcast(self, *values: Value) -> list[Value]:
        """All values expanded to their common shape."""
        shape = broadcast_shape(*(value.shape for value in values))
        return [self.expand(value, shape) for value in values]

    def concatenate(self, values: Sequence[Value], axis: int) -> Value:
        if len(values) == 1:
            return values[0]
        shape = list(values[0].shape)
        shape[axis] = sum(value.shape[axis] for value in values)
        operator = NonNegative(
            reindex.Concatenate(axis % len(shape)), tuple(value.stored for value in values), 1, "concatenate"
        )
        return self.affine(operator, *values, shape=tuple(shape))

    def slice(self, x: Value, axis: int, start: int, stop: int) -> Value:
        """The entries `start:stop` along an axis."""
        bounds = [(0, size, 1) for size in x.shape]
        bounds[axis] = (start, stop, 1)
        return self.affine(NonNegative(reindex.Slice(tuple(bounds)), (x.stored,), 1, "slice"), x)

    def sum(self, x: Value, axes: Shape, keepdim: bool, mean: bool = False) -> Value:
        """The sum or mean over axes (>= 0)."""
        kept = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
        count = x.size // math.prod(kept)
        total = x
        if count > 1:
            operator = NonNegative(reindex.Sum(axes, mean), (x.stored,), count, "mean" if mean else "sum")
            total = self.affine(operator, x, shape=kept)
        return self.reshape(
            total, kept if keepdim else tuple(n for i, n in enumerate(x.shape) if i not in axes)
        )

    def gather(self, x: Value, index: Tensor) -> Value:
        """Entries of the flattened `x` in the shape of `index` (-1: zero), by the cheapest map for it."""
        return _cheapest_gather(self, x, index)

    # arithmetic

    def scale(
        self, x: Value, factor: Tensor | None, shift: Tensor | None = None, size: Tensor | None = None
    ) -> Value:
        """`factor * x + shift` with broadcasting; `size`: of the terms that the shift was computed from."""
        factor = torch.ones((), dtype=torch.float64) if factor is None else factor.double()
        shift = None if shift is None else shift.double()
        shapes = [x.shape, tuple(factor.shape), () if shift is None else tuple(shift.shape)]
        shape = broadcast_shape(*shapes)
        x = self.expand(x, shape)
        if bool((factor == 1).all()) and (shift is None or bool((shift == 0).all())):
            return x
        return self.affine(Scale(factor, shift, None if size is None else size.double()), x, shape=shape)

    def output(self, x: Value) -> Value:
        """The last node: an operator, so not the input itself."""
        return x if x.node else self.affine(Reshape(x.stored, x.stored), x, shape=x.shape)

    def combine(self, signs: tuple[int, ...], *values: Value) -> Value:
        """`sum_i signs_i values_i` with broadcasting."""
        values = tuple(self.broadcast(*values))
        return self.affine(Combine(signs), *values, shape=values[0].shape)

    def dense(self, x: Value, weight: Tensor, bias: Tensor | None = None) -> Value:
        """`x W^T + b` over the last axis."""
        if x.stored[-1] != weight.shape[1] or (bias is not None and bias.shape != weight.shape[:1]):
            raise ValueError(
                f"weights of shape {list(weight.shape)} do not fit an operand of {list(x.shape)}"
            )
        operator = Dense(weight.double(), None if bias is None else bias.double())
        return self.affine(operator, x, shape=(*x.shape[:-1], weight.shape[0]))

    def convolution(self, x: Value, operator: Convolution) -> Value:
        """A convolution of a value of its `input_shape`."""
        weight = operator.weight
        channels = weight.shape[0] if operator.transposed else weight.shape[1] * operator.groups
        if x.shape[1 - weight.dim()] != channels or min(operator.output_shape) < 0:
            raise ValueError(
                f"weights of shape {list(weight.shape)} do not fit an operand of {list(x.shape)}"
            )
        return self.affine(operator, x, shape=operator.output_shape)

    def product(self, a: Value, b: Value, shared: bool = False) -> Value:
        """The product of two variables: both factors side by side in one vector (see product.py).

        `shared`: their entries occur many times; they are bounded and cut before (see `copy`), not here.
        """
        a, b = self.broadcast(a, b)
        flat = [self.reshape(value, (value.size,)) for value in (a, b)]
        return self.activation(Product(shared), self.concatenate(flat, 0), shape=a.shape)

    def squares_and_products(self, a: Value, b: Value, shared: bool = False) -> Value:
        """As `product`, and a square wherever both factors are one and the same entry, moved: known not to be negative."""
        a, b = self.broadcast(a, b)
        (node, first), (other, second) = self._entries(a), self._entries(b)
        same = (first == second).flatten() & (node == other)
        if not bool(same.any()):
            return self.product(a, b, shared)
        if bool(same.all()):
            return self.activation(Square(), a)
        flat = [self.reshape(value, (value.size,)) for value in (a, b)]
        own, others = same.nonzero()[:, 0], (~same).nonzero()[:, 0]
        squares = self.activation(Square(), self.gather(flat[0], own))
        products = self.product(self.gather(flat[0], others), self.gather(flat[1], others), shared)
        order = torch.cat([own, others]).argsort()
        return self.reshape(self.gather(self.concatenate([squares, products], 0), order), a.shape)

    def _entries(self, x: Value) -> tuple[int, Tensor]:
        """The node that a value's entries were moved from, and which of its entries each is: from 1; 0 is a zero beside them."""
        index, moved = x.node, list[Affine]()
        while True:
            node = self.nodes[index]
            if isinstance(node.operator, Affine) and node.operator.moves and len(node.operands) == 1:
                moved.append(node.operator)
            elif not isinstance(node.operator, Copy):
                break
            index = node.operands[0]
        places = torch.arange(1, node.size + 1, dtype=torch.float64).reshape(1, *node.shape)
        for operator in reversed(moved):
            places = operator.forward(places)
        return index, places.reshape(x.shape)

    def copy(self, x: Value) -> Value:
        """The same value as a variable (see copy.py); what an activation has just given has a good interval already."""
        node = self.nodes[x.node]
        while isinstance(node.operator, Reshape | Permute):
            node = self.nodes[node.operands[0]]
        bounded = node.operator is None or isinstance(node.operator, Activation)
        return x if bounded else self.activation(Copy(), x)

    def reciprocal(self, x: Value) -> Value:
        """1 / x; of a square root in one step, which is tighter."""
        node = self.nodes[x.node]
        if isinstance(node.operator, Sqrt):
            return self.activation(Rsqrt(), Value(node.operands[0], x.shape))
        return self.activation(Reciprocal(), x)

    def maximum(self, a: Value, b: Value) -> Value:
        """max(a, b) = b + relu(a - b): everything downstream is a ReLU."""
        a, b = self.broadcast(a, b)
        return self.combine((1, 1), b, self.activation(Relu(), self.combine((1, -1), a, b)))

    def maximum_along_first(self, x: Value) -> Value:
        """The maximum over the first axis (removed), as a balanced tree."""
        while x.shape[0] > 1:
            half, odd = divmod(x.shape[0], 2)
            larger = self.maximum(self.slice(x, 0, 0, half), self.slice(x, 0, half, 2 * half))
            x = self.concatenate([larger, self.slice(x, 0, 2 * half, 2 * half + 1)], 0) if odd else larger
        return self.reshape(x, x.shape[1:])


def prune(nodes: Sequence[Node], output: int) -> Network:
    """The network that ends in node `output`: the nodes that it does not need are dropped."""
    needed = {0, output}
    for index in range(output, 0, -1):
        if index in needed:
            needed.update(nodes[index].operands)
    place = {old: new for new, old in enumerate(sorted(needed))}
    return Network(
        tuple(
            replace(nodes[index], operands=tuple(place[operand] for operand in nodes[index].operands))
            for index in place
        )
    )


def _strides(shape: Shape) -> Shape:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _regular(index: Tensor) -> tuple[int, Shape] | None:
    """(offset, strides) if `index` is `offset + sum_k strides_k i_k`."""
    offset = int(index.flatten()[0])
    steps = []
    rebuilt = torch.tensor(offset)
    for axis, size in enumerate(index.shape):
        step = int(index.select(axis, 1).flatten()[0]) - offset if size > 1 else 0
        steps.append(step)
        along = torch.arange(size).reshape(-1, *(1,) * (index.dim() - axis - 1))
        rebuilt = rebuilt + step * along
    return (offset, tuple(steps)) if torch.equal(rebuilt, index) else None


def _cheapest_gather(builder: Builder, x: Value, index: Tensor) -> Value:
    """A gather as reshape, permutation, slice or expansion where it is one, for views cost nothing."""
    shape = tuple(index.shape)
    if index.numel() == x.size and torch.equal(index.flatten(), torch.arange(x.size)):
        return builder.reshape(x, shape)
    regular = _regular(index) if index.numel() else None
    if regular is not None:
        offset, steps = regular
        if any(step == 0 and size > 1 for step, size in zip(steps, shape, strict=True)):
            narrow = index[tuple(slice(0, 1) if step == 0 else slice(None) for step in steps)]
            return builder.expand(builder.gather(x, narrow), shape)
        if index.numel() == x.size and all(step >= 0 for step in steps):
            return _permuted(builder, x, shape, steps)
        bounds = _slice_bounds(x.shape, index, steps, offset)
        if bounds is not None:
            operator = NonNegative(reindex.Slice(bounds), (x.stored,), 1, "slice")
            return builder.reshape(builder.affine(operator, x), shape)
    real = index[index >= 0]
    copies = int(torch.bincount(real.flatten()).max()) if real.numel() else 1
    return builder.affine(NonNegative(reindex.Gather(index), (x.stored,), copies, "gather"), x, shape=shape)


def _permuted(builder: Builder, x: Value, shape: Shape, steps: Shape) -> Value:
    """A strided bijection: cut the input into axes of falling stride, permute them."""
    axes = sorted((axis for axis, size in enumerate(shape) if size > 1), key=lambda axis: -steps[axis])
    cut = tuple(shape[axis] for axis in axes)
    order = [axes.index(axis) for axis, size in enumerate(shape) if size > 1]
    real = [axis for axis, size in enumerate(x.shape) if size > 1]
    if len(shape) == len(x.shape) and cut == tuple(
        x.shape[axis] for axis in real
    ):  # no axis is cut: keep those of length 1
        ones = iter(axis for axis, size in enumerate(x.shape) if size == 1)
        moved = iter(order)
        return builder.permute(x, tuple(real[next(moved)] if size > 1 else next(ones) for size in shape))
    return builder.reshape(builder.permute(builder.reshape(x, cut), tuple(order)), shape)


def _slice_bounds(
    operand: Shape, index: Tensor, steps: Shape, offset: int
) -> tuple[tuple[int, int, int], ...] | None:
    """Bounds of one slice for each axis of the operand, if the gather is that (up to axes of length 1)."""
    count, step_of = dict.fromkeys(range(len(operand)), 1), dict.fromkeys(range(len(operand)), 1)
    strides = _strides(operand)
    for size, step in zip(index.shape, steps, strict=True):
        if size == 1:
            continue
        owner = next(
            (axis for axis, stride in enumerate(strides) if operand[axis] > 1 and stride <= step), None
        )
        if owner is None or step % strides[owner] or count[owner] > 1:
            return None
        count[owner], step_of[owner] = size, step // strides[owner]
    bounds = []
    for axis, stride in enumerate(strides):
        start, offset = divmod(offset, stride)
        stop = start + (count[axis] - 1) * step_of[axis] + 1
        if stop > operand[axis]:
            return None
        bounds.append((start, stop, step_of[axis]))
    numbers = torch.arange(math.prod(operand)).reshape(1, *operand)
    same = torch.equal(reindex.Slice(tuple(bounds))(numbers).flatten(), index.flatten())
    return tuple(bounds) if same else None
