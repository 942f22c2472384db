"""No command opens a socket or writes but where it is told: seen by Python's audit hook and, where there is strace, by the kernel.

The hook knows what Python does, in all processes of a command but that of ONNX Runtime; strace knows what libraries do as well.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONTROLLER = ROOT / "properties" / "controller"
MODEL = CONTROLLER / "onnx" / "controller.onnx"
SAT, UNSAT = (CONTROLLER / "vnnlib" / f"{name}.vnnlib" for name in ("thrust_bound_tight", "ordered_thrusts"))

HOOK = """
import os, sys
report = os.open(os.environ["AUDIT"], os.O_WRONLY | os.O_APPEND)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
           "os.utime", "os.setxattr", "tempfile.mkdtemp", "tempfile.mkstemp"}
def hook(event, arguments):
    path = arguments[1 if event == "os.rename" else 0] if arguments else None
    if event.startswith("socket."):
        said = "socket", event
    elif (event == "open" and arguments[2] & WRITING or event in CHANGES) and not isinstance(path, int):
        if event == "os.mkdir" and os.path.isdir(path):
            return
        said = "write", path
    else:
        return
    os.write(report, "{} {}\\n".format(*said).encode())
sys.addaudithook(hook)
"""
CALLS = (
    "open openat creat mkdir mkdirat mknod mknodat rename renameat renameat2 unlink unlinkat rmdir link linkat symlink symlinkat "
    "truncate chmod fchmodat socket socketpair connect bind"
).split()
WRITING = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC")


@dataclass(frozen=True)
class Case:
    """A command, how it ends, and the names that it may write in its folder."""

    arguments: Sequence[object]
    names: Sequence[str] = ()
    code: int = 0


RUN = ("run", "--device", "cpu", "--timeout", 600)
CASES = {
    "run": Case([*RUN, MODEL, UNSAT]),
    "run, sat": Case([*RUN, MODEL, SAT, "--certificate", "proof"], ["proof", ".proof.verify-partial"]),
    "run, all options": Case(
        [*RUN, MODEL, UNSAT, "--certificate", "proof", "--log-json", "log", "--trim"],
        ["proof", ".proof.verify-partial", "log"],
    ),
    "run, bad input": Case([*RUN, MODEL, "nowhere", "--log-json", "log"], code=2),
    "check": Case(["check", "given", MODEL, UNSAT]),
    "check, in processes": Case(["check", "given", MODEL, UNSAT, "--exact", "--jobs", 2]),
    "show": Case(["certificate", "show", "given", MODEL, UNSAT]),
    "trim": Case(
        ["certificate", "trim", "given", MODEL, UNSAT, "thin"], ["thin", ".thin.verify-partial"]
    ),
    "bounds": Case(["bounds", "--device", "cpu", MODEL, UNSAT]),
    "bounds, lp": Case(["bounds", "--device", "cpu", "--method", "lp", MODEL, UNSAT]),
    "info": Case(["info", MODEL, UNSAT]),
    "verify": Case(
        ["verify", SAT, "--network", f"f={MODEL}", "--device", "cpu", "--serialise-assignments", "found"],
        ["found", "found/X.pb", "found/.X.pb.verify-partial", "found/Y.pb", "found/.Y.pb.verify-partial"],
    ),
    "supports": Case(["supports", "--onnx-operators"]),
    "suite": Case(
        ["suite", "table.csv", "--out", "r.csv", "--report", "r.html", "--witnesses", "found", "--device", "cpu"],
        ["r.csv", "r.html", ".r.html.verify-partial", "found", "found/here", "found/here/controller_p.counterexample",
         "found/here/.controller_p.counterexample.verify-partial"],
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a command runs: its folder, and a home and a folder for temporary files that are empty and stay so."""

    here: Path
    home: Path
    scratch: Path
    report: Path
    hooks: Path

    @classmethod
    def made(cls, folder: Path, proof: Path) -> Place:
        """A folder with what the commands read."""
        place = cls(*(folder / name for name in ("here", "home", "scratch", "report", "hooks")))
        for path in (place.here, place.home, place.scratch, place.hooks):
            path.mkdir()
        place.home.chmod(0o500)
        place.report.touch()
        (place.hooks / "sitecustomize.py").write_text(HOOK)
        shutil.copy(proof, place.here / "given")
        shutil.copy(MODEL, place.here / "controller.onnx")
        shutil.copy(SAT, place.here / "p.vnnlib")
        (place.here / "table.csv").write_text("controller.onnx,p.vnnlib,600\n")
        return place

    def run(self, case: Case, *before: str) -> None:
        """Runs a case, after which nothing may be left but what it names."""
        was = names(self.here)
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(self.home), "TMPDIR": str(self.scratch), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{self.hooks}{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1",
            "AUDIT": str(self.report),
        }  # fmt: skip
        done = subprocess.run(
            [*before, sys.executable, "-m", "verify", *map(str, case.arguments)], env=environment, cwd=self.here,
            capture_output=True, text=True, timeout=280,
        )  # fmt: skip
        assert done.returncode == case.code, done.stderr
        lasting = {name for name in case.names if not name.endswith(".verify-partial")}
        assert names(self.here) == was | lasting
        assert not names(self.home) and not names(self.scratch)

    def assert_told(self, case: Case, paths: set[str]) -> None:
        """What was written is what was named. (A certificate's tensors are in files without names, in its folder.)"""
        assert bool(case.names) <= bool(paths), "something is seen"
        allowed = {self.here / name for name in case.names} | {self.here, self.report, Path("/dev/null")}
        found = {Path(os.path.realpath(self.here / path)) for path in paths}
        assert {path for path in found - allowed if self.scratch not in path.parents} == set()


