"""The grammar of VNN-LIB 1.0: text in, atoms and a tree over them out.

Nearly all text consists of long runs of one shape (`(assert (<= X_0 0.5))`, or such atoms within `and`). One
compiled regular expression checks a whole run; then splitting at white space and dictionary lookups do the
rest in C. Whatever does not fit goes through a small recursive reader, which also writes the error messages:
if a run holds an undeclared name, the run is taken back and read slowly up to the exact place.
"""

from __future__ import annotations

import re
from array import array
from fractions import Fraction
from operator import eq as same
from operator import invert

import numpy as np

from verify.deadline import tick
from verify.errors import SpecificationError
from verify.formats.vnnlib.formula import EQ, GE, GT, LE, LT, All, AnyOf, Atoms, Formula, Node, compare
from verify.formats.vnnlib.literals import (
    Literals,
    RightSides,
    TooExtreme,
)
from verify.formats.vnnlib.term_reader import MAXIMUM_DEPTH, OPERATORS, TermReader, is_variable
from verify.formats.vnnlib.terms import Linear, representable, scaled, total
from verify.formats.vnnlib.text import without_asides

_MIRRORED = (GE, GT, LE, LT, EQ)
_IGNORED = frozenset({"set-logic", "set-info", "set-option"})
_ENDING = frozenset({"check-sat", "get-model", "exit"})
_DECLARING = frozenset({"declare-const", "declare-fun"})

_ATOM = r"\(\s*[<>=]+\s+[^\s()]+\s+[^\s()]+\s*\)\s*"
_ATOM_RUN = re.compile(rf"(?:{_ATOM}){{1,20000}}", re.ASCII)
_CONJUNCTION = re.compile(rf"\(\s*and\s*(?:{_ATOM}){{1,20000}}\)\s*", re.ASCII)
_ASSERT_RUN = re.compile(rf"(?:\(\s*assert\s*{_ATOM}\)\s*){{1,20000}}", re.ASCII)
_DECLARE_RUN = re.compile(r"(?:\(\s*declare-const\s+[XY]_\d+\s+Real\s*\)\s*){1,20000}", re.ASCII)
_VERSION = re.compile(r"\s+(?:1\.0|<1\.0>)\s*\)", re.ASCII)
_NO_WORD, _AND_WORD, _ASSERT_WORDS = slice(0, 0), slice(0, 1), slice(0, None, 4)
# a term, and then a comparison where only prefix operators should stand
_IS_INFIX = re.compile(
    r"\(\s*(?:\(\s*[-+*/](?=[\s(])|(?![-+*/<>=!]+\s|and\s|or\s)[^\s()]+(?:\s*\[[^\[\]()]*\])?\s+(?:[<>=!]=|[<>=])(?=[\s(]))",
    re.ASCII,
).match


def _tokens(text: str) -> list[str]:
    """The words of a checked run, parentheses left out."""
    return text.replace("(", " ").replace(")", " ").split()


