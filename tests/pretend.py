"""A device that is not the CPU, as far as PyTorch can tell: its tensors say `cuda:0`, hold their numbers on the CPU, and meet no others there.

Within `pretended()` operations fail where a GPU's would, that is, where tensors of two devices meet (but for copies, an index, and a single
number beside tensors). Written down in a `Journal` are all operations, and every wait: where a program on a GPU would stand still until that
has finished, because a number decides what comes next, a result's size depends on values, or memory is copied that is not pinned.
What is copied away without waiting cannot be read before a wait.

This tells nothing of speed, and nothing of a GPU's own arithmetic.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

import verify

DEVICE = torch.device("cuda", 0)
# what torch's own code is told, which asks a driver about others
_INNER = torch.device("meta")
_PACKAGE = str(Path(verify.__file__).parent)
# whose result's size depends on values
_SIZED_BY_VALUES = {
    "nonzero", "argwhere", "masked_select", "bincount", "_unique", "_unique2", "unique_dim", "unique_consecutive",
    "unique_dim_consecutive",
}  # fmt: skip
_NUMBERS = {"_local_scalar_dense", "equal", "is_nonzero"}
_COPIES = {"_to_copy", "copy_", "copy"}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
# of these there is nothing for a device to do
_VIEWS = {
    "view", "_unsafe_view", "expand", "slice", "select", "t", "transpose", "permute", "unsqueeze", "squeeze", "detach", "alias", "as_strided",
    "split", "split_with_sizes", "unbind", "unfold", "diagonal", "_reshape_alias", "lift_fresh", "lift", "empty", "empty_like", "new_empty",
    "empty_strided", "new_empty_strided", "crow_indices", "col_indices", "values", "is_pinned", "_pin_memory", "pin_memory", "is_same_size",
    "_sparse_compressed_tensor_unsafe", "_sparse_csr_tensor_unsafe", "sym_size", "prim_device",
}  # fmt: skip


class MixedDevicesError(RuntimeError):
    """An operation on tensors of two devices."""


@dataclass
class Journal:
    """What a program has had the device do so far. Places are `file:function` in the package, by the innermost."""

    operations: Counter[str] = field(default_factory=Counter)
    # by what made it wait, and where
    waits: Counter[tuple[str, str]] = field(default_factory=Counter)
    # how often it has waited: what was copied away since the last time has not arrived
    arrivals: int = 0

    @property
    def waited(self) -> int:
        """How often in all."""
        return sum(self.waits.values())

    @contextmanager
    def during(self) -> Iterator[Journal]:
        """What is written down meanwhile, which is there at the end."""
        found, before = Journal(), (self.operations.copy(), self.waits.copy())
        yield found
        found.operations.update(self.operations - before[0])
        found.waits.update(self.waits - before[1])

    def places(self) -> Counter[str]:
        """Waits by place."""
        found: Counter[str] = Counter()
        for (kind, place), count in self.waits.items():
            found[f"{place} ({kind})"] += count
        return found


class Elsewhere(torch.Tensor):
    """A tensor of the device; `held` has its numbers."""

    held: Tensor
    # whether it was a number in Python a moment ago
    number: bool = False
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        strided = held.layout == torch.strided
        sizes = tuple(held.shape)
        dense = tuple(reversed([1, *accumulate(reversed(sizes[1:]), lambda a, b: a * b)])) if sizes else ()
        found = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, sizes, strides=held.stride() if strided else dense,
            storage_offset=held.storage_offset() if strided else 0, dtype=held.dtype, layout=torch.strided, device=_INNER,
            requires_grad=False,
        )  # fmt: skip
        found.held = held
        return found  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        args, kwargs = tree_map(lambda one: _INNER if _is_there(one) else one, (args, kwargs))
        return super().to(*args, **kwargs)

    def __repr__(self, **_: Any) -> str:
        return f"elsewhere({self.held!r})"

    def __getitem__(self, key: Any) -> Tensor:
        return super().__getitem__(_placed(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(_placed(key), value)

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype).to(device or self.device)

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise MixedDevicesError(f"{func} outside of `pretended()`")


class _Pretend(TorchDispatchMode):
    """Carries operations out, on either device."""

    def __init__(self, journal: Journal, around: Callable[..., Any] | None) -> None:
        super().__init__()
        self.journal, self.around = journal, around
        self._lifts: list[bool] = []

    def __enter__(self) -> _Pretend:
        # numbers that are put into tensors come here on the CPU then, and are copied; of this thread
        self._lifts.append(torch._C._only_lift_cpu_tensors())  # type: ignore[attr-defined]
        torch._C._set_only_lift_cpu_tensors(True)  # type: ignore[attr-defined]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(self._lifts.pop())  # type: ignore[attr-defined]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        call = _Call(func, args, kwargs or {})
        if not call.on_device:
            self._check_arrived(call)
            return func(*args, **call.kwargs)
        call.check()
        wait = call.wait()
        place = _place() if wait else ""
        if wait:
            self.journal.waits[wait, place] += 1
            self.journal.arrivals += 1
        if call.name not in _VIEWS:
            self.journal.operations[call.name] += 1
        return call.result(self.journal, self.around)

    def _check_arrived(self, call: _Call) -> None:
        for tensor in call.plain:
            if getattr(tensor, "_under_way", -1) == self.journal.arrivals:
                raise MixedDevicesError(f"{call.name} reads at {_place()} what has not arrived yet")


class _Call:
    """One operation."""

    def __init__(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.func, self.args, self.kwargs = func, args, dict(kwargs)
        self.name: str = func._schema.name.split("::")[1]
        tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
        self.there = [one for one in tensors if isinstance(one, Elsewhere)]
        self.plain = [one for one in tensors if not isinstance(one, Elsewhere)]
        assert not any(one.is_meta for one in self.plain), (
            f"{self.name}: torch itself has made a tensor there"
        )
        self.pinned = bool(self.kwargs.get("pin_memory"))
        if self.pinned:
            self.kwargs["pin_memory"] = False
        named = self.kwargs.get("device")
        # None: it does not say
        self.target = None if named is None else named == _INNER or _is_there(named)
        self.on_device = bool(self.there) or self.target or self.name in ("_pin_memory", "is_pinned")
        self.gives_there = self.target or (self.target is None and bool(self.there))

    @property
    def copies(self) -> bool:
        return self.name in _COPIES

    def check(self) -> None:
        """Raises MixedDevicesError where a GPU's operation would fail."""
        if not (self.there and self.plain) or self.copies:
            return
        if self.name in _INDEXED and isinstance(self.args[0], Elsewhere):
            values = self.args[2] if len(self.args) > 2 else None
            bad = isinstance(values, Tensor) and not isinstance(values, Elsewhere) and values.dim() > 0
        elif torch.Tag.pointwise in self.func.tags or self.name in (
            "fill_",
            "lerp_",
            "where",
            "masked_fill_",
            "masked_fill",
        ):
            bad = any(one.dim() for one in self.plain)
        else:
            bad = True
        if bad:
            raise MixedDevicesError(f"{self.name} at {_place()} of tensors on cuda:0 and on the CPU")

    def wait(self) -> str:
        """What makes the program wait; empty: nothing."""
        if self.copies:
            return self._copy_waits()
        if self.name in _NUMBERS:
            return "number"
        if self.name in _SIZED_BY_VALUES or (
            self.name == "repeat_interleave" and self.kwargs.get("output_size") is None
        ):
            return "size"
        if self.name in _INDEXED:
            indices = [one for one in self.args[1] if isinstance(one, Tensor)]
            value = self.args[2] if len(self.args) > 2 else None
            # a fill: torch leaves numbers from Python on the CPU then
            one_value = isinstance(value, Tensor) and (
                (value.numel() == 1 and not isinstance(value, Elsewhere)) or _is_number(value)
            )
            if any(one.dtype in (torch.bool, torch.uint8) for one in indices) and not one_value:
                return "mask"
            if any(not isinstance(one, Elsewhere) for one in indices):
                return "index"
        return ""

    def _copy_waits(self) -> str:
        into, source = (self.args[0], self.args[1]) if self.name != "_to_copy" else (None, self.args[0])
        there = isinstance(into, Elsewhere) if into is not None else self.gives_there
        if isinstance(source, Elsewhere) == there or not source.numel():
            return ""
        # positional for copy_
        free = self.kwargs.get("non_blocking") or (
            self.name != "_to_copy" and len(self.args) > 2 and self.args[2]
        )
        if there:
            return "" if free and getattr(source, "_pinned", False) else "copy there"
        return "" if free and (into is None or getattr(into, "_pinned", False)) else "copy back"

    def result(self, journal: Journal, around: Callable[..., Any] | None) -> Any:
        """The operation carried out on what is held."""
        if self.name == "is_pinned":
            return getattr(self.args[0], "_pinned", False)
        if self.name == "_pin_memory":
            found = self.args[0].clone()
            found._pinned = True
            return found
        known = {id(one.held): one for one in self.there}
        args, kwargs = tree_map(_held, (self.args, self.kwargs))
        if self.target:
            kwargs["device"] = torch.device("cpu")
        run = self.func if around is None else _around(around, self.func)
        found = run(*args, **kwargs)
        if self.name == "_to_copy" and self.there and self.target is False:
            found = found.clone() if found is args[0] else found
            if not self._copy_waits() and found.numel():
                found._under_way = journal.arrivals
        if self.pinned:
            found._pinned = True

        def given(one: Any) -> Any:
            if not isinstance(one, Tensor) or isinstance(one, Elsewhere):
                return one
            if id(one) in known:
                return known[id(one)]
            if not self.gives_there:
                return one
            found = Elsewhere(one)
            found.number = self.name == "scalar_tensor" or (
                self.name == "_to_copy" and _is_number(self.args[0])
            )
            return found

        return tree_map(given, found)


