"""Everything that is written: never over a device or an input, never in half, never by two at once.

A file that is of use only when whole (`Partial`) grows beside its place as `.NAME.verify-partial` and takes its place once it is
complete and on the disk. A file that grows in sight (`Growing`: a log, a suite's results) gets whole lines. Both are locked
meanwhile; the lock ends with the process, however that goes, so what a killed one has left is told from what another is
writing, and is removed by the next that writes the same file. Symbolic links are followed: the file that they lead to is
written, or made anew.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from verify.errors import InputError, UnwrittenError, VerifyError

if sys.platform != "win32":
    import fcntl

Identity = tuple[int, int]  # of a file, whatever its names
_WRONG_PATH = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL,
}  # fmt: skip
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_STREAMS = ("stdin", "stdout", "stderr")
_LONGEST_NAME = 255
_unfinished: dict[Path, Identity] = {}


def as_json(record: Any) -> str:
    """A record as JSON, which has no infinite numbers and none that is no number: they are null."""
    return json.dumps(_of_numbers(record), allow_nan=False)


def _of_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _of_numbers(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_of_numbers(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def clean_up() -> None:
    """Removes all files in the making, for a process that is about to end without unwinding."""
    for path, identity in list(_unfinished.items()):
        with suppress(OSError):
            if _identity(os.lstat(path)) == identity:
                path.unlink()


def scratch_folder() -> str:
    """The folder for nameless files: TMPDIR or /tmp, and no other where that one cannot be used."""
    return os.environ.get("TMPDIR") or tempfile.tempdir or "/tmp"


def _unwritten(what: str, error: OSError) -> VerifyError:
    """The error of ours for one of the system's: InputError for a path that leads nowhere, else UnwrittenError."""
    text = f"{what}: cannot be written ({error.strerror or error}); choose a file that can be written to"
    return InputError(text) if error.errno in _WRONG_PATH else UnwrittenError(text)


@contextmanager
def reported(what: str) -> Iterator[None]:
    """Within it, the system's errors become errors of ours about `what`."""
    try:
        yield
    except OSError as error:
        raise _unwritten(what, error) from None


# -- where to


class Outputs:
    """The files that one command writes: none is an input, a device or a stream of its own, and no two are one.

    data_files: what else is read for an input, which is asked where something in its folder or below would be overwritten.
    """

    def __init__(
        self, inputs: Iterable[Path], data_files: Callable[[Path], Iterable[Path]] = lambda _: ()
    ) -> None:
        self._inputs, self._data_files = list(inputs), data_files
        self._taken: dict[Identity | Path, str] = {}
        for number, name in enumerate(_STREAMS):
            with suppress(OSError):
                self._taken[_identity(os.fstat(number))] = f"is {name} too"
        for path in self._inputs:
            self._read(path, path)

    def _read(self, path: Path, owner: Path) -> None:
        with suppress(OSError):
            words = f"is {path}, which is read" + (f" with {owner}" if path != owner else "")
            self._taken.setdefault(_identity(path.stat()), words)

    def admit(self, option: str, path: Path | None) -> None:
        """Refuses a file with InputError, or UnwrittenError where the system does; it may be admitted again as the same option."""
        if path is None:
            return
        what, own = f"{option} {path}", f"is that of {option} too"
        place = _place(what, path)
        with reported(what):  # such as a name that is too long
            keys = [key for file in (place, _partial_of(place)) for key in self._keys(file)]
        for key in keys:
            if self._taken.setdefault(key, own) != own:
                raise InputError(f"{what}: {self._taken[key]}; choose another file")

    def _keys(self, file: Path) -> Iterator[Identity | Path]:
        """What a file is known by."""
        yield file
        if file.exists():
            for owner in self._inputs:
                if Path(os.path.realpath(owner)).parent in file.parents:
                    for path in self._data_files(owner):
                        self._read(path, owner)
            yield _identity(file.stat())


def admit_folder(option: str, path: Path | None) -> None:
    """Refuses a folder that is a file, or that nothing can be made in, as `Outputs.admit` does."""
    if path is not None:
        place = Path(os.path.realpath(path))
        place = next((one for one in (place, *place.parents) if os.path.lexists(one)), place)
        if not os.access(place, os.W_OK | os.X_OK) or not place.is_dir():
            number = errno.EACCES if place.is_dir() else errno.ENOTDIR
            raise _unwritten(f"{option} {path}", OSError(number, os.strerror(number)))


