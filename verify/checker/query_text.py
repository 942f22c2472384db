"""From a property file's bytes to text that holds nothing but statements; refused where another reader may see others.

By SMT-LIB, white space is space, tab, LF and CR; a comment ends at LF or CR; strings and quoted symbols may hold anything.
"""

from __future__ import annotations

import re

from verify.checker.errors import Refused

unclear = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x85\u2028\u2029]"
).search  # white space or line ends to some
aside = re.compile(r';[^\n\r]*|"[^"]*"?|\|[^|]*\|?')


def decoded(data: bytes) -> str:
    """The text of a file. Raises Refused."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(f"byte {error.start} is not UTF-8") from error


def statements_of(text: str) -> str:
    """A text without comments, and with quotations that hold nothing. Raises Refused."""
    doubt = unclear(text)
    if doubt:
        raise Refused(f"the character {doubt[0]!a}, which readers take for different things")
    plain = aside.sub(_replaced, text)
    if not plain.isascii():
        raise Refused("a character beyond ASCII outside comments")
    return plain


def _replaced(match: re.Match[str]) -> str:
    """What stands for a comment or a quotation: as many lines."""
    found = match[0]
    if found[0] == ";":
        return ""
    if len(found) == 1 or found[-1] != found[0] or "\\" in found:
        raise Refused(f"the quotation {found[:60]!r} does not end, or not clearly")
    return found[0] + "\n" * found.count("\n") + found[0]
