"""What goes between a search's owner and its workers: jobs one way, what they found the other way.

Jobs are callables with all that they need, most of which is the same each time: the problem, networks, root bounds, cuts. A worker is
sent each of those once; from then on it goes by a number, in both directions, and what is the same object here is the same object there.
Tensors travel as they lie in memory. Only processes of ours read what is packed here: it is as trusted as they are.
"""

from __future__ import annotations

import io
import itertools
import pickle
import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verify.bab.box_bounds import Groups
from verify.bab.cut_pool import CutPool
from verify.bab.effort import Effort
from verify.bab.root_bounds import RootBounds
from verify.bab.steps import Steps
from verify.bab.strategy import Objectives
from verify.deadline import Deadline
from verify.errors import InputError, InternalError
from verify.lagrangian.cuts import Cuts
from verify.network.graph import Network
from verify.problem import Problem
from verify.proof.certificate import CertificateTracer

Parcel = list[bytes]  # pickled things, and the memory that they refer to
# What is sent once
_LASTING = (Problem, Network, Objectives, Steps, RootBounds, CutPool, Cuts, Groups, CertificateTracer, Effort)
_KINDS = [torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.int8, torch.bool]
_SMALL = 2**12  # bytes of memory that are copied rather than sent by themselves


@dataclass(frozen=True)
class _Packed:
    """Something pickled: its bytes, the memory that it refers to, and the numbers of what lasts that it speaks of."""

    data: bytes
    memory: list[Any]
    speaks_of: list[int]


class Catalogue:
    """The numbers of what is sent once, for as long as anybody has it here, and how it is packed. For any number of threads."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._things: dict[int, weakref.ref[Any]] = {}
        self._packed: dict[int, _Packed] = {}
        self._next, self._lock = itertools.count(), threading.RLock()

    def number(self, thing: Any) -> int:
        """Its number, a new one where it has none."""
        with self._lock:
            if (number := self._numbers.get(id(thing))) is None:
                number = self._numbers[id(thing)] = next(self._next)
                self._things[number] = weakref.ref(thing, self._forgetting(id(thing), number))
            return number

    def _forgetting(self, place: int, number: int) -> Callable[[Any], None]:
        def forget(_: Any) -> None:
            with self._lock:  # before anything else can have its place in memory
                del self._numbers[place], self._things[number]
                self._packed.pop(number, None)

        return forget

    def thing(self, number: int) -> Any:
        """What has this number."""
        with self._lock:
            reference = self._things.get(number)
        if reference is None or (thing := reference()) is None:
            raise InternalError(f"a worker speaks of what is not there (number {number})")
        return thing

    def known(self, number: int) -> bool:
        """Whether anybody has it."""
        with self._lock:
            return number in self._things

    def lasting(self, number: int) -> _Packed:
        """What has this number, packed; once for all workers."""
        with self._lock:
            if (packed := self._packed.get(number)) is None:
                packed = self._packed[number] = self.packed(self.thing(number), number)
            return packed

    def packed(self, thing: Any, itself: int = -1) -> _Packed:
        """Anything; what lasts in it goes by its number, but for itself."""
        memory: list[Any] = []
        speaks_of: dict[int, None] = {}

        def reference(part: Any) -> int | None:
            if (number := self.number(part)) == itself:
                return None
            speaks_of[number] = None
            return number

        return _Packed(_dumped(thing, reference, memory), memory, list(speaks_of))


class Sender:
    """Packs jobs for one worker, and reads what it found."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._sent: set[int] = set()

    def packed(self, job: Callable[[], Any]) -> Parcel:
        """A job with what this worker has not been sent yet. Raises InputError where it cannot travel."""
        main, introduced, memory = self._catalogue.packed(job), list[tuple[int, bytes, int]](), list[Any]()
        for number in main.speaks_of:
            self._introduce(number, introduced, memory)
        gone = [number for number in self._sent if not self._catalogue.known(number)]
        self._sent.difference_update(gone)
        return [pickle.dumps((introduced, gone, (main.data, len(main.memory)))), *memory, *main.memory]

    def _introduce(self, number: int, introduced: list[tuple[int, bytes, int]], memory: list[Any]) -> None:
        """Something that lasts, after what it speaks of, unless this worker has it."""
        if number in self._sent:
            return
        packed = self._catalogue.lasting(number)
        for other in packed.speaks_of:
            self._introduce(other, introduced, memory)
        introduced.append((number, packed.data, len(packed.memory)))
        memory += packed.memory
        self._sent.add(number)

    def unpacked(self, parcel: Sequence[bytes | bytearray]) -> Any:
        """What a worker found."""
        return _loaded(parcel[0], parcel[1:], self._catalogue.thing)