def names(folder: Path) -> set[str]:
    """All paths in a folder, hidden ones too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def proof(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate."""
    from verify import api

    path = tmp_path_factory.mktemp("proof") / "proof"
    assert api.verify(MODEL, UNSAT, device="cpu", certificate=path).verdict == "unsat"
    return path


@pytest.fixture(scope="module")
def strace() -> list[str]:
    """What traces a command into files, one a thread, whose name begins with what follows; nothing where that cannot be done."""
    trace = [
        "strace",
        "-ff",
        "--seccomp-bpf",
        "-y",
        "-e",
        "signal=none",
        "-e",
        "trace=" + ",".join(f"?{call}" for call in CALLS),
    ]
    if shutil.which("strace") is None or subprocess.run([*trace, "true"], capture_output=True).returncode:
        return []
    return [*trace, "-o"]


@pytest.mark.parametrize("name", CASES)
def test_commands_leave_no_trace(name: str, strace: list[str], proof: Path, tmp_path: Path) -> None:
    """But the files that they are told to write."""
    place, case = Place.made(tmp_path, proof), CASES[name]
    kernel = tmp_path / "kernel"
    place.run(case, *(strace and [*strace, str(kernel)]))
    events = [line.split(" ", 1) for line in place.report.read_text().splitlines()]
    assert [what for kind, what in events if kind == "socket"] == []
    place.assert_told(case, {what for _, what in events})
    if strace:
        threads = [path.read_text(errors="replace") for path in tmp_path.glob("kernel.*")]
        place.assert_told(case, set().union(*map(written, threads)))


def written(trace: str) -> set[str]:
    """The paths that calls have written, made, moved or removed. Fails for a socket."""
    found = set()
    for line in trace.splitlines():
        if (call := re.search(r"\b([a-z0-9]+)\((.*)\) += (\d+)", line)) is None:
            continue  # it failed
        assert not re.match("socket|connect|bind", call[1]), line
        if call[1] in ("open", "openat") and (not WRITING.search(call[2]) or "O_TMPFILE" in call[2]):
            continue
        found.update(paths(call[2]))
    return found


def test_what_a_trace_says() -> None:
    """Lines as strace writes them."""
    assert written(
        'openat(AT_FDCWD</a>, "b", O_RDWR|O_CREAT, 0666) = 5</a/b>\nopen("/c", O_RDONLY) = 3</c>'
    ) == {"/a/b"}
    assert written('unlinkat(7</home>, "id", 0) = 0\nmkdir("/d", 0777) = -1 EEXIST (File exists)') == {
        "/home/id"
    }
    with pytest.raises(AssertionError, match="AF_INET"):
        written("socket(AF_INET, SOCK_STREAM, 0) = 3<TCP:[1]>")


def paths(arguments: str) -> set[str]:
    """The paths of a call: each quoted one, in the folder whose number stands before it."""
    found = re.findall(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"', arguments)
    return {os.path.join(folder, path) for folder, path in found}
