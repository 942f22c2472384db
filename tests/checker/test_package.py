"""The checker as a package of its own: it says what it needs and has, and works where nothing else of ours is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE
from test_independence import BLOCKED, CHECKER, DATA, ROOT

import verify
from verify.checker import command

PROJECT = (ROOT / "nn-verify-checker" / "pyproject.toml").read_text()
WHOLE = (ROOT / "pyproject.toml").read_text()
FILES = ("certificate.safetensors", "model.onnx", "property.vnnlib")


def listed(key: str) -> list[str]:
    """A list of strings in the project's file."""
    found = re.search(rf"^{key} = \[(.*?)\]", PROJECT, flags=re.MULTILINE | re.DOTALL)
    assert found is not None, key
    return re.findall(r'"([^"]*)"', found.group(1))


def test_the_project_is_of_this_checker() -> None:
    """Version, needs, folders and the command, as they are."""
    assert f'version = "{verify.__version__}"' in PROJECT
    for need in (*listed("dependencies"), *listed("runtime")):
        assert f'"{need}"' in WHOLE, need
    assert {need.split(">")[0] for need in listed("dependencies")} == {"numpy", "onnx"}
    folders = {path.parent.relative_to(CHECKER) for path in CHECKER.rglob("*.py")}
    assert set(listed("packages")) == {".".join(["verify.checker", *folder.parts]) for folder in folders}
    assert 'verify-check = "verify.checker.command:main"' in PROJECT
    assert not [path for path in CHECKER.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checker's files and nothing else of ours, as an installation has them."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(CHECKER, folder / "verify" / "checker", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


RUN = """
sys.path[:] = [sys.argv.pop(1), *(path for path in sys.path if path not in ("", sys.argv[1]))]
del sys.argv[1]
from verify.checker import checking, command, following
assert checking.__file__.startswith(sys.path[0]), checking.__file__
checking.WORTH_A_PROCESS = 1
sys.exit(command.main())
"""


def run(alone: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process that finds no torch, and of ours only what is in the folder."""
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + RUN, str(alone), str(ROOT), *map(str, arguments)],
        capture_output=True, text=True, cwd=alone, timeout=PATIENCE, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("jobs", [1, 2])
def test_it_works_alone(alone: Path, jobs: int) -> None:
    """In its own process, and with others that it starts."""
    paths = [DATA / "activations" / name for name in FILES]
    done = run(alone, *paths, "--jobs", jobs)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("proved: no input violates the property")


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """Proved, not proved, unreadable; what is asked for in a wrong way is no answer."""
    whole = [str(DATA / "activations" / name) for name in FILES]
    assert command.main([*whole, "--jobs", "1"]) == 0
    wrong = DATA.parent / "incorrect" / "weight_changed"
    assert command.main([str(wrong / name) for name in FILES]) == 1
    assert "not proved" in capsys.readouterr().out
    assert command.main([str(DATA / "nothing"), *whole[1:]]) == 2
    assert "nothing: cannot be read" in capsys.readouterr().err
    assert command.main([whole[0], "--", *whole[2:], whole[2]]) == 2
    for options in (["--jobs", "0"], ["--jobs", "²"], ["--semantics", "all"]):
        with pytest.raises(SystemExit) as ended:
            command.main([*whole, *options])
        assert ended.value.code == 2
