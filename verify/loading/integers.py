"""Integers in a network of real numbers: what an operator's result must fit in, and whether that is known beforehand.

Operators on integers are lowered as if numbers had no end. Where the operands' types and ranges alone do not prove that a
result fits its type (comparisons, numbers of classes and small sums of them do), an `Integer` follows, which asks each box.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor

from verify.loading.builder import Builder, Value
from verify.loading.calls import Unsupported
from verify.loading.registry import operator_of
from verify.network.activations.integer import LARGEST_EXACT, Integer
from verify.network.activations.piecewise import Clip
from verify.network.activations.relu import Relu
from verify.network.activations.s_shaped import SShaped
from verify.network.activations.steps import Step
from verify.network.affine import Affine, Constant

_EXPONENTS = 1000  # how many powers of two float64 has room for
_SLACK = 1e-12  # relative, for rounding of ranges: more than any sum of terms that fit into memory needs

_Range = tuple[Tensor, Tensor]


def is_integer(element: torch.dtype | None) -> TypeGuard[torch.dtype]:
    """Whether an element type is one of whole numbers, bool included."""
    return element is not None and not element.is_floating_point and not element.is_complex


def limits_of(element: torch.dtype) -> tuple[int, int, int]:
    """Least and greatest number, and bits."""
    if element == torch.bool:
        return 0, 1, 1
    info = torch.iinfo(element)
    return int(info.min), int(info.max), int(info.bits)


# results that depend on the input


def held(builder: Builder, result: Any, operator: str, element: torch.dtype, since: int) -> Any:
    """An operation's result, or its results, as numbers of their type; `since`: its first node."""
    if isinstance(result, tuple | list):
        return tuple(held(builder, part, operator, element, since) for part in result)
    if not isinstance(result, Value):
        return result
    known = operator_of(operator)
    copies = not known.casts and all(
        isinstance(node.operator, Constant) or (isinstance(node.operator, Affine) and node.operator.moves)
        for node in builder.nodes[since:]
    )
    if not (copies or known.chooses):
        guard = Integer(*limits_of(element), wraps=known.wraps and not known.casts)
        low, high = _range_of(builder, result.node)
        if not bool(guard.holds(low, high).all()):
            result = builder.activation(guard, result)
    builder.whole.add(result.node)
    return result


def _range_of(builder: Builder, node: int) -> _Range:
    """Of a node's entries, [1, *shape], whatever the input is: infinite where nothing is known."""
    known = builder.ranges
    pending = [node]
    while pending:
        index = pending[-1]
        operands = [] if _own_range(builder, index) else list(builder.nodes[index].operands)
        missing = [operand for operand in operands if operand not in known]
        if missing:
            pending += missing
            continue
        pending.pop()
        if index not in known:
            low, high = _computed(builder, index, [known[operand] for operand in operands])
            known[index] = (
                torch.where(low.isnan(), -torch.inf, low),
                torch.where(high.isnan(), torch.inf, high),
            )
    return known[node]


def ranges_within(builder: Builder, box: _Range, node: int) -> _Range:
    """Of a node's entries, where the input lies in a box."""
    known = builder.ranges
    builder.ranges = {
        0: (box[0].reshape(1, *builder.nodes[0].shape), box[1].reshape(1, *builder.nodes[0].shape))
    }
    try:
        return _range_of(builder, node)
    finally:
        builder.ranges = known


def _own_range(builder: Builder, index: int) -> bool:
    """Whether a node's range does not hang on its operands'."""
    return isinstance(builder.nodes[index].operator, Constant | SShaped | None)


def _computed(builder: Builder, index: int, operands: list[_Range]) -> _Range:
    node = builder.nodes[index]
    unknown = torch.full((1, *node.shape), torch.inf, dtype=torch.float64)
    operator = node.operator
    if isinstance(operator, Constant):
        return operator.value[None], operator.value[None]
    if operator is None or (isinstance(operator, SShaped) and not operands):
        least, most = (-torch.inf, torch.inf) if operator is None else operator.limits
        return torch.full_like(unknown, least), torch.full_like(unknown, most)
    finite = all(bool(low.isfinite().all() and high.isfinite().all()) for low, high in operands)
    if isinstance(operator, Affine):
        if operator.moves:
            return operator.forward(*(low for low, _ in operands)), operator.forward(
                *(high for _, high in operands)
            )
        return _affine(operator, operands) if finite else (-unknown, unknown)
    if not (finite or isinstance(operator, Clip | Integer | Relu | Step)):
        return -unknown, unknown
    low, high = (end.flatten(1) for end in operands[0])
    low, high = operator.interval(low, high)
    return low.reshape(unknown.shape), high.reshape(unknown.shape)


