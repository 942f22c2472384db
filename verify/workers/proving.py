"""What runs on the machines of a cluster where certificates are proved: functions of the checker, and nothing of the search."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.checking import FAILURES, Share, prove_share
from verify.checker.container import parsed
from verify.checker.following import Incoming, follow
from verify.checker.multipliers import Arithmetic
from verify.checker.proof import Summary
from verify.checker.question import Question
from verify.errors import ResourceError
from verify.own_code import code

AHEAD = 4  # messages that may be on their way
CALLS = AHEAD + 3  # one more, the function, and a sign of life


def called(theirs: str, function: Callable[..., Summary], *arguments: object) -> Summary | Exception:
    """What a function returns or raises; an error where this machine has other code than who asks."""
    if theirs != code():
        return ResourceError(
            "--ray: a machine of the cluster has another version of verify; install the same one on all of them"
        )
    try:
        return function(*arguments)
    except FAILURES as problem:
        return problem


class Seat:
    """An actor in which one function is at work. Messages for it have numbers, since calls of an actor may overtake one another."""

    def __init__(self) -> None:
        self._waiting, self._taken = dict[int, Any](), 0
        self._changed = Condition()

    def run(self, theirs: str, function: Callable[..., Summary], *arguments: object) -> Summary | Exception:
        """What the function returns or raises, given where messages come in. theirs: the code of who asks."""
        return called(theirs, function, self, *arguments)

    def hear(self, number: int, message: object) -> None:
        """Returns once the function has taken the message."""
        with self._changed:
            self._waiting[number] = message
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._taken > number)

    def recv(self) -> Any:
        """The next message, for the function."""
        with self._changed:
            self._changed.wait_for(lambda: self._taken in self._waiting)
            message = self._waiting.pop(self._taken)
            self._taken += 1
            self._changed.notify_all()
            return message

    def alive(self) -> bool:
        """It lives."""
        return True


def following(line: Incoming, question: Question, arithmetic: Arithmetic, rows: str, share: Share) -> Summary:
    """A share of a certificate that comes in pieces. Raises Refused and NotProved."""
    return follow(line, lambda: question, arithmetic, rows, share)


def of_bytes(
    _: Incoming, data: NDArray[np.uint8], question: Question, arithmetic: Arithmetic, share: Share
) -> Summary:
    """A share of the certificate that these bytes are. Raises Refused and NotProved."""
    return prove_share(parsed(data), question, arithmetic, share)
