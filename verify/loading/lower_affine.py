"""Lowering rules for affine operations but windows: matrices, arithmetic with constants, reindexings, sums.

A reindexing (reshape, transpose, slice, split, gather, expand, zero padding, ...) is not described here at
all: the operation itself is run once on the numbers 1 .. n in the operand's shape, and the numbers that come
out say which entry goes where (0: a padded zero). The builder then finds the cheapest map that does it. So
one rule covers some forty spellings of torch and ONNX, and what is lowered is what onnx2torch would compute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from verify.loading import lower_compositions as compositions
from verify.loading.builder import Builder, Value, broadcast_shape
from verify.loading.calls import Call, Unsupported, axes_of, tensor
from verify.loading.integers import is_integer
from verify.network.activations.matrix_product import MatrixProduct
from verify.network.activations.square import Square

Result = Value | tuple[Value, ...]
MOST_BATCHED_MATRICES = 256  # of a constant operand of MatMul, each lowered by itself

# reindexings


def identity(call: Call) -> Value:
    """Operations that change nothing in the real-number function: dropout, casts between floats, clones."""
    return call.x


def dropout(call: Call) -> Value:
    """torch.nn.functional.dropout, which drops in evaluation mode too unless told otherwise."""
    if call.constant(2, "training", default=True):
        raise Unsupported("it drops values at random; give it training=self.training")
    return call.x


def cast(call: Call) -> Value:
    """Casts: the float types that keep real numbers, bool, and integers, whose ranges are looked at behind (integers.py)."""
    target = getattr(call.module, "target", None)
    if target is None:
        target = next(
            (a for a in (*call.args, *call.kwargs.values()) if isinstance(a, torch.dtype)), torch.float64
        )
    if target == torch.bool:
        return compositions.truth(call.builder, call.x)
    if is_integer(target):
        return compositions.whole_part(call.builder, call.x)
    if target not in (torch.float32, torch.float64):
        raise Unsupported(f"a cast to {target} rounds; only float32 and float64 keep real numbers")
    return call.x


def reindex(call: Call) -> Result:
    """See the head of this file."""
    x = call.x
    numbers = torch.arange(1, x.size + 1, dtype=torch.float64).reshape(x.shape)
    moved = call.function(numbers, *call.args[1:], **_without_input(call.kwargs))
    if isinstance(moved, Tensor):
        return call.builder.gather(x, moved.long() - 1)
    return tuple(call.builder.gather(x, part.long() - 1) for part in moved)


def _without_input(kwargs: Any) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in ("input", "x")}


def pad(builder: Builder, x: Value, index: Tensor, value: float) -> Value:
    """A padding given as `index` (-1: padded) with a constant."""
    padded = builder.gather(x, index)
    if value == 0:
        return padded
    if not math.isfinite(value):
        raise Unsupported(f"padding with {value}")
    return builder.scale(padded, None, (index < 0).double() * value)


def torch_pad(call: Call) -> Value:
    """torch.nn.functional.pad and the padding modules."""
    x, builder = call.x, call.builder
    numbers = torch.arange(1, x.size + 1, dtype=torch.float64).reshape(x.shape)
    module = call.module
    if module is not None:
        widths, mode, value = (
            module.padding,
            getattr(module, "mode", "constant"),
            getattr(module, "value", 0.0),
        )
        mode = {"ReflectionPad": "reflect", "ReplicationPad": "replicate"}.get(
            type(module).__name__[:-2], mode
        )
    else:
        widths = call.constant(1, "pad")
        mode, value = call.constant(2, "mode", default="constant"), call.constant(3, "value", default=None)
    if mode == "constant":
        numbers = torch.nn.functional.pad(numbers, tuple(widths))
        return pad(builder, x, numbers.long() - 1, float(value or 0.0))
    return builder.gather(x, torch.nn.functional.pad(numbers, tuple(widths), mode=mode).long() - 1)


def pick(call: Call) -> Any:
    """`operands[key]`: one of several results, or indexing of a tensor."""
    if isinstance(call.args[0], tuple | list):
        return call.args[0][call.args[1]]
    return reindex(call)


def join(builder: Builder, parts: Any, axis: int) -> Value:
    """Concatenation of values and constants."""
    values = [part if isinstance(part, Value) else builder.constant(tensor(part)) for part in parts]
    values = [value for value in values if value.size]
    return builder.concatenate(values, axis % len(values[0].shape))


def concatenate(call: Call) -> Value:
    """torch.cat."""
    axis = call.constant(1, "dim", "axis", default=0)
    return join(call.builder, call.argument(0, "tensors"), axis)


def onnx_concatenate(call: Call) -> Value:
    """ONNX Concat."""
    return join(call.builder, call.args, call.module.axis)


def stack(call: Call) -> Value:
    """torch.stack."""
    parts = [
        p if isinstance(p, Value) else call.builder.constant(tensor(p)) for p in call.argument(0, "tensors")
    ]
    return stacked(
        call.builder, parts, call.constant(1, "dim", "axis", default=0) % (len(parts[0].shape) + 1)
    )


def stacked(builder: Builder, parts: Sequence[Value], axis: int) -> Value:
    """Values of one shape side by side on a new axis (>= 0)."""
    shape = (*parts[0].shape[:axis], 1, *parts[0].shape[axis:])
    return builder.concatenate([builder.reshape(part, shape) for part in parts], axis)


# arithmetic


def add(builder: Builder, a: Any, b: Any, sign: int = 1) -> Value:
    """a + sign * b, either of them constant."""
    if isinstance(a, Value) and isinstance(b, Value):
        return builder.combine((1, sign), a, b)
    if isinstance(a, Value):
        return builder.scale(a, None, sign * tensor(b))
    return builder.scale(b, tensor(sign), tensor(a))


def multiply(builder: Builder, a: Any, b: Any) -> Value:
    """a * b, either of them constant."""
    if isinstance(a, Value) and isinstance(b, Value):
        if a == b:
            return builder.activation(Square(), a)
        found = compositions.gated(builder, a, b) or compositions.gated(builder, b, a)
        return builder.product(a, b) if found is None else found
    return builder.scale(a, tensor(b)) if isinstance(a, Value) else builder.scale(b, tensor(a))


def divide(builder: Builder, a: Any, b: Any) -> Value:
    """a / b. A constant divisor becomes a factor: 1 / b rounds in float64 unless b is a power of two."""
    if not isinstance(b, Value):
        divisor = tensor(b)
        if bool((divisor == 0).any()):
            raise Unsupported("division by a constant 0")
        return builder.scale(a, divisor.reciprocal())
    return multiply(builder, a, builder.reciprocal(b))


def pow_(call: Call) -> Value:
    """Pow with constant exponents or a constant base."""
    base, exponents = call.argument(0, "input", "self"), call.argument(1, "exponent")
    if not isinstance(base, Value):
        return compositions.exponential(call.builder, tensor(base), exponents)
    exponents = tensor(call.constant(1, "exponent"))
    shape = broadcast_shape(base.shape, exponents.shape)
    return compositions.powers(call.builder, call.builder.expand(base, shape), exponents.expand(shape))


def _both(call: Call) -> tuple[Any, Any]:
    return call.argument(0, "input"), call.argument(1, "other")


def torch_add(call: Call) -> Value:
    """torch.add and `+`."""
    a, b = _both(call)
    alpha = call.constant(2, "alpha", default=1)
    return add(call.builder, a, b if alpha == 1 else _scaled(call.builder, b, alpha))


def torch_subtract(call: Call) -> Value:
    """torch.sub and `-`."""
    a, b = _both(call)
    alpha = call.constant(2, "alpha", default=1)
    return add(call.builder, a, b if alpha == 1 else _scaled(call.builder, b, alpha), -1)


def _scaled(builder: Builder, x: Any, factor: float) -> Any:
    return builder.scale(x, tensor(factor)) if isinstance(x, Value) else tensor(x) * factor


def torch_multiply(call: Call) -> Value:
    """torch.mul and `*`."""
    return multiply(call.builder, *_both(call))


def torch_divide(call: Call) -> Value:
    """torch.div and `/`."""
    if call.kwargs.get("rounding_mode") is not None:
        raise Unsupported("division that rounds")
    return divide(call.builder, *_both(call))


def negate(call: Call) -> Value:
    """-x."""
    return call.builder.scale(call.x, tensor(-1.0))


def reciprocal(call: Call) -> Value:
    """1 / x."""
    return call.builder.reciprocal(call.x)


def square(call: Call) -> Value:
    """x * x."""
    return call.builder.activation(Square(), call.x)


def binary(call: Call) -> Value:
    """ONNX Add, Sub, Mul, Div."""
    kind = {torch.add: "Add", torch.sub: "Sub", torch.mul: "Mul"}.get(call.module.math_op_function, "Div")
    a, b = call.args
    if call.module.broadcast == 1 and call.module.axis is not None:
        raise Unsupported("the broadcasting rules of opset 6 and older")
    if kind in ("Add", "Sub"):
        return add(call.builder, a, b, 1 if kind == "Add" else -1)
    return multiply(call.builder, a, b) if kind == "Mul" else divide(call.builder, a, b)


def total(builder: Builder, operands: Any) -> Value:
    """The sum of any number of values and constants."""
    result = operands[0]
    for operand in operands[1:]:
        both_constant = not isinstance(result, Value) and not isinstance(operand, Value)
        result = tensor(result) + tensor(operand) if both_constant else add(builder, result, operand)
    assert isinstance(result, Value)
    return result


def onnx_sum(call: Call) -> Value:
    """ONNX Sum."""
    return total(call.builder, call.args)


def onnx_mean(call: Call) -> Value:
    """ONNX Mean (of several operands)."""
    return call.builder.scale(total(call.builder, call.args), tensor(1 / len(call.args)))


def where(call: Call) -> Value:
    """Where; with a constant condition a mask on each side."""
    condition, a, b = (
        call.argument(place, name) for place, name in enumerate(("condition", "input", "other"))
    )
    if isinstance(condition, Value):
        return compositions.choose(call.builder, condition, a, b)
    mask, builder = condition.bool(), call.builder

    def side(part: Any, keep: Tensor) -> Any:
        return (
            builder.scale(part, keep.double())
            if isinstance(part, Value)
            else torch.where(keep, tensor(part), 0.0)
        )

    return add(builder, side(a, mask), side(b, ~mask))


# sums


def torch_sum(call: Call) -> Value:
    """torch.sum."""
    return _reduced(call, mean=False)


def torch_mean(call: Call) -> Value:
    """torch.mean."""
    return _reduced(call, mean=True)


def _reduced(call: Call, mean: bool) -> Value:
    axes = axes_of(call.constant(1, "dim", "axis"), len(call.x.shape))
    keepdim = bool(call.constant(2, "keepdim", "keepdims", default=False))
    return call.builder.sum(call.x, axes, keepdim, mean)


def cumulative_sum(
    builder: Builder, x: Value, axis: int, exclusive: bool = False, reverse: bool = False
) -> Value:
    """The sums of all entries up to each one along an axis, itself included unless `exclusive`."""
    axis %= len(x.shape)
    matrix = torch.ones(x.shape[axis], x.shape[axis], dtype=torch.float64).tril(-1 if exclusive else 0)
    return along(builder, x, axis, matrix.mT if reverse else matrix)


def torch_cumulative_sum(call: Call) -> Value:
    """torch.cumsum."""
    return cumulative_sum(call.builder, call.x, call.constant(1, "dim"))


def global_average_pool(call: Call) -> Value:
    """The mean over all spatial axes."""
    return call.builder.sum(call.x, tuple(range(2, len(call.x.shape))), keepdim=True, mean=True)


# matrices


def linear(call: Call) -> Value:
    """torch.nn.Linear and its functional form."""
    if call.module is not None:
        return call.builder.dense(call.x, call.module.weight.detach(), _detached(call.module.bias))
    return call.builder.dense(call.x, call.constant(1, "weight"), call.constant(2, "bias"))


def _detached(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.detach()


def matmul(call: Call) -> Value:
    """torch.matmul, `@` and ONNX MatMul."""
    return product(
        call.builder, *(call.argument(place, name) for place, name in enumerate(("input", "other")))
    )


def product(builder: Builder, a: Any, b: Any) -> Value:
    """a @ b with numpy's rules, either of them constant."""
    if isinstance(a, Value) and isinstance(b, Value):
        return _product_of_variables(builder, a, b)
    if isinstance(a, Value):
        return _times_constant(builder, a, tensor(b))
    left = tensor(a)
    if len(b.shape) == 1:
        return _times_constant(builder, b, left.mT)
    if left.dim() == 1:
        turned = _times_constant(builder, _transposed(builder, b), left[:, None])
        return builder.reshape(turned, turned.shape[:-1])
    return _transposed(builder, _times_constant(builder, _transposed(builder, b), left.mT))


