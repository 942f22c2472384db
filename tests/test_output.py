"""The layer that writes: whole files beside their place, whole lines, locks that end with the process, and what is refused."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from verify import output
from verify.errors import InputError, UnwrittenError
from verify.output import Growing, Outputs, Partial, admit_folder, clean_up, write_whole

ROOT = Path(__file__).resolve().parents[1]


def names(folder: Path) -> set[str]:
    """All names, hidden ones too."""
    return set(os.listdir(folder))


# -- what is refused


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def link(path: Path) -> Path:
    path.symlink_to("/dev/null")
    return path


@pytest.mark.parametrize(
    "make", [folder, pipe, link, lambda _: Path("/dev/full"), lambda path: path.with_name("a\0b")]
)
def test_only_regular_files_are_written(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path / "target")
    for write in (
        lambda: Outputs([]).admit("--out", path),
        lambda: Partial("--out", path),
        lambda: Growing("--out", path),
    ):
        with pytest.raises(InputError, match="--out"):
            write()
    assert names(tmp_path) <= {"target"}


def hard(path: Path, to: Path) -> Path:
    path.hardlink_to(to)
    return path


def soft(path: Path, to: Path) -> Path:
    path.symlink_to(to)
    return path


def chain(path: Path, to: Path) -> Path:
    path.with_name("between").symlink_to(to)
    path.symlink_to("between")
    return path


def detour(path: Path, to: Path) -> Path:
    return to.parent / "folder" / ".." / to.name


@pytest.mark.parametrize("name", [lambda _, to: to, hard, soft, chain, detour])
def test_inputs_are_not_written(name: Callable[[Path, Path], Path], tmp_path: Path) -> None:
    """Under any of their names; what is read for an input counts as one."""
    (tmp_path / "folder").mkdir()
    model, weights = tmp_path / "model", tmp_path / "weights"
    for path in (model, weights):
        path.write_text("kept")
    outputs = Outputs([model], lambda _: [weights])
    with pytest.raises(InputError, match=r"is .*model, which is read; choose another file"):
        outputs.admit("--out", name(tmp_path / "other", model))
    (tmp_path / "other").unlink(missing_ok=True)
    (tmp_path / "between").unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"is .*weights, which is read with .*model; choose another file"):
        outputs.admit("--out", name(tmp_path / "other", weights))


def test_what_a_model_keeps_elsewhere_is_asked_for_where_it_matters(tmp_path: Path) -> None:
    """Not for files that are not there yet, or in another folder."""

    def never(_: Path) -> list[Path]:
        raise AssertionError

    (tmp_path / "models").mkdir()
    (tmp_path / "old").write_text("")
    outputs = Outputs([tmp_path / "models" / "model"], never)
    outputs.admit("--out", tmp_path / "old")
    outputs.admit("--report", tmp_path / "models" / "new")


def test_no_two_outputs_are_one(tmp_path: Path) -> None:
    """Nor is one where another is in the making; the same one may be admitted again."""
    outputs = Outputs([])
    outputs.admit("--out", tmp_path / "a")
    outputs.admit("--out", tmp_path / "a")
    outputs.admit("--log", None)
    (tmp_path / "b").symlink_to("a")
    for other in ("a", "b", ".a.verify-partial"):
        with pytest.raises(InputError, match="is that of --out too"):
            outputs.admit("--report", tmp_path / other)


def test_streams_of_the_process_are_not_written(tmp_path: Path) -> None:
    """`verify ... --log-json F > F`."""
    script = (
        "import sys, pathlib, verify.output as o; o.Outputs([]).admit('--out', pathlib.Path(sys.argv[1]))"
    )
    path = tmp_path / "file"
    with path.open("w") as file:
        done = subprocess.run(
            [sys.executable, "-c", script, path], stdout=file, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
    assert "is stdout too" in done.stderr


@pytest.mark.parametrize("kind", ["file", "file/below"])
def test_folders_that_are_none(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--witnesses.*Not a directory"):
        admit_folder("--witnesses", tmp_path / kind)
    admit_folder("--witnesses", tmp_path / "new" / "folder")
    assert names(tmp_path) == {"file"}


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, UnwrittenError), (errno.EDQUOT, UnwrittenError), (errno.EFBIG, UnwrittenError),
     (errno.EIO, UnwrittenError), (errno.EROFS, UnwrittenError), (errno.EACCES, UnwrittenError),
     (errno.ENOENT, InputError), (errno.ENOTDIR, InputError), (errno.ENAMETOOLONG, InputError)],
)  # fmt: skip
def test_whose_fault_it_is(number: int, kind: type[Exception]) -> None:
    """A path that leads nowhere is the user's; UnwrittenError has exit code 3."""
    with pytest.raises(kind, match=r"--out file: cannot be written"), output.reported("--out file"):
        raise OSError(number, os.strerror(number))
    assert UnwrittenError.exit_code == 3