def _is_number(one: Any) -> bool:
    return isinstance(one, Elsewhere) and one.number


def _is_there(one: Any) -> bool:
    """Whether it names the device."""
    return isinstance(one, torch.device | str) and str(one).partition(":")[0] == DEVICE.type


def _placed(key: Any) -> Any:
    """An index whose lists torch would make tensors of there."""
    parts = key if isinstance(key, tuple) else (key,)
    if not any(isinstance(part, list | range) for part in parts):
        return key
    return tuple(
        torch.tensor(list(part)).to(DEVICE) if isinstance(part, list | range) else part for part in parts
    )


def _held(one: Any) -> Any:
    return one.held if isinstance(one, Elsewhere) else one


def _around(around: Callable[..., Any], func: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: around(func, *args, **kwargs)


def _place() -> str:
    """Where in the package the program is."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_PACKAGE):
            return f"{name[len(_PACKAGE) + 1 :]}:{frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"


@contextmanager
def pretended(around: Callable[..., Any] | None = None, devices: int = 1) -> Iterator[Journal]:
    """There are so many such devices, torch thinks; threads that searches begin know of them too.

    around: is called with every operation on one, as `around(operation, *arguments)`, and carries it out: to get something wrong on purpose.
    """
    journal = Journal()
    torch._C._ensureCUDADeviceGuardSet()
    with ExitStack() as stack:
        for name, value in {
            "_lazy_init": None, "is_available": True, "current_device": 0, "device_count": devices, "get_device_name": "pretended",
            "empty_cache": None, "mem_get_info": (2**33, 2**34), "synchronize": None, "reset_peak_memory_stats": None,
            "max_memory_allocated": 0, "set_sync_debug_mode": None,
        }.items():  # fmt: skip
            stack.enter_context(patch.object(torch.cuda, name, lambda *_, _value=value, **__: _value))
        stack.enter_context(patch("verify.bab.executor.ThreadPoolExecutor", _knowing(journal, around)))
        stack.enter_context(_Pretend(journal, around))
        yield journal


def _knowing(journal: Journal, around: Callable[..., Any] | None) -> type[ThreadPoolExecutor]:
    """Threads in which jobs run as they do here."""

    class Knowing(ThreadPoolExecutor):
        def submit(self, job: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            def run(*args: Any, **kwargs: Any) -> Any:
                with _Pretend(journal, around):
                    return job(*args, **kwargs)

            return super().submit(run, *args, **kwargs)

    return Knowing