def _transposed(builder: Builder, x: Value) -> Value:
    rank = len(x.shape)
    return builder.permute(x, (*range(rank - 2), rank - 1, rank - 2))


def _times_constant(builder: Builder, x: Value, matrix: Tensor) -> Value:
    """x @ matrix."""
    if matrix.dim() == 1:
        column = builder.dense(x, matrix[None])
        return builder.reshape(column, column.shape[:-1])
    lead = tuple(matrix.shape[:-2])
    if math.prod(lead) == 1:
        result = builder.dense(x, matrix.reshape(matrix.shape[-2:]).mT)
        missing = max(len(lead) - max(len(x.shape) - 2, 0), 0) if len(x.shape) > 1 else len(lead)
        return builder.reshape(result, (*(1,) * missing, *result.shape))
    return _times_batched(builder, x, matrix)


def _times_batched(builder: Builder, x: Value, matrices: Tensor) -> Value:
    """x @ matrices where the constant has batch axes: one dense map for each matrix."""
    if len(x.shape) == 1:
        rows = _times_batched(builder, builder.reshape(x, (1, *x.shape)), matrices)
        return builder.reshape(rows, (*rows.shape[:-2], rows.shape[-1]))
    lead = broadcast_shape(x.shape[:-2], matrices.shape[:-2])
    count = math.prod(lead)
    if count > MOST_BATCHED_MATRICES:
        raise Unsupported(f"a product with {count} constant matrices at once")
    flat = matrices.expand(*lead, *matrices.shape[-2:]).reshape(count, *matrices.shape[-2:])
    spread = builder.reshape(builder.expand(x, (*lead, *x.shape[-2:])), (count, *x.shape[-2:]))
    parts = [builder.dense(builder.slice(spread, 0, i, i + 1), flat[i].mT) for i in range(count)]
    joined = builder.concatenate(parts, 0)
    return builder.reshape(joined, (*lead, *joined.shape[1:]))


