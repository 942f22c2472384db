"""How many subproblems are split at a time, where more at a time may be faster: measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

_FASTER = 0.9  # of the time that each takes half as many at a time: then twice as many are tried


@dataclass
class Pace:
    """now: as many at a time. Twice as many as long as each takes less time then; no limit where there is none to begin with."""

    now: float = math.inf
    _most: float = math.inf
    _seconds: dict[float, float] = field(default_factory=dict)

    def took(self, count: int, seconds: float) -> None:
        """So many subproblems at a time took so many seconds each."""
        if count != self.now or seconds <= 0:
            return
        # the least: others may have been on the machine, or something looked up for the first time
        own = self._seconds[count] = min(self._seconds.get(count, math.inf), seconds)
        half = self._seconds.get(count // 2, math.inf)
        if own < _FASTER * half and 2 * count <= self._most:
            self.now = 2 * count
        elif own > half:
            self.now = self._most = count // 2