class Reader(TermReader):
    """One pass over the text; before `slow_until` no runs are tried.

    Comments and quotations are blanked beforehand by as many other characters, so every position is one of the
    original text.
    """

    def __init__(self, text: str, source: str) -> None:
        super().__init__(text, source)
        self.text = without_asides(text, self._fail)
        self.slow_until = 0
        self.ended = ""  # the statement that ends the property, once it is read
        self.right_sides = RightSides()
        self.operator, self.left, self.right = array("b"), array("i"), array("i")
        self.rows: list[Linear] = []
        self.parts: list[Node] = []

    def read(self) -> tuple[int, int, Formula]:
        """Read all statements: numbers of inputs and of outputs, and the formula."""
        while self._peek():
            tick()
            if self._declare_run():
                continue
            node = self._assertions()
            if node:
                self.parts.append(node)
            else:
                self._statement()
        inputs, outputs = self._declared("X", "inputs"), self._declared("Y", "outputs")
        return inputs, outputs, self.formula()

    def formula(self) -> Formula:
        """What has been read, as a conjunction."""
        literals = Literals(self.right_sides.literals)
        right = np.array(self.right, dtype=np.int32)
        right = np.where(right < 0, right, literals.rank[np.maximum(right, 0)].astype(np.int32))
        operator, left = np.array(self.operator, dtype=np.int8), np.array(self.left, dtype=np.int32)
        return Formula(operator, left, right, self.rows, literals, All(tuple(self.parts)))

    def _declare_run(self) -> bool:
        match = None if self.ended else _DECLARE_RUN.match(self.text, self.at)
        if match is None:
            return False
        names = _tokens(match.group())[1::3]
        fresh = set(names)
        repeated = len(fresh) != len(names) or not self.names.keys().isdisjoint(fresh)
        if repeated or not all(map(is_variable, names)):
            return False
        for name in names:
            self._declare(name)
        self.at = match.end()
        return True

    def _declare(self, name: str) -> None:
        code = 2 * int(name[2:]) + (name[0] == "Y")
        self.names[name] = code
        self.right_sides[name] = -1 - code

    def _assertions(self) -> Atoms | None:
        """Read a run of simple assertions, if there is one."""
        return None if self.ended else self._run(_ASSERT_RUN, _ASSERT_WORDS)

    def _run(self, pattern: re.Pattern[str], others: slice) -> Atoms | None:
        """Read a run of atoms that a pattern checks, `others` being its words that belong to no atom.

        Returns None, with nothing read, where there is none or `_add` declines; runs are not tried again
        before the end of one that was declined, which would take quadratic time.
        """
        match = pattern.match(self.text, self.at) if self.at >= self.slow_until else None
        if match is None:
            return None
        tokens = _tokens(match.group())
        del tokens[others]
        node = self._add(tokens)
        if node is None:
            self.slow_until = match.end()
        else:
            self.at = match.end()
        return node

    def _add(self, tokens: list[str]) -> Atoms | None:
        """Add atoms given as operator, variable, right side, ...; None, with nothing kept, if that fails."""
        start = len(self.left)
        try:
            self.left.extend(map(self.names.__getitem__, tokens[1::3]))
            self.right.extend(map(self.right_sides.__getitem__, tokens[2::3]))
            self.operator.extend(map(OPERATORS.__getitem__, tokens[0::3]))
            kept = not any(map(same, self.left[start:], map(invert, self.right[start:])))
        except (KeyError, TooExtreme):
            kept = False
        if kept:
            return Atoms(start, len(self.left))
        # something is unknown, or compares a variable with itself, which is a constant: the slow way sees to it
        del self.left[start:], self.right[start:], self.operator[start:]
        return None

    def _statement(self) -> None:
        opened = self.at
        if self.text[opened] == ")":
            self._fail(opened, "this closing parenthesis has no opening one", "remove it")
        if self.text[opened] != "(":
            reason = f"found {self._found()}, expected '('"
            self._fail(opened, reason, "write (declare-const ...) or (assert ...)")
        place, head = self._head(opened, "'declare-const' or 'assert'")
        if self.ended and (head in _DECLARING or head == "assert"):
            reason = f"{head} comes after ({self.ended}), which does not ask about it"
            self._fail(place, reason, f"move ({self.ended}) to the end")
        if head in _DECLARING:
            self._declare_statement(opened, head)
        elif head == "assert":
            self._inside(opened)
            self.parts.append(self._formula(0))
            self._close(opened, "the formula of assert")
        elif head in _IGNORED:
            self._ignore(opened)
        elif head in _ENDING:
            self.ended = head
            self._ignore(opened)
        elif head == "vnnlib-version" and not self.names and (match := _VERSION.match(self.text, self.at)):
            self.at = match.end()
            self._note(
                place, "a version, which VNN-LIB 1.0 has no statement for, is taken to be said of the text"
            )
        elif head in ("vnnlib-version", "declare-network"):
            reason = f"this is VNN-LIB 2.0 ({head}), not 1.0"
            self._fail(place, reason, "read it with verify.formats.vnnlib2, which reads both")
        else:
            self._fail(place, f"unknown statement {head!r}", "use declare-const and assert only")

    def _declare_statement(self, opened: int, head: str) -> None:
        self._inside(opened)
        place = self.at
        name = self._word("a variable")
        if not is_variable(name):
            remedy = "name inputs X_0, X_1, ... and outputs Y_0, ..."
            self._fail(place, f"{name!r} is no variable of VNN-LIB 1.0", remedy)
        if name in self.names:
            self._fail(place, f"{name} is declared twice", "remove one of the declarations")
        if head == "declare-fun":
            self._no_arguments(opened, name)
        self._inside(opened)
        place = self.at
        sort = self._word("Real")
        if sort.lower() != "real":
            self._fail(place, f"unknown type {sort!r} of {name}", "declare it as Real")
        if sort != "Real":
            self._note(place, f"the type {sort} is read as Real")
        self._declare(name)
        self._close(opened, "the declaration")

    def _no_arguments(self, opened: int, name: str) -> None:
        """The empty list of arguments of a function that is a constant."""
        self._inside(opened)
        place = self.at
        if self.text[place] != "(":
            self._fail(place, f"found {self._found()} after {name}", "write (declare-fun X_0 () Real)")
        self.at += 1
        if self._more(place):
            self._fail(
                place,
                f"{name} is a function of something",
                "declare inputs and outputs by (declare-const X_0 Real)",
            )

    def _declared(self, letter: str, kind: str) -> int:
        """How many inputs or outputs there are; fails when there are none or the numbering has a gap."""
        numbers = sorted(code // 2 for code in self.names.values() if code % 2 == (letter == "Y"))
        if not numbers:
            remedy = f"add (declare-const {letter}_0 Real)"
            raise SpecificationError(self.source, None, None, f"no {kind} are declared", remedy)
        gap = next((k for k, number in enumerate(numbers) if k != number), None)
        if gap is not None:
            name = f"{letter}_{numbers[gap]}"
            reason = f"{name} is declared but {letter}_{gap} is not"
            self._fail(self.declaration(name), reason, f"declare {letter}_0, {letter}_1, ... without gaps")
        return len(numbers)

    # -- formulas

    def _formula(self, depth: int) -> Node:
        tick()
        first = self._peek()
        opened = self.at
        if depth > MAXIMUM_DEPTH:
            self._fail(opened, f"formula nested deeper than {MAXIMUM_DEPTH}", "flatten it")
        if first != "(":
            reason = f"found {self._found()}, expected a formula"
            self._fail(opened, reason, "write (<= ...), (and ...) or (or ...)")
        node = self._run(_CONJUNCTION, _AND_WORD)
        if node:
            return node
        if _IS_INFIX(self.text, opened):
            return self._related(*self._around(opened), opened)
        place, head = self._head(opened, "an operator")
        if head in ("and", "or"):
            return self._connective(head, opened, depth)
        if head not in self.comparisons:
            self._unknown_operator(place, head)
        return self._related(head, *self._sides(head, opened), opened)

    def _connective(self, head: str, opened: int, depth: int) -> Node:
        parts: list[Node] = []
        while self._more(opened):
            node = self._run(_ATOM_RUN, _NO_WORD)
            if node and head == "or":
                parts.extend(Atoms(k, k + 1) for k in range(node.start, node.stop))
            else:
                parts.append(node or self._formula(depth + 1))
        return All(tuple(parts)) if head == "and" else AnyOf(tuple(parts))

    def _related(self, head: str, left: Linear, right: Linear, opened: int) -> Node:
        """The formula `left head right` of a comparison that begins at `opened`."""
        return self._compared(OPERATORS[head], left, right, opened)

    def _around(self, opened: int) -> tuple[str, Linear, Linear]:
        """A comparison with its operator in the middle, which can mean one thing alone: operator and terms."""
        self.at = opened + 1
        left = self._term(0)
        self._inside(opened)
        place, head = self.at, self._word("a comparison")
        if head not in self.comparisons:
            self._unknown_operator(place, head)
        right = self._term(0)
        self._close(opened, f"the second term of {head!r}")
        self._note(opened, "a comparison with its operator in the middle, (a <= b), is read as (<= a b)")
        return head, left, right

    def _sides(self, head: str, opened: int) -> tuple[Linear, Linear]:
        """The rest of a comparison: its two terms."""
        sides: list[Linear] = []
        while self._more(opened):
            if len(sides) == 2:
                remedy = "compare two terms, or close the parenthesis"
                self._fail(self.at, f"{head!r} has more than two arguments", remedy)
            sides.append(self._term(0))
        if len(sides) < 2:
            self._fail(opened, f"{head!r} has {len(sides)} of its two arguments", "compare two terms")
        return sides[0], sides[1]

    def _compared(self, operator: int, left: Linear, right: Linear, opened: int) -> Node:
        """The atom `left operator right` of a comparison that begins at `opened`."""
        try:
            return self._relate(operator, left, right)
        except TooExtreme:
            reason = "this comparison has a number that no float64 can hold, or of more digits than are computed with"
            self._fail(opened, reason, "scale it or round it")

    def _relate(self, operator: int, left: Linear, right: Linear) -> Node:
        """The atom `left operator right`, in the simplest form that says the same."""
        coefficients, constant = total([left, scaled(right, Fraction(-1))])
        if not coefficients:
            return All(()) if compare(operator, constant, Fraction(0)) else AnyOf(())
        if len(coefficients) == 1:
            ((variable, factor),) = coefficients.items()
            code = operator if factor > 0 else _MIRRORED[operator]
            return self._append(code, variable, self.right_sides.add(-constant / factor))
        self.rows.append(representable((coefficients, -constant)))
        return self._append(operator, -len(self.rows), 0)

    def _append(self, operator: int, left: int, right: int) -> Atoms:
        self.operator.append(operator)
        self.left.append(left)
        self.right.append(right)
        return Atoms(len(self.left) - 1, len(self.left))
