"""What stands in a text beside its statements, and characters that not all readers take for the same.

SMT-LIB, whose syntax VNN-LIB 1.0 has, knows four characters of white space (space, tab, LF, CR), ends a comment at LF or CR,
and has strings and quoted symbols, in which semicolons and parentheses mean nothing. A reader that sees any of that
otherwise sees other statements, so a proof would be about another property: what is not clear is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NoReturn, TypeAlias

Fail: TypeAlias = Callable[[int, str, str], NoReturn]  # with place, reason and remedy

# some take them for white space or ends of lines
_UNCLEAR = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x85\u2028\u2029]")
_ASIDE = re.compile(r'"[^"]*"|\|[^|]*\||;[^\n\r]*|["|]')
_FOREIGN = re.compile(r'"(?:[^"\\\n\r]|\\.)*"|([^\x00-\x7f])')
_LINE = re.compile(r"\r\n?|\n")


def position(text: str, place: int) -> tuple[int, int]:
    """Line and column, from 1, of a place."""
    ends = [match.end() for match in _LINE.finditer(text, 0, place)]
    return len(ends) + 1, place - (ends[-1] if ends else 0) + 1


def check_characters(text: str, fail: Fail) -> None:
    """Fail at a character that some readers take for white space or for the end of a line, wherever it stands."""
    unclear = _UNCLEAR.search(text)
    if unclear is not None:
        reason = f"the character {unclear.group()!a} means different things to different readers"
        fail(unclear.start(), reason, "leave it out; write spaces, and end lines by a line feed")


def check_foreign(text: str, fail: Fail) -> None:
    """Fail at a character beyond ASCII that stands in no string."""
    if text.isascii():
        return
    for match in _FOREIGN.finditer(text):
        if match.group(1):
            reason = f"the character {match.group()!a} stands outside comments"
            fail(match.start(), reason, "write names and numbers in ASCII")


def without_asides(text: str, fail: Fail) -> str:
    """A text with spaces for comments and underscores for what stands between quotation marks, so that places stay."""
    check_characters(text, fail)

    def blank(match: re.Match[str]) -> str:
        found = match.group()
        if found[0] == ";":
            return " " * len(found)
        if len(found) == 1:
            fail(match.start(), f"this quotation ({found}) does not end", f"write the missing {found}")
        if "\\" in found:
            reason = "a backslash in a quotation: it may or may not take the meaning of what follows"
            fail(match.start(), reason, "leave it out")
        return found[0] + re.sub(r"[^\n\r]", "_", found[1:])

    text = _ASIDE.sub(blank, text) if any(mark in text for mark in ';"|') else text
    check_foreign(text, fail)
    return text
