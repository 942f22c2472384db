"""The words of VNN-LIB 2.0, one after the other; refused where another reader may see others.

A comment ends with its line. What is no word of the standard as it is written, between white space or parentheses, is refused: numbers
divided by a bar, indices with a sign or a leading zero, names with other characters, terms between blanks.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple, NoReturn

from verify.checker.errors import Refused
from verify.checker.query_formula import check_time
from verify.checker.query_text import unclear

_NUMBER = r"(?:0|[1-9]\d{0,8})"
_LIST = rf"\[\s*{_NUMBER}(?:\s*,\s*{_NUMBER})*\s*\]"
_WORDS = {
    "element": rf"[A-Za-z][A-Za-z0-9_]*{_LIST}",
    "shape": rf"\[\s*\]|{_LIST}",
    "string": r'"[ !#-\[\]-~]+"',
    "version": r"<2\.0>",
    "number": r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?",
    "name": r"[A-Za-z][A-Za-z0-9_-]*",
    "operator": r"[<>]=?|==?|!=|[-+*]",
}
_blank = re.compile(r"(?:\s|;[^\n]*)*", re.ASCII).match
_word = re.compile(
    "(?P<parenthesis>[()])|(?:" + "|".join(f"(?P<{k}>{p})" for k, p in _WORDS.items()) + r")(?=[\s();]|\Z)",
    re.ASCII,
).match
_integers = re.compile(r"\d+", re.ASCII).findall
_begins = re.compile(r"\(\s*vnnlib-version(?=[\s()])", re.ASCII).match
LONE_RETURN = re.compile(r"\r(?!\n)").search
END = "the end"


class Word(NamedTuple):
    """A word and its kind: `parenthesis`, one of `_WORDS`, or `END` behind the last one."""

    kind: str
    text: str

    @property
    def tensor(self) -> str:
        """The variable whose element this is."""
        return self.text.partition("[")[0]

    @property
    def indices(self) -> tuple[int, ...]:
        """The numbers between an element's or a shape's brackets; none without."""
        return tuple(map(int, _integers(self.text.partition("[")[2])))


def is_version_2(text: str) -> bool:
    """Whether a text begins with the statement that texts of version 2.0 have to begin with, and no others may have."""
    blank = _blank(text)
    return blank is not None and _begins(text, blank.end()) is not None


class Words:
    """One pass over a text; `word` is the next one. Raises Refused, and NotProved past `until` (of `time.monotonic`)."""

    def __init__(self, text: str, until: float = math.inf) -> None:
        self.text, self.until = text, until
        self.word, self._place, self._end = Word(END, ""), 0, 0
        doubt = unclear(text) or LONE_RETURN(text)
        if doubt:
            raise Refused(f"the character {doubt[0]!a}, which readers take for different things")
        self._advance()

    def _advance(self) -> None:
        blank = _blank(self.text, self._end)
        assert blank is not None  # it matches nothing, too
        self._place = blank.end()
        match = _word(self.text, self._place)
        if match:
            self.word, self._end = Word(match.lastgroup or "", match[0]), match.end()
        elif self._place < len(self.text):
            self.fail(f"{self.text[self._place : self._place + 20]!a} begins with no word of VNN-LIB 2.0")
        else:
            self.word, self._end = Word(END, ""), self._place

    def fail(self, reason: str) -> NoReturn:
        """Refuse, with the line of the next word."""
        line = self.text.count("\n", 0, self._place) + 1
        raise Refused(f"line {line}: {reason}")

    def next(self, *kinds: str) -> Word:
        """Read a word that must be of one of these kinds."""
        found = self.word
        if found.kind not in kinds:
            self.fail(f"found {found.text[:60] or found.kind!a}, expected a {' or a '.join(kinds)}")
        self._advance()
        return found

    def expect(self, *texts: str) -> None:
        """Read words that must be these."""
        for text in texts:
            if self.word.text != text:
                self.fail(f"found {self.word.text[:60] or self.word.kind!a}, expected {text!r}")
            self._advance()

    def more(self) -> bool:
        """Whether something stands before the closing parenthesis, which is read otherwise."""
        check_time(self.until)
        if self.word.text != ")":
            return True
        self._advance()
        return False
