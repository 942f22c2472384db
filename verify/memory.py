"""How much memory the process may take, and what follows from it: how much is bounded at once, and waits.

There is one budget, of the process: a share of what the machine or its control group has, unless a command chooses another. Commands
also have the system refuse what would go beyond it: then an allocation fails, with an error that says so, where otherwise the kernel
would end the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from verify.errors import ResourceError

_SHARE = 0.8  # of the machine's memory
_RUNTIME_SHARE = 0.3  # of the budget: ONNX Runtime's process
_STORE_SHARE = 0.2  # open subproblems in memory; the store copies a part of it when it grows
# bytes for each worker; more gains nothing: batches and chunks are as large as is good for their speed
_PLENTY = 2 * 2**30
_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Memory:
    """A budget of so many bytes for the process and those that it starts."""

    bytes: int

    @property
    def of_runtime(self) -> int:
        """What ONNX Runtime's process may take."""
        return int(_RUNTIME_SHARE * self.bytes)

    @property
    def own(self) -> int:
        """What this process may take."""
        return self.bytes - self.of_runtime

    @property
    def store(self) -> int:
        """Bytes of open subproblems that wait in memory."""
        return min(2**30, int(_STORE_SHARE * self.bytes))

    @property
    def entries(self) -> int:
        """Numbers that a single tensor may have while a model is read."""
        return min(2**30, self.own // 8)

    def at_once(self, most: int, workers: int = 4) -> int:
        """How many of `most` values, which are good for speed, a worker bounds at once; fewer where memory is short."""
        return max(1, int(most * min(1.0, self.bytes / (workers * _PLENTY))))


_chosen: Memory | None = None


def budget() -> Memory:
    """The process's budget."""
    return _chosen or _of_machine()


def choose(size: int | None) -> None:
    """Makes so many bytes the process's budget; None for a share of the machine's."""
    global _chosen
    _chosen = None if size is None else Memory(size)


def enforce() -> None:
    """Has the system keep this process to its budget from now on. Raises ResourceError where that is spent already."""
    memory = budget()
    with suppress(ImportError, OSError, ValueError):  # where there is no such limit
        import resource

        resident, data = (_status(name) for name in ("VmRSS", "VmData"))
        left = memory.own - resident
        if left <= 0:
            raise ResourceError(
                f"of {memory.bytes >> 20} MiB of memory this process may have {memory.own >> 20}, and takes {resident >> 20} "
                "before it begins; give it more by --memory"
            )
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = data + left if hard == resource.RLIM_INFINITY else min(data + left, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _status(name: str) -> int:
    """A number of bytes that Linux tells of this process. Raises ValueError where there is none."""
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise ValueError(name)


@cache
def _of_machine() -> Memory:
    return Memory(int(_SHARE * min(_limits())))


def _limits() -> Iterator[int]:
    """What the machine has, and what the control groups that this process is in may have, outer ones included."""
    import os

    yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for folder in _folders():
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # "max" is none
                yield int((folder / name).read_text())


def _folders() -> Iterator[Path]:
    """The folders of this process's control groups, of both versions; in a container its own group is the top one."""
    groups = [(_GROUPS, "/"), (_GROUPS / "memory", "/")]
    with suppress(OSError, ValueError):
        for line in _OWN_GROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or "memory" in controllers.split(","):
                groups.append((_GROUPS / ("memory" if controllers else "."), path))
    for top, path in groups:
        folder = Path(path.strip("/"))
        yield from (top / part for part in (folder, *folder.parents))