def _product_of_variables(builder: Builder, a: Value, b: Value) -> Value:
    """Sums of products: [.., m, k, 1] * [.., 1, k, n] summed over k."""
    left = builder.reshape(a, (1, *a.shape)) if len(a.shape) == 1 else a
    right = builder.reshape(b, (*b.shape, 1)) if len(b.shape) == 1 else b
    lead = broadcast_shape(left.shape[:-2], right.shape[:-2])
    count = math.prod(lead) * math.prod(left.shape[-2:]) * right.shape[-1]
    compositions.limit(count, "products")
    shared = left.shape[-2] > 1 or right.shape[-1] > 1
    if shared and count > compositions.MOST_BOUNDED:
        result = _whole_product(builder, left, right, lead)
    else:
        if shared:
            left, right = builder.copy(left), builder.copy(right)
        products = builder.product(
            builder.reshape(left, (*left.shape, 1)),
            builder.reshape(right, (*right.shape[:-2], 1, *right.shape[-2:])),
            shared,
        )
        result = builder.sum(products, (len(products.shape) - 2,), keepdim=False)
    shape = result.shape
    if len(b.shape) == 1:
        shape = shape[:-1]
    if len(a.shape) == 1:
        shape = (*shape[: len(shape) - (len(b.shape) > 1) - 1], *shape[len(shape) - (len(b.shape) > 1) :])
    return builder.reshape(result, shape)