class Receiver:
    """A worker's side of it."""

    def __init__(self) -> None:
        self._things: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}

    def unpacked(self, parcel: Sequence[bytes | bytearray]) -> Callable[[], Any]:
        """The job."""
        introduced, gone, (main, count) = pickle.loads(parcel[0])
        pieces = iter(parcel[1:])
        for number, data, own in introduced:
            thing = _loaded(data, list(itertools.islice(pieces, own)), self._things.__getitem__)
            self._things[number], self._numbers[id(thing)] = thing, number
        for number in gone:
            del self._numbers[id(self._things.pop(number))]
        job: Callable[[], Any] = _loaded(
            main, list(itertools.islice(pieces, count)), self._things.__getitem__
        )
        return job

    def packed(self, found: Any) -> Parcel:
        """What was found."""
        memory: list[bytes] = []
        return [
            _dumped(
                found,
                lambda part: self._numbers.get(id(part)),
                memory,
            ),
            *memory,
        ]


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, reference: Callable[[Any], int | None], memory: list[Any]) -> None:
        super().__init__(file, protocol=5, buffer_callback=partial(_in_band, memory))
        self._reference = reference

    def reducer_override(self, part: Any) -> Any:
        # (not by `persistent_id`, which every number and every word is asked for)
        if isinstance(part, _LASTING) and (number := self._reference(part)) is not None:
            return _thing, (number,)
        if type(part) is Tensor:
            return _reduced(part)
        if type(part) is Deadline:
            return Deadline.after, (None if part.at == float("inf") else part.remaining,)
        return NotImplemented


def _in_band(memory: list[Any], piece: pickle.PickleBuffer) -> bool:
    """Whether a piece of memory goes into what is pickled; others are sent by themselves."""
    raw = piece.raw()
    if raw.nbytes > _SMALL:
        memory.append(raw)
    return raw.nbytes <= _SMALL


class _Unpickler(pickle.Unpickler):
    def __init__(
        self, file: io.BytesIO, thing: Callable[[int], Any], memory: Sequence[bytes | bytearray]
    ) -> None:
        super().__init__(file, buffers=memory)
        self._thing = thing

    def find_class(self, module: str, name: str) -> Any:
        if module == __name__ and name == _thing.__name__:
            return self._thing
        return super().find_class(module, name)


def _thing(number: int) -> Any:
    """What has this number; whoever unpacks knows."""
    raise NotImplementedError


def _dumped(thing: Any, reference: Callable[[Any], int | None], memory: list[Any]) -> bytes:
    file = io.BytesIO()
    try:
        _Pickler(file, reference, memory).dump(thing)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"this search cannot be sent to other processes ({error}); leave --workers and --ray out"
        ) from error
    return file.getvalue()


def _loaded(data: bytes | bytearray, memory: Sequence[bytes | bytearray], thing: Callable[[int], Any]) -> Any:
    with warnings.catch_warnings():
        # of memory that nobody may write to, and nobody does; and of the first sparse matrix that such are young
        warnings.simplefilter("ignore", UserWarning)
        return _Unpickler(io.BytesIO(data), thing, memory).load()


def _reduced(tensor: Tensor) -> Any:
    """How a tensor of the processor is made again."""
    if tensor.layout is torch.sparse_csr:
        parts = tensor.crow_indices(), tensor.col_indices(), tensor.values()
        return _sparse, (*(part.detach() for part in parts), tuple(tensor.shape))
    if tensor.nbytes <= _SMALL and tensor.dtype in _KINDS:
        data = tensor.detach().contiguous().numpy().tobytes()
        return _small, (data, _KINDS.index(tensor.dtype), tuple(tensor.shape))
    order = sorted(range(tensor.dim()), key=lambda axis: -tensor.stride()[axis])
    turned = tensor.detach().permute(order)
    if not turned.is_contiguous():
        order, turned = list(range(tensor.dim())), tensor.detach().contiguous()
    return _dense, (turned.numpy(), tuple(order.index(axis) for axis in range(tensor.dim())))


def _small(data: bytes, kind: int, shape: tuple[int, ...]) -> Tensor:
    if not data:
        return torch.zeros(shape, dtype=_KINDS[kind])
    return torch.frombuffer(bytearray(data), dtype=_KINDS[kind]).view(shape)


def _dense(array: NDArray[Any], order: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.asarray(array)).permute(order)


def _sparse(starts: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.sparse_csr_tensor(starts, columns, values, size)
