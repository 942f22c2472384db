"""Time limits that hold: every loop of the search asks, and the one that finds it is late unwinds to the top.

Loops that are handed a deadline ask it. What runs below them node by node (sweeps, intervals, a model's walk) asks the
deadline that its thread works under, by `tick`: a sweep through a large network takes longer than a limit may be overrun.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Event


class OutOfTimeError(Exception):
    """The deadline has passed; caught where the verdict is made, never shown to the user."""


@dataclass(frozen=True)
class Deadline:
    """A point of `time.monotonic()`; infinity where there is no limit. It has passed, too, once `called_off` is set."""

    at: float = float("inf")
    called_off: Event = field(default_factory=Event)

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """The deadline `seconds` from now; None for no limit."""
        return cls() if seconds is None else cls(time.monotonic() + seconds)

    @property
    def remaining(self) -> float:
        """Seconds left, negative when late."""
        return float("-inf") if self.called_off.is_set() else self.at - time.monotonic()

    def check(self) -> None:
        """Raises OutOfTimeError once the deadline has passed."""
        if self.remaining <= 0:
            raise OutOfTimeError

    def within(self, seconds: float) -> Deadline:
        """The earlier of this deadline and `seconds` from now."""
        return replace(self, at=min(self.at, time.monotonic() + seconds))

    def share(self, fraction: float, unlimited: float = 60.0) -> Deadline:
        """A share of the time that is left; of `unlimited` seconds where there is no limit."""
        left = min(self.remaining, unlimited) if self.at == float("inf") else self.remaining
        return self.within(fraction * left)

    def tick_here(self) -> None:
        """From now on this thread's `tick` checks this deadline."""
        _OF_THREAD.deadline = self

    @contextmanager
    def ticking(self) -> Iterator[None]:
        """Within it, this thread's `tick` checks this deadline."""
        before = _OF_THREAD.deadline
        self.tick_here()
        try:
            yield
        finally:
            before.tick_here()


class _OfThread(threading.local):
    """The deadline that each thread works under."""

    deadline = Deadline()


_OF_THREAD = _OfThread()


def patience(most: float) -> float:
    """How many seconds a call that cannot be stopped may take: `most`, or what is left to this thread. Raises OutOfTimeError."""
    tick()
    return min(most, _OF_THREAD.deadline.remaining)


def tick() -> None:
    """Raises OutOfTimeError once the deadline that this thread works under has passed."""
    _OF_THREAD.deadline.check()
