"""The register of operators: everything that loading knows of one of them, entered where its rule is written (`operators/`).

There are three ways in: `onnx` for an operator that gets past onnx2torch as it stands in the file, `converted` for one of which
onnx2torch makes a module, and `torch_call` for functions, methods and modules of torch. Nothing outside `operators/` names operators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from verify.errors import InputError
from verify.extensions import load_operator
from verify.loading.builder import Builder, Value
from verify.loading.calls import Rule

R = TypeVar("R", bound=Rule)


@dataclass(frozen=True)
class Operator:
    """What loading knows of an operator, by the name that ONNX gives it.

    module: the class of module that onnx2torch makes of it, empty where it arrives as it stands in the file.
    alike: a version of it that onnx2torch knows, where all versions differ in element types and devices only.
    computed: how it is executed where it arrives as it stands (a function of the module and its operands); without one, by ONNX's
    reference implementation.
    infinite: its operands but the first may hold infinity.
    moves: it puts entries elsewhere, and does nothing with them.
    static: its rule takes constants and sequences as well, and may give such; it is left to itself.

    Of integers:
    chooses: whatever it gives is an operand's entry, or a number of the type.
    casts: its result is of another type than its operand.
    wraps: a result that leaves its type comes back at the other end.
    truncates: it cuts its results to whole numbers, or does with these attributes.
    guard: makes its first operand one that it is exact for.
    check: raises Unsupported for constant operands whose result is none, or is rounded.
    """

    rule: Rule | None = None
    module: str = ""
    alike: int | None = None
    computed: Callable[..., Any] | None = None
    infinite: bool = False
    moves: bool = False
    static: bool = False
    chooses: bool = False
    casts: bool = False
    wraps: bool = True
    truncates: bool | Callable[[dict[str, bytes]], bool] = False
    guard: Callable[[Builder, Value, torch.dtype], Value] | None = None
    check: Callable[[list[Tensor]], None] | None = None

    @property
    def keeps(self) -> bool:
        """Whether its results are operands' entries, or such cast: exact in any type."""
        return self.moves or self.static or self.chooses or self.casts

    def cuts(self, attributes: dict[str, bytes]) -> bool:
        """Whether it would cut its results, had it integers."""
        return self.truncates(attributes) if callable(self.truncates) else self.truncates


OPERATORS: dict[str, Operator] = {}
CONVERTED: dict[
    str, Rule
] = {}  # rules of onnx2torch's modules, by class: it is not imported for a torch.nn.Module
TORCH: dict[Any, Rule] = {}  # rules of torch's functions, its modules by class, and its methods by name
GROWTH: dict[
    str, Callable[..., Sequence[float]]
] = {}  # of modules that make much of little: their results' shapes
_NOTHING = Operator()


def operator_of(name: str) -> Operator:
    """What is known of an operator; nothing, where it is not registered."""
    return OPERATORS.get(name, _NOTHING)


def extended(names: Iterable[str]) -> None:
    """Has installed packages register those operators that are not. Raises InputError for a package that declares one and has no rule for it."""
    for name in names:
        if name not in OPERATORS and (extension := load_operator(name)) and name not in OPERATORS:
            raise InputError(
                f"package {extension.package} {extension.version} declares the operator {name!r} and registers no rule for it; repair or uninstall it"
            )


def onnx(*names: str, **known: Any) -> Callable[[R], R]:
    """Registers the rule of operators that arrive as they stand in the file; `known`: fields of `Operator`."""

    def register(rule: R) -> R:
        for name in names:
            _enter(OPERATORS, name, Operator(rule, **known))
        return rule

    return register


def converted(module: str, *names: str, **known: Any) -> Callable[[R], R]:
    """Registers the rule of a class of onnx2torch's modules, which it makes of these operators; `known`: fields of `Operator`."""

    def register(rule: R) -> R:
        _enter(CONVERTED, module, rule)
        for name in names:
            _enter(OPERATORS, name, Operator(rule, module, **known))
        return rule

    return register


def torch_call(*spellings: Any) -> Callable[[R], R]:
    """Registers the rule of torch's functions, classes of modules, and methods by name."""

    def register(rule: R) -> R:
        for spelling in dict.fromkeys(spellings):
            _enter(TORCH, spelling, rule)
        return rule

    return register


def known(*names: str, **known: Any) -> None:
    """Registers operators whose rule, if there is one, is another's or that of a module of torch; `known`: fields of `Operator`."""
    for name in names:
        _enter(OPERATORS, name, Operator(**known))


def grows(module: str) -> Callable[[Callable[..., Sequence[float]]], Callable[..., Sequence[float]]]:
    """Registers what tells the shape that a class of onnx2torch's modules makes of constants."""

    def register(shape: Callable[..., Sequence[float]]) -> Callable[..., Sequence[float]]:
        _enter(GROWTH, module, shape)
        return shape

    return register


def _enter(table: dict[Any, Any], key: Any, entry: Any) -> None:
    if key in table:
        raise ValueError(f"{key} is registered twice")
    table[key] = entry