def _whole_product(builder: Builder, left: Value, right: Value, lead: tuple[int, ...]) -> Value:
    """One activation of both matrices' entries."""
    rows, inner, columns = *left.shape[-2:], right.shape[-1]
    parts = [builder.expand(value, (*lead, *value.shape[-2:])) for value in (left, right)]
    entries = builder.concatenate([builder.reshape(part, (part.size,)) for part in parts], 0)
    return builder.activation(
        MatrixProduct(math.prod(lead), rows, inner, columns), entries, shape=(*lead, rows, columns)
    )


def moved(builder: Builder, x: Any, axes: tuple[int, ...]) -> Any:
    """The axes of a value or constant in another order."""
    return builder.permute(x, axes) if isinstance(x, Value) else tensor(x).permute(axes)


def along(builder: Builder, x: Value, axis: int, matrix: Tensor) -> Value:
    """`matrix x` along an axis (>= 0)."""
    last = (*(i for i in range(len(x.shape)) if i != axis), axis)
    found = builder.dense(builder.permute(x, last), matrix)
    return builder.permute(found, tuple(last.index(i) for i in range(len(last))))


def gemm(builder: Builder, attributes: dict[str, Any], a: Any, b: Any, c: Any) -> Value:
    """ONNX Gemm: alpha a' b' + beta c."""
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)

    def oriented(x: Any, flag: str) -> Any:
        if not attributes.get(flag, 0):
            return x
        return _transposed(builder, x) if isinstance(x, Value) else x.mT

    a, b = oriented(a, "transA"), oriented(b, "transB")
    if isinstance(a, Value) and not isinstance(b, Value) and not isinstance(c, Value):
        bias = None if c is None else tensor(c) * beta
        if bias is None or bias.dim() <= 1 or math.prod(bias.shape[:-1]) == 1:
            width = b.shape[1]
            spread = None if bias is None else bias.flatten().expand(width)
            return builder.dense(a, tensor(b).mT * alpha, spread)
    result = _scaled(builder, product(builder, a, b), alpha) if alpha != 1 else product(builder, a, b)
    if c is None:
        return result
    return add(builder, result, _scaled(builder, c, beta) if beta != 1 else c)


# normalisation


def batch_norm(builder: Builder, x: Value, parts: Sequence[Any], epsilon: float) -> Value:
    """Batch normalisation of axis 1 in evaluation mode; `parts`: weight, bias, mean, variance."""
    weight, bias, mean, variance = parts
    factor = (1.0 if weight is None else tensor(weight)) / (tensor(variance) + epsilon).sqrt()
    shift = -tensor(mean) * factor if bias is None else tensor(bias) - tensor(mean) * factor
    shape = (-1, *(1,) * (len(x.shape) - 2)) if len(x.shape) > 1 else (-1,)
    size = (tensor(mean) * factor).abs() + (0.0 if bias is None else tensor(bias).abs())
    return builder.scale(
        x, factor.detach().reshape(shape), shift.detach().reshape(shape), size.detach().reshape(shape)
    )


def batch_norm_module(call: Call) -> Value:
    """torch.nn.BatchNorm1d, 2d, 3d."""
    module = call.module
    if module.running_mean is None:
        raise Unsupported("batch normalisation without running statistics depends on the batch")
    parts = (module.weight, module.bias, module.running_mean, module.running_var)
    return batch_norm(call.builder, call.x, parts, module.eps)
