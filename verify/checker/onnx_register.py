"""The register of operators: a rule is entered where it is written (`operators/`), with what else reading it needs.

`rule` is for an operation of values, `of_constants` for one of constants alone, `move` for one that puts entries elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from verify.checker.builder import Tensor, Value, numbering
from verify.checker.errors import Refused
from verify.checker.onnx_call import Call, Result, Rule
from verify.checker.rationals import Integers

Move: TypeAlias = Callable[[Call, Integers], "Integers | list[Integers]"]


@dataclass(frozen=True)
class Facts:
    """What is special about an operator.

    unread_results: how many results it may have beyond those of its rule, which leave those what they are. own_type: the element
    type that it chooses for its result. mixes_floats: its operands may be of float32 and float64. takes_fractions: its rules compute
    exactly with constants that are no float64 numbers.
    """

    unread_results: int = 0
    own_type: Callable[[Call], int] | None = None
    mixes_floats: bool = False
    takes_fractions: bool = False


RULES: dict[str, Rule] = {}
CONSTANTS: dict[str, Rule] = {}
FACTS: dict[str, Facts] = {}
_NOTHING = Facts()


def facts_of(operator: str) -> Facts:
    """What is special about an operator; nothing, where it is not registered."""
    return FACTS.get(operator, _NOTHING)


def rule(*names: str, **special: Any) -> Callable[[Rule], Rule]:
    """Registers the rule of operators where an operand depends on the input; `special`: fields of `Facts`."""
    return _registering((RULES,), names, special)


def of_constants(*names: str, **special: Any) -> Callable[[Rule], Rule]:
    """Registers the rule of operators whose operands are all constant."""
    return _registering((CONSTANTS,), names, special)


def move(name: str, **special: Any) -> Callable[[Move], Move]:
    """Registers an operator that puts entries of its first operand elsewhere: its rule is given their numbers and moves those."""

    def register(moved: Move) -> Move:
        _registering((RULES, CONSTANTS), (name,), special)(lambda call: _moved(call, moved))
        return moved

    return register


def _registering(
    tables: tuple[dict[str, Rule], ...], names: tuple[str, ...], special: dict[str, Any]
) -> Callable[[Rule], Rule]:
    def register(one: Rule) -> Rule:
        for name in names:
            if any(name in table for table in tables) or (special and name in FACTS):
                raise ValueError(f"{name} is registered twice")
            for table in tables:
                table[name] = one
            if special:
                FACTS[name] = Facts(**special)
        return one

    return register


def _moved(call: Call, moved: Move) -> Result:
    """The entries of the first operand where the operation puts them."""
    x = call.operand(0)
    if x is None:
        raise Refused("the operand is missing")
    found = moved(call, numbering(x.shape))
    results: list[Tensor] = []
    for index in found if isinstance(found, list) else [found]:
        if index.size and (index.min() < 0 or index.max() >= math.prod(x.shape)):
            raise Refused("an index is out of range")
        results.append(call.builder.gather(x, index) if isinstance(x, Value) else x.ravel()[index])
    return results
