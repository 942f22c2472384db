"""Parcels over a socket: whole, or not at all. A side that is silent for too long counts as lost; while it works, it says that it lives."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

_COUNT, _SIZE = struct.Struct("<I"), struct.Struct("<Q")
_ALIVE, _RECALL = 2**32 - 1, 2**32 - 2  # in the place of a count
_PIECE = 2**22  # bytes that are sent or read at a time
_MOST = 2**40  # bytes that a piece of memory may have: more are a mistake


class LostError(Exception):
    """The other side has ended, or is silent."""


class Wire:
    """One end. seconds: how long the other side may be silent; None for ever."""

    def __init__(self, end: socket.socket, seconds: float | None) -> None:
        self._end, self._lock = end, threading.Lock()
        end.settimeout(seconds)

    def send(self, parcel: Sequence[bytes | bytearray | memoryview]) -> None:
        """A parcel. Raises LostError."""
        with self._lock:
            self._write(_COUNT.pack(len(parcel)))
            for piece in parcel:
                self._write(_SIZE.pack(len(memoryview(piece).cast("B"))))
                self._write(piece)

    def alive(self) -> None:
        """Says that this side lives. Raises LostError."""
        with self._lock:
            self._write(_COUNT.pack(_ALIVE))

    def recall(self) -> None:
        """Says that an answer is awaited soon; nothing where a parcel is on its way, or where nobody hears."""
        if self._lock.acquire(blocking=False):
            try:
                self._write(_COUNT.pack(_RECALL))
            except LostError:
                pass  # whoever waits for the answer learns of it
            finally:
                self._lock.release()

    def receive(self, recalled: Callable[[], None] = lambda: None) -> list[bytearray]:
        """A whole parcel. recalled: called when the other side awaits an answer. Raises LostError."""
        while True:
            (count,) = _COUNT.unpack(self._read(_COUNT.size))
            if count == _RECALL:
                recalled()
            elif count != _ALIVE:
                return [self._read(*_SIZE.unpack(self._read(_SIZE.size))) for _ in range(count)]

    def close(self) -> None:
        """The other side is told nothing more."""
        with suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        self._end.close()

    def _write(self, data: bytes | bytearray | memoryview) -> None:
        left = memoryview(data).cast("B")
        while left:
            try:
                left = left[self._end.send(left[:_PIECE]) :]
            except OSError as error:
                raise LostError(str(error)) from None

    def _read(self, size: int) -> bytearray:
        if size > _MOST:
            raise LostError(f"it announces {size} bytes")
        data = bytearray(size)
        left = memoryview(data)
        while left:
            try:
                count = self._end.recv_into(left, min(len(left), _PIECE))
            except OSError as error:
                raise LostError(str(error)) from None
            if not count:
                raise LostError("it has ended")
            left = left[count:]
        return data
