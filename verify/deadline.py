"""Time limits that hold: every loop of the search asks, and the one that finds it is late unwinds to the top."""

from __future__ import annotations

import time
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
