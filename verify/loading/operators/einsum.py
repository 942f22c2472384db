"""Einsum: a product of matrices between permutations, as many axes at a time as there are."""

from __future__ import annotations

import math
from typing import Any

import torch

from verify.loading.builder import Builder, Value
from verify.loading.calls import Call, Unsupported, tensor
from verify.loading.operators.arithmetic import multiply
from verify.loading.operators.matrices import moved, product
from verify.loading.registry import onnx, torch_call


@onnx("Einsum")
def onnx_einsum(call: Call) -> Value:
    """Einsum of one or two operands."""
    equation = call.attributes["equation"]
    given = [operand for operand in call.operands("abcdef") if operand is not None]
    return einsum(call.builder, equation.decode() if isinstance(equation, bytes) else equation, given)


@torch_call(torch.einsum)
def torch_einsum(call: Call) -> Value:
    """torch.einsum with its equation in letters."""
    equation, *operands = call.args
    if not isinstance(equation, str):
        raise Unsupported("an equation that is not in letters")
    listed = operands[0] if len(operands) == 1 and isinstance(operands[0], tuple | list) else operands
    return einsum(call.builder, equation, list(listed))


def einsum(builder: Builder, equation: str, operands: list[Any]) -> Value:
    """The sum over the letters that `equation` has on its left alone."""
    if len(operands) > 2:
        raise Unsupported(f"{len(operands)} operands; at most 2 are supported")
    parts = [operand if isinstance(operand, Value) else tensor(operand) for operand in operands]
    terms, result = _letters(equation, [len(part.shape) for part in parts])
    sizes: dict[str, int] = {}
    for term, part in zip(terms, parts, strict=True):
        for letter, size in zip(term, part.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise Unsupported("axes that are broadcast")
    for i, term in enumerate(terms):
        kept = "".join(letter for letter in term if letter in result + "".join(terms[:i] + terms[i + 1 :]))
        parts[i], terms[i] = _summed(builder, parts[i], term, kept), kept
    if len(parts) == 1:
        value, order = parts[0], terms[0]
    else:
        value, order = _contracted(builder, parts, terms, result, sizes)
    assert isinstance(value, Value)
    return builder.permute(value, tuple(order.index(letter) for letter in result))


def _letters(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """The letters of each operand and of the result; the axes of an ellipsis get capital ones."""
    left, arrow, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise Unsupported(f"the equation {equation!r} for {len(ranks)} operands")
    spare = [letter for letter in "ZYXWVUTSRQPONMLKJIHGFEDCBA" if letter not in equation]
    widest = max(rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True))
    for i, (term, rank) in enumerate(zip(terms, ranks, strict=True)):
        count = rank - len(term.replace("...", ""))
        terms[i] = term.replace("...", "".join(spare[:widest][widest - count :]))
        if len(terms[i]) != rank or len(set(terms[i])) != rank:
            raise Unsupported(f"the equation {equation!r}")
    if arrow:
        return terms, result.replace("...", "".join(spare[:widest]))
    once = sorted(letter for letter in set(left) - set(".,") if left.count(letter) == 1)
    return terms, "".join(spare[:widest]) * ("..." in left) + "".join(once)


def _summed(builder: Builder, x: Any, term: str, kept: str) -> Any:
    axes = tuple(axis for axis, letter in enumerate(term) if letter not in kept)
    if not axes:
        return x
    return builder.sum(x, axes, keepdim=False) if isinstance(x, Value) else x.sum(dim=axes)


def _contracted(
    builder: Builder, parts: list[Any], terms: list[str], result: str, sizes: dict[str, int]
) -> tuple[Any, str]:
    """The product of two operands, and the letters of its axes."""
    shared = [letter for letter in terms[0] if letter in terms[1]]
    batch = [letter for letter in shared if letter in result]
    inner = [letter for letter in shared if letter not in result]
    own = [[letter for letter in term if letter not in shared] for term in terms]

    def laid_out(i: int, groups: list[list[str]]) -> Any:
        axes = tuple(terms[i].index(letter) for group in groups for letter in group)
        shape = tuple(math.prod(sizes[letter] for letter in group) for group in groups)
        turned = moved(builder, parts[i], axes)
        return builder.reshape(turned, shape) if isinstance(turned, Value) else turned.reshape(shape)

    a, b = laid_out(0, [batch, own[0], inner]), laid_out(1, [batch, inner, own[1]])
    if not inner:
        found = multiply(builder, a, b)
    else:
        if not batch:  # a constant matrix by itself is one dense map
            a, b = (
                builder.reshape(part, part.shape[1:]) if isinstance(part, Value) else part[0]
                for part in (a, b)
            )
        found = product(builder, a, b)
    order = [*batch, *own[0], *own[1]]
    return builder.reshape(found, tuple(sizes[letter] for letter in order)), "".join(order)
