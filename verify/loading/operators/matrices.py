"""Products of matrices."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verify.loading import calls
from verify.loading.builder import Builder, Value, broadcast_shape
from verify.loading.calls import Call, Unsupported, limit, tensor
from verify.loading.operators.arithmetic import add, scaled
from verify.loading.registry import converted, onnx, torch_call
from verify.network.activations.matrix_product import MatrixProduct

MOST_BATCHED_MATRICES = 256  # of a constant operand of MatMul, each lowered by itself


@torch_call(nn.Linear, F.linear)
def linear(call: Call) -> Value:
    """torch.nn.Linear and its functional form."""
    return call.builder.dense(call.x, call.setting(1, "weight"), call.setting(2, "bias"))


@converted("OnnxMatMul", "MatMul")
@torch_call(torch.matmul, torch.mm, torch.bmm, operator.matmul, "matmul", "mm", "bmm")
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
    limit(count, "products")
    shared = left.shape[-2] > 1 or right.shape[-1] > 1
    if shared and count > calls.MOST_BOUNDED:
        result = _whole_product(builder, left, right, lead)
    else:
        if shared:
            left, right = builder.copy(left), builder.copy(right)
        products = builder.squares_and_products(
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


@onnx("Gemm")
def gemm(call: Call) -> Value:
    """Gemm: alpha a' b' + beta c."""
    builder, attributes, (a, b, c) = call.builder, call.attributes, call.operands("abc")
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
    result = scaled(builder, product(builder, a, b), alpha) if alpha != 1 else product(builder, a, b)
    if c is None:
        return result
    return add(builder, result, scaled(builder, c, beta) if beta != 1 else c)