# -- whole files


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with Partial("file", path) as partial:
        partial.write(b"new")
        assert path.read_text() == "old" and names(tmp_path) == {"file", ".file.verify-partial"}
        partial.publish()
    assert path.read_text() == "new" and names(tmp_path) == {"file"}


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_what_is_not_published_is_gone(error: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(error), Partial("file", tmp_path / "file") as partial:  # noqa: PT012
        partial.write(b"half")
        raise error
    assert not names(tmp_path)


def test_files_in_the_making_can_be_cleaned_up(tmp_path: Path) -> None:
    """By a process that ends without unwinding; another one's file of that name stays."""
    mine, other = Partial("file", tmp_path / "file"), Partial("other", tmp_path / "other")
    other.path.unlink()
    other.path.write_text("somebody else's")
    clean_up()
    assert names(tmp_path) == {".other.verify-partial"}
    for partial in (mine, other):
        partial.__exit__(None, None, None)
    clean_up()


def test_modes(tmp_path: Path) -> None:
    """A new file's is the umask's, an old one's stays."""
    before = os.umask(0o027)
    try:
        write_whole("new", tmp_path / "new", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "new").chmod(0o604)
    write_whole("new", tmp_path / "new", b"")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o604


@pytest.mark.parametrize("there", [True, False])
def test_links_are_written_through(there: bool, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, path = tmp_path / "folder" / "target", tmp_path / "link"
    path.symlink_to("folder/target")
    if there:
        target.write_text("old")
    write_whole("file", path, b"new")
    assert path.is_symlink() and target.read_text() == "new" and names(tmp_path / "folder") == {"target"}
    with closing(Growing("file", path)) as file:
        file.append("er")
    assert path.is_symlink() and target.read_text() == "newer"


def test_long_names(tmp_path: Path) -> None:
    """A name with no room for more is no name of another length."""
    write_whole("file", tmp_path / ("x" * 255), b"whole")
    assert names(tmp_path) == {"x" * 255}
    with pytest.raises(InputError, match="too long"):
        write_whole("file", tmp_path / ("x" * 256), b"whole")


@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_a_disk_that_fails_leaves_the_old_file(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UnwrittenError, match="No space left"), Partial("file", path) as partial:  # noqa: PT012
        if failing == "write":
            monkeypatch.setattr(partial, "file", closing_only(partial.file, fail))
        else:
            monkeypatch.setattr(*((os, "fsync") if failing == "fsync" else (Path, "replace")), fail)
        partial.write(b"new")
        partial.publish()
    assert path.read_text() == "old" and names(tmp_path) == {"file"}


def closing_only(file: Any, fail: Callable[..., None]) -> Any:
    """A file that takes nothing."""

    class Full:
        write = staticmethod(fail)
        close = file.close

    return Full()


# -- locks

HOLD = """
import sys, time, pathlib, verify.output as o
kind, path = getattr(o, sys.argv[1]), pathlib.Path(sys.argv[2])
file = kind("file", path)
print("held", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("kind", ["Partial", "Growing"])
def test_locks_end_with_the_process(kind: str, tmp_path: Path) -> None:
    """A second writer is refused; once the first was killed, nothing is in the way, and what it has left is gone."""
    path = tmp_path / "file"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, kind, path], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        before = names(tmp_path)
        with pytest.raises(InputError, match="another process is writing it"):
            getattr(output, kind)("file", path)
        assert names(tmp_path) == before
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    assert names(tmp_path) == before
    write_whole("file", path, b"whole")
    assert names(tmp_path) == {"file"}


def test_in_one_process_too(tmp_path: Path) -> None:
    with Partial("file", tmp_path / "file"), pytest.raises(InputError, match="another process"):
        Partial("file", tmp_path / "file")
    with closing(Growing("file", tmp_path / "file")), pytest.raises(InputError, match="another process"):
        Growing("file", tmp_path / "file")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_systems_without_locks(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two writers do not meet in one file in the making; a log or results say that they are not locked."""

    def no_locks(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(output.fcntl, "flock", no_locks)
    path = tmp_path / "file"
    with Partial("file", path) as first, Partial("file", path) as second:
        first.write(b"first")
        second.write(b"second")
        second.publish()
        assert path.read_text() == "second"
        first.publish()
    assert path.read_text() == "first" and names(tmp_path) == {"file"}
    with closing(Growing("file", path)) as file:
        assert not file.locked


@pytest.mark.parametrize("make", [folder, pipe, link])
def test_what_is_in_the_way_stays(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """Something else where a file in the making should be."""
    make(tmp_path / ".file.verify-partial")
    with pytest.raises((InputError, UnwrittenError), match="cannot be written"):
        Partial("file", tmp_path / "file")
    assert names(tmp_path) == {".file.verify-partial"}


# -- files that grow


def test_lines_are_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk is full in the middle of one."""
    path = tmp_path / "file"
    write = os.write

    def full(number: int, data: bytes) -> int:
        if len(data) <= 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(number, data[:4])

    with closing(Growing("file", path)) as file:
        file.append("one\n")
        with monkeypatch.context() as patch:
            patch.setattr(output.os, "write", full)
            with pytest.raises(UnwrittenError, match="No space left"):
                file.append("two three\n")
        assert path.read_text() == "one\n"
        file.append("four\n", kept=True)
        assert path.read_text() == "one\nfour\n" and file.read() == b"one\nfour\n"


def test_what_is_to_be_kept_needs_its_name(tmp_path: Path) -> None:
    """A row in a file that was taken away would be lost; a log that was moved goes on there."""
    path = tmp_path / "file"
    with closing(Growing("file", path)) as file:
        path.rename(tmp_path / "moved")
        file.append("line\n")
        with pytest.raises(UnwrittenError, match="taken away"):
            file.append("row\n", kept=True)
    assert (tmp_path / "moved").read_text() == "line\n"
