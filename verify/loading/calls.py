"""One operation of a `torch.fx` graph as a lowering rule sees it.

Arguments are already evaluated: each is a `Value` (depends on the network's input) or a plain constant
(tensor, number, tuple, None). A rule turns a call into new nodes of the builder and returns the `Value` they
end in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from verify.loading.builder import Builder, Value
from verify.network.activations.integer import LARGEST_EXACT

NO_RULE = "there is no rule for it yet"
MOST_PRODUCTS = 2**22  # that one operator may be made of
# variables that an operator may be made into; one of more products or exponentials stays whole
MOST_BOUNDED = 8192


class Unsupported(Exception):
    """Why a rule does not cover a call; the walk adds the node's name, operator and opset."""


@dataclass(frozen=True)
class Call:
    """`function(*args, **kwargs)`; `module` is the called module, or None for a function or method."""

    builder: Builder
    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    module: Any = None

    def argument(self, place: int, *names: str, default: Any = None) -> Any:
        """The argument at `place` or under one of its names."""
        if place < len(self.args):
            return self.args[place]
        return next((self.kwargs[name] for name in names if name in self.kwargs), default)

    @property
    def x(self) -> Value:
        """The first argument, which must depend on the input."""
        first = self.argument(0, "input", "x")
        if not isinstance(first, Value):
            raise Unsupported(
                "its first operand is a constant and another one depends on the network's input"
            )
        return first

    def constant(self, place: int, *names: str, default: Any = None) -> Any:
        """A constant argument."""
        found = self.argument(place, *names, default=default)
        if isinstance(found, Value):
            raise Unsupported(
                f"operand {place} ({', '.join(names) or 'unnamed'}) depends on the network's input"
            )
        return found

    def setting(self, place: int, name: str, default: Any = None) -> Any:
        """What torch calls a setting: an attribute of the module, or a constant argument of the function."""
        if self.module is None:
            return self.constant(place, name, default=default)
        found = getattr(self.module, name, default)
        return found.detach() if isinstance(found, Tensor) else found

    def operands(self, letters: str) -> list[Any]:
        """Operands of an ONNX operator that arrives as it stands in the file: they are called a, b, c, .."""
        return [self.argument("abcdefgh".index(letter), letter) for letter in letters]

    def constants(self, letters: str) -> list[Any]:
        """Those, which must be constant."""
        return [self.constant("abcdefgh".index(letter), letter) for letter in letters]

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes of an ONNX operator that arrives as it stands in the file."""
        found: dict[str, Any] = self.module.attributes
        return found


# what a rule gives: values, or of `static` ones sequences and constants, too
Rule = Callable[[Call], "Value | tuple[Value, ...] | list[Any]"]


def tensor(value: Any) -> Tensor:
    """A constant as a float64 tensor. Raises Unsupported for integers that float64 does not hold."""
    found = torch.as_tensor(value)
    if not found.is_floating_point() and found.numel() and float(found.double().abs().max()) > LARGEST_EXACT:
        raise Unsupported("it takes constant integers beyond 2^53, which float64 does not hold")
    return found.to(torch.float64)


def limit(count: int, what: str) -> None:
    """Refuses what would not fit into memory with its bounds."""
    if count > MOST_PRODUCTS:
        raise Unsupported(f"it is made of {count} {what}; at most {MOST_PRODUCTS} are supported")


def integers(value: Any, count: int | None = None) -> tuple[int, ...]:
    """A constant as integers; a single number stands for `count` equal ones."""
    numbers = value.flatten().tolist() if isinstance(value, Tensor) else value
    if isinstance(numbers, int):
        numbers = [numbers]
    found = tuple(int(number) for number in numbers)
    return found * count if count is not None and len(found) == 1 else found


def integer(value: Any) -> int:
    """A constant as one integer."""
    (number,) = integers(value)
    return number


def axes_of(value: Any, rank: int) -> tuple[int, ...]:
    """Axes counted from the front; None stands for all of them."""
    return tuple(range(rank)) if value is None else tuple(sorted(axis % rank for axis in integers(value)))