def _affine(operator: Affine, operands: list[_Range]) -> _Range:
    centre = operator.forward(*((low + high) / 2 for low, high in operands))
    absolute = operator.absolute()
    radius = absolute.forward(*((high - low) / 2 for low, high in operands))
    bias = operator.bias_terms().forward(*(torch.zeros_like(low) for low, _ in operands)).abs()
    sizes = absolute.forward(*(torch.maximum(low.abs(), high.abs()) for low, high in operands)) + bias
    return centre - radius - _SLACK * sizes, centre + radius + _SLACK * sizes


def reducible(builder: Builder, x: Any, operator: str, element: torch.dtype) -> Any:
    """The operand of a sum or product of entries, which ONNX Runtime computes in float64 and casts: where that is exact.

    Of absolute values and squares no part is more than the whole, whose own range says enough.
    """
    guard = operator_of(operator).guard
    return guard(builder, x, element) if guard is not None and isinstance(x, Value) and x.size else x


def multipliable(builder: Builder, x: Value, element: torch.dtype) -> Value:
    """The operand of a product of entries. Raises Unsupported where it may overflow on the way."""
    low, high = _range_of(builder, x.node)
    largest = min(float(torch.maximum(low.abs(), high.abs()).max()), 2.0 ** limits_of(element)[2])
    if x.size * math.log2(max(largest, 2.0)) > _EXPONENTS:
        raise Unsupported(f"a product of {x.size} integers, which may overflow on the way")
    return x


def summable(builder: Builder, x: Value, element: torch.dtype) -> Value:
    """The operand of a sum of entries, held to what float64 has the sum of."""
    least, most, bits = limits_of(element)
    low, high = _range_of(builder, x.node)
    guard = Integer(least, most, bits, within=LARGEST_EXACT // x.size)
    fits = guard.within >= 2 ** (bits - 1) or bool(guard.holds(low, high).all())
    return x if fits else builder.activation(guard, x)


# constants


def of_its_type(result: Any, element: torch.dtype | None) -> Any:
    """A constant result, wrapped to the type that the operator gives: libraries add and multiply in wider ones."""
    if not isinstance(result, Tensor) or not is_integer(element) or result.dtype == element:
        return result
    return converted(result, element)


def rounded_to(result: Any, element: torch.dtype | None) -> Any:
    """A constant float as its type has it, in float64: to types of fewer bits by way of float32, as ONNX Runtime goes."""
    if not isinstance(result, Tensor) or not result.is_floating_point() or element in (None, torch.float64):
        return result
    return result.float().to(element).double()


def converted(x: Tensor, element: torch.dtype) -> Tensor:
    """A constant cast. Raises Unsupported for a float that an integer type does not hold: machines differ there."""
    if x.is_floating_point() and is_integer(element) and element != torch.bool:
        least, most, _ = limits_of(element)
        whole = x.double().trunc()
        # the greatest number of a wide type has no float of its own: the next one is too much
        fits = (whole >= float(least)) & (
            (whole <= float(most)) if most < LARGEST_EXACT else (whole < float(most))
        )
        if not bool(fits.all()):
            raise Unsupported(f"it casts a constant that {str(element).removeprefix('torch.')} does not hold")
    return x.to(element)


def check_constants(operator: str, truncates: bool, operands: list[Any]) -> None:
    """Raises Unsupported where an operation on constant integers has no result, or one that libraries round."""
    check = operator_of(operator).check
    if truncates and check is None:
        raise Unsupported("of integers it cuts results to integers, or their types are not known")
    if check is not None:
        check([operand for operand in operands if isinstance(operand, Tensor)])


def bounded(size: Callable[[Tensor], Tensor]) -> Callable[[list[Tensor]], None]:
    """The check of a reduction; `size`: how large its parts may get on the way, of absolute values."""

    def check(operands: list[Tensor]) -> None:
        if operands and not operands[0].is_floating_point():
            most = min(limits_of(operands[0].dtype)[1], LARGEST_EXACT)
            if float(size(operands[0].double().abs())) > most:
                raise Unsupported(
                    "a sum or product that its type does not hold, or float64, in which it is computed"
                )

    return check
