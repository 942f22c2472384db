"""What a kind of block is: a rule of proof, registered by the number that files have for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeVar

from verify.checker.proof import Proof
from verify.checker.stream import Cursor

RULES: dict[int, type[Rule]] = {}
R = TypeVar("R", bound="type[Rule]")


class Rule:
    """One kind of block: how its numbers are read, and what it takes to prove it.

    everywhere: every process proves its own neurons of each block; blocks of other kinds are dealt out. counted: what the first
    number of a block counts. closes: whether those are nodes that it closes. effort: how many times as long its bytes take to prove as
    those of bounds and slopes.
    """

    code: ClassVar[int]
    name: ClassVar[str]
    everywhere: ClassVar[bool] = False
    counted: ClassVar[str] = "nodes"
    closes: ClassVar[bool] = False
    effort: ClassVar[float] = 1

    @classmethod
    def take_in(cls, proof: Proof, cursor: Cursor, prove: bool) -> None:
        """Adds a block to the proof, and proves it if asked to. Raises Refused and NotProved."""
        raise NotImplementedError

    @classmethod
    def entries(cls, cursor: Cursor) -> int:
        """How many nodes, roots or claims a block has. Raises Refused where it is cut short."""
        return cursor.integer()


def register(code: int, name: str) -> Callable[[R], R]:
    """Makes a class the rule for blocks with the number `code`."""

    def registered(rule: R) -> R:
        if code in RULES:
            raise ValueError(f"blocks {code} are {RULES[code].name}")
        rule.code, rule.name = code, name
        RULES[code] = rule
        return rule

    return registered
