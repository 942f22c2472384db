"""A place in a text of VNN-LIB: what comes next there, and errors that name line and column."""

from __future__ import annotations

import re
from typing import NoReturn

from verify.deadline import tick
from verify.errors import SpecificationError
from verify.formats.vnnlib.text import position

_SPACE = re.compile(r"\s*", re.ASCII)
_WORD = re.compile(r"[^\s()]+", re.ASCII)
_STATEMENT = re.compile(r"\(\s*(?:assert|declare-const|declare-fun)(?![^\s()])", re.ASCII)


class Cursor:
    """`at` is the position of the next unread character."""

    def __init__(self, text: str, source: str) -> None:
        self.text, self.source, self.at = text, source, 0
        self._read_as: dict[str, list[int]] = {}  # of what is not as the standard has it: the places

    def _note(self, place: int, reading: str) -> None:
        """Keep in mind how something was read that is not as the standard has it, and means one thing all the same."""
        self._read_as.setdefault(reading, []).append(place)

    @property
    def notes(self) -> tuple[str, ...]:
        """How the text was read where it is not as the standard has it: a line for each kind, with its first place."""
        return tuple(map(self._noted, self._read_as, self._read_as.values()))

    def _noted(self, reading: str, places: list[int]) -> str:
        line, column = self.position(places[0])
        others = f" (and so {len(places) - 1} more)" if len(places) > 1 else ""
        return f"{self.source}:{line}:{column}: {reading}{others}"

    def _fail(self, place: int, reason: str, remedy: str) -> NoReturn:
        line, column = self.position(place)
        raise SpecificationError(self.source, line, column, reason, remedy)

    def position(self, place: int) -> tuple[int, int]:
        """Line and column, from 1, of a position."""
        return position(self.text, place)

    def _peek(self) -> str:
        """The next character that is no white space, or an empty string; `at` moves there."""
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.text[self.at : self.at + 1]

    def _word(self, wanted: str) -> str:
        """The next word; fails if there is a parenthesis or nothing."""
        self._peek()
        match = _WORD.match(self.text, self.at)
        if match is None:
            self._fail(self.at, f"found {self._found()}, expected {wanted}", f"write {wanted}")
        self.at = match.end()
        return match.group()

    def _found(self) -> str:
        """What comes next, for messages."""
        if not self._peek():
            return "the end of the file"
        match = _WORD.match(self.text, self.at)
        return repr(match.group()[:60] if match else self.text[self.at])

    def _inside(self, opened: int) -> None:
        """Fail if the text ends here, or the next statement begins, though a parenthesis is open."""
        if not self._peek() or _STATEMENT.match(self.text, self.at):
            line, column = self.position(self.at)
            reason = f"this parenthesis is not closed before {self._found()} at line {line}, column {column}"
            self._fail(opened, reason, "write the missing ')'")

    def _more(self, opened: int) -> bool:
        """Whether something stands before the closing parenthesis, which is read otherwise."""
        self._inside(opened)
        if self.text[self.at] != ")":
            return True
        self.at += 1
        return False

    def _close(self, opened: int, after: str) -> None:
        if self._more(opened):
            self._fail(self.at, f"found {self._found()} after {after}", f"write ')' after {after}")

    def _head(self, opened: int, wanted: str) -> tuple[int, str]:
        """Position and text of the word after an opening parenthesis."""
        self.at = opened + 1
        self._inside(opened)
        place = self.at
        return place, self._word(wanted)

    def _ignore(self, opened: int) -> None:
        depth = 1
        while depth:
            self._inside(opened)
            tick()
            if self.text[self.at] in "()":
                depth += 1 if self.text[self.at] == "(" else -1
                self.at += 1
            else:
                self._word("a word")

    def declaration(self, name: str) -> int:
        """Position of a variable's name in its declaration."""
        match = re.search(rf"\(\s*declare-(?:const|fun)\s+({name})\s", self.text)
        return match.start(1) if match else 0

    # -- statements