def _place(what: str, path: Path) -> Path:
    """Where a path leads: a file that may be overwritten, or nothing yet."""
    try:
        place = Path(os.path.realpath(path))
        with reported(what):
            mode = _mode(path)
    except ValueError as error:  # of a zero byte
        raise InputError(f"{what}: is no path ({error})") from None
    if mode is None:
        return place
    if not stat.S_ISREG(mode) or not place.exists():  # /dev/stdout may lead to a file without a name
        kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise InputError(f"{what}: is {kind}; choose a file, which is made or overwritten")
    if not os.access(place, os.W_OK):
        raise _unwritten(what, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    return place


def _mode(path: Path) -> int | None:
    with suppress(FileNotFoundError):
        return path.stat().st_mode
    return None


def _partial_of(place: Path) -> Path:
    name = f".{place.name}.verify-partial"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = f".{hashlib.sha256(os.fsencode(place.name)).hexdigest()}.verify-partial"
    return place.with_name(name)


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


# -- locks


def _lock(what: str, number: int) -> bool:
    """Locks an open file until it is closed; False where the file system has no locks. InputError where it is locked."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"{what}: another process is writing it; wait for its end, or choose another file"
        ) from None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


def _still(path: Path, number: int) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return _identity(os.lstat(path)) == _identity(os.fstat(number))
    except FileNotFoundError:
        return False


# -- files that appear when they are whole


class Partial:
    """A file in the making. It takes its place when it is published, and is gone when it is left without that.

    Raises InputError and UnwrittenError.
    """

    def __init__(self, what: str, path: Path) -> None:
        self.what, self._target = what, _place(what, path)
        with reported(what):
            self.path, number = self._claimed(_partial_of(self._target))
            _unfinished[self.path] = _identity(os.fstat(number))
            self.file = os.fdopen(number, "w+b")

    def _claimed(self, path: Path) -> tuple[Path, int]:
        """A new file, locked; with a name that nobody else has where there are no locks."""
        while True:
            try:
                number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                if not self._removed(path):
                    return self._claimed(path.with_name(f"{path.name[:200]}-{secrets.token_hex(8)}"))
                continue
            try:
                locked = _lock(self.what, number)
                if not locked or _still(path, number):
                    return path, number
            except BaseException:
                os.close(number)
                raise
            os.close(number)

    def _removed(self, path: Path) -> bool:
        """Removes what a killed process has left; False where that cannot be told from what another is writing."""
        try:
            number = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return True
        try:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                raise OSError(errno.EEXIST, f"{path} is in the way")
            if not _lock(self.what, number):
                return False
            if _still(path, number):
                path.unlink()
            return True
        finally:
            os.close(number)

    def __enter__(self) -> Partial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.path in _unfinished:
            with suppress(OSError):
                self.path.unlink()
            del _unfinished[self.path]
        with suppress(OSError):  # what is left in its buffer has nowhere to go
            self.file.close()

    def write(self, data: bytes | memoryview) -> None:
        """More bytes."""
        with reported(self.what):
            self.file.write(data)

    def sync(self) -> None:
        """All bytes to the disk, for others to read."""
        with reported(self.what):
            self.file.flush()
            os.fsync(self.file.fileno())

    def publish(self) -> None:
        """Takes its place, with the mode of the file that was there."""
        self.sync()
        with reported(self.what):
            if self._target.exists():
                with suppress(PermissionError):
                    os.fchmod(self.file.fileno(), stat.S_IMODE(self._target.stat().st_mode))
            self.path.replace(self._target)
            del _unfinished[self.path]
            _sync_folder(self._target.parent)


def _sync_folder(folder: Path) -> None:
    """The folder's entries to the disk, on file systems that can."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def write_whole(what: str, path: Path, data: bytes) -> None:
    """A whole file, in a folder that is made if need be. Raises InputError and UnwrittenError."""
    with reported(what):
        path.parent.mkdir(parents=True, exist_ok=True)
    with Partial(what, path) as partial:
        partial.write(data)
        partial.publish()


# -- files that grow in sight


class Growing:
    """A file that gets whole lines, each at once; locked until it is closed (`locked` says whether that was possible).

    Raises InputError and UnwrittenError.
    """

    def __init__(self, what: str, path: Path) -> None:
        self.what, self._path = what, _place(what, path)
        with reported(what):
            self._file, self.locked = self._opened()

    def _opened(self) -> tuple[int, bool]:
        while True:
            number = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                locked = _lock(self.what, number)
                if not locked or _still(self._path, number):
                    return number, locked
            except BaseException:
                os.close(number)
                raise
            os.close(number)

    def read(self) -> bytes:
        """What it holds."""
        with reported(self.what), os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(0)
            return file.read()

    def cut(self, length: int) -> None:
        """Keeps the first bytes alone."""
        with reported(self.what):
            os.ftruncate(self._file, length)

    def append(self, line: str, kept: bool = False) -> None:
        """A whole line or nothing; `kept`: on the disk, and only while the file has its name."""
        with reported(self.what):
            if kept and not _still(self._path, self._file):
                raise OSError(errno.ESTALE, "it was taken away while it was in use")
            end = os.fstat(self._file).st_size
            try:
                _write(self._file, line.encode(errors="surrogateescape"))
            except OSError:
                os.ftruncate(self._file, end)
                raise
            if kept:
                os.fsync(self._file)

    def close(self) -> None:
        """To the disk, as far as that goes; others may write it then."""
        with suppress(OSError):
            os.fsync(self._file)
        os.close(self._file)


def _write(number: int, data: bytes) -> None:
    while data:
        data = data[os.write(number, data) :]
