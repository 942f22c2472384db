"""How much is worked on at once, by where it is: what suits a CPU's caches, or as much more as a GPU has memory for; less once that ran out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import ParamSpec, TypeVar

import torch

from verify.errors import is_out_of_memory
from verify.memory import budget

P = ParamSpec("P")
T = TypeVar("T")

_SHARE = 0.5  # of a GPU's memory that was free: what is kept between steps needs some, too
_PLENTY = 2 * 2**30  # bytes that a worker on the CPU gets by with
_FEWEST = 2**-8  # of what was thought to fit
# by device, how often memory ran out there in this run
_halved: Counter[torch.device] = Counter()


def forget() -> None:
    """Another run begins, which may have more memory."""
    _halved.clear()


def times(device: torch.device) -> float:
    """How many times as much as suits a CPU is worked on at once."""
    more = 1.0 if device.type == "cpu" else max(1.0, _SHARE * _free(device) / _PLENTY)
    return more * float(0.5 ** _halved[device])


def at_once(most: int, device: torch.device, workers: int = 4) -> int:
    """How many of `most` values, which are good for a CPU's speed, a worker bounds at once on a device."""
    many = budget().at_once(most, workers) if device.type == "cpu" else most
    return max(1, int(many * times(device)))


def fitted(device: torch.device, work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """What work brings on a device. Where its memory runs out, the work is done again with half as much at once, and so on.

    Raises what it raised once that is next to nothing. The work must leave nothing behind when it fails.
    """
    while True:
        try:
            return work(*given, **named)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or times(device) <= _FEWEST:
                raise
            _halved[device] += 1


@cache
def _free(device: torch.device) -> int:
    """What was free when it was first asked about."""
    return torch.cuda.mem_get_info(device)[0]
