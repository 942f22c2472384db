"""Products of matrices, one of them constant."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from verify.checker.builder import (
    Builder,
    Constant,
    Tensor,
    Value,
    computed_exactly,
    floats_of,
    fractions,
    real,
    simplest,
)
from verify.checker.errors import Refused
from verify.checker.maps import Dense
from verify.checker.onnx_call import Call, Result
from verify.checker.onnx_register import of_constants, rule
from verify.checker.rationals import Array

MOST_PRODUCTS = 2**20  # of Fractions


@rule("MatMul", takes_fractions=True)
def matmul(call: Call) -> Result:
    return matrix_product(call.builder, *call.two())


@of_constants("MatMul")
def product_of_constants(call: Call) -> Result:
    """Exactly, of real numbers."""
    a, b = (real(operand) for operand in call.constants())
    if _products(a, b) > MOST_PRODUCTS:
        raise Refused("a product of constants that is too large to be computed exactly")
    call.builder.folded = True
    return computed_exactly(np.asarray(fractions(a) @ fractions(b), dtype=object))


def _products(a: Constant, b: Constant) -> int:
    """How many a matrix product adds up, in all of its groups."""
    rows = a.shape[-2] if a.ndim > 1 else 1
    columns = b.shape[-1] if b.ndim > 1 else 1
    return int(math.prod(np.broadcast_shapes(a.shape[:-2], b.shape[:-2])) * rows * a.shape[-1] * columns)


def turned(builder: Builder, x: Tensor) -> Tensor:
    """The last two axes exchanged."""
    rank = len(x.shape)
    axes = (*range(rank - 2), rank - 1, rank - 2)
    return builder.transpose(x, axes) if isinstance(x, Value) else x.transpose(axes)


def matrix_product(builder: Builder, a: Tensor, b: Tensor, bias: Array | None = None) -> Value:
    """a @ b, one of them constant, and a bias."""
    if isinstance(a, Value):
        if isinstance(b, Value):
            raise Refused("a product of two matrices that depend on the input")
        return times_matrix(builder, a, real(b), bias)
    assert isinstance(b, Value)
    rows, columns = len(a.shape) > 1, len(b.shape) > 1
    left = real(a) if rows else real(a)[None]
    right = b if columns else builder.reshape(b, (*b.shape, 1))
    matrix = left.swapaxes(-1, -2)
    x = turned(builder, right)
    assert isinstance(x, Value)
    result = turned(builder, times_matrix(builder, x, matrix))
    assert isinstance(result, Value)
    shape = result.shape if columns else result.shape[:-1]
    shape = shape if rows else (*shape[: len(shape) - 1 - columns], *shape[len(shape) - columns :])
    result = builder.reshape(result, shape)
    return result if bias is None else builder.add([result, bias], [1, 1])


def times_matrix(builder: Builder, x: Value, weight: Constant, bias: Array | None = None) -> Value:
    """x @ weight with numpy's rules, and a bias."""
    matrices = weight[:, None] if weight.ndim == 1 else weight
    shape = x.shape if len(x.shape) > 1 else (1, *x.shape)
    lead = np.broadcast_shapes(shape[:-2], matrices.shape[:-2])
    row = (shape[-2],) if len(x.shape) > 1 else ()
    column = (matrices.shape[-1],) if weight.ndim > 1 else ()
    if shape[-1] != matrices.shape[-2]:
        raise Refused("the matrices do not fit")
    if math.prod(matrices.shape[:-2]) == 1:
        groups, rows = matrices.reshape(1, *matrices.shape[-2:]), math.prod(lead) * shape[-2]
    else:
        x = builder.expand(builder.reshape(x, shape), (*lead, *shape[-2:]))
        groups = np.broadcast_to(matrices, (*lead, *matrices.shape[-2:])).reshape(-1, *matrices.shape[-2:])
        rows = shape[-2]
    parts = [(Dense(part, rows), x) for part in floats_of(groups)]
    return builder.affine(parts, (*lead, *row, *column), bias)


@rule("Gemm")
def gemm(call: Call) -> Result:
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    builder, c = call.builder, call.operand(2)
    first, second, *_ = call.operands
    assert first is not None and second is not None
    if len(first.shape) != 2 or len(second.shape) != 2:
        raise Refused("an operand is no matrix")
    a = turned(builder, first) if call.flag("transA") else first
    b = turned(builder, second) if call.flag("transB") else second
    shape = (a.shape[0], b.shape[1])
    if c is not None and np.broadcast_shapes(c.shape, shape) != shape:
        raise Refused("the third operand is larger than the product")
    if isinstance(c, Value):
        product = builder.scale(matrix_product(builder, a, b), np.array(alpha))
        return builder.add([product, builder.scale(c, np.array(beta))], [1, 1])
    bias = None if c is None else real(c) if beta == 1 else simplest(fractions(real(c)) * Fraction(beta))
    if alpha == 1:
        return matrix_product(builder, a, b, bias)
    return builder.scale(matrix_product(builder, a, b), np.array(alpha), bias)
