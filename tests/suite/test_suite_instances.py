"""Tables of instances: what is read, and what is refused with file, line and remedy."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from verify.errors import InputError
from verify.suite.instances import benchmarks, read_instances

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a model, gzipped, and two properties."""
    home = tmp_path / "family"
    home.mkdir()
    (home / "net.onnx.gz").write_bytes(gzip.compress(b""))
    (home / "a.vnnlib").touch()
    (home / "b.vnnlib.gz").write_bytes(gzip.compress(b""))
    return home


def table(home: Path, text: str) -> Path:
    path = home / "instances.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "net.onnx,a.vnnlib,10\nnet.onnx,b.vnnlib,2.5\n",
        "\ufeffnet.onnx,a.vnnlib, 10\r\n\r\n net.onnx.gz ,b.vnnlib.gz,2.5\r\n",
        "onnx,vnnlib,timeout\nnet.onnx,a.vnnlib,10\nnet.onnx,b.vnnlib,2.5",
        "timeout_s,property,note,Network\n10,a.vnnlib,x,net.onnx\n2.5,b.vnnlib,,net.onnx\n",
    ],
    ids=["plain", "windows", "header", "other order"],
)
def test_rows(home: Path, text: str) -> None:
    first, second = read_instances([table(home, text)])
    assert first.key == ("family", str(home / "net.onnx"), str(home / "a.vnnlib"))
    assert second.key == ("family", str(home / "net.onnx"), str(home / "b.vnnlib"))
    assert (first.model, first.specification) == (home / "net.onnx.gz", home / "a.vnnlib")
    assert second.specification == home / "b.vnnlib.gz"
    assert [first.timeout, second.timeout] == [10, 2.5] and first.expected == second.expected == ""


def test_expected_verdicts(home: Path) -> None:
    words = {"sat": "sat", "unsat": "unsat", "holds": "unsat", "Violated": "sat", "unknown": "", "": ""}
    rows = [f"net.onnx,a.vnnlib,10,{word}" for word in words]
    for header in ([], ["onnx,vnnlib,timeout_s,expected"]):
        found = read_instances([table(home, "\n".join([*header, *rows]))])
        assert [one.expected for one in found] == list(words.values())


def test_one_timeout_for_all(home: Path) -> None:
    """Then the table's own may be missing."""
    (one,) = read_instances([table(home, "net.onnx,a.vnnlib\n")], timeout=3)
    assert one.timeout == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "net.onnx,a.vnnlib,10\nnet.onnx,a.vnnlib,soon\n",
            ":2: the timeout is 'soon'; write seconds above 0",
        ),
        ("net.onnx,a.vnnlib,-1\n", ":1: the timeout is '-1'"),
        ("net.onnx,a.vnnlib,nan\n", ":1: the timeout is 'nan'"),
        ("net.onnx,a.vnnlib\n", ":1: the timeout is ''"),
        ("net.onnx,,10\n", ":1: no vnnlib file is named; write onnx,vnnlib,timeout"),
        ("net.onnx,c.vnnlib,10\n", "c.vnnlib, gzipped neither; check the path"),
        ("other.onnx,a.vnnlib,10\n", "other.onnx, gzipped neither; check the path"),
        (
            "net.onnx,a.vnnlib,10,perhaps\n",
            ":1: the expected verdict is 'perhaps'; write sat, unsat or unknown",
        ),
        ("network,property\nnet.onnx,a.vnnlib\n", ":1: the header has no column timeout"),
        ("onnx,vnnlib,timeout\n", "there are no instances in it"),
        ("", "there are no instances in it"),
        ('net.onnx,"a.vnnlib,10\n', "not a csv file"),
    ],
)
def test_what_is_refused(home: Path, text: str, message: str) -> None:
    path = table(home, text)
    with pytest.raises(InputError) as caught:
        read_instances([path])
    assert str(caught.value).startswith(str(path)) and message in str(caught.value)


def test_tables_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv: .*; check the path"):
        read_instances([tmp_path / "none.csv"])
    with pytest.raises(InputError, match=r"instances\.csv: .*; check the path"):
        read_instances([tmp_path])


def test_several_networks(home: Path) -> None:
    cell = "[('f', 'net.onnx'), ('g', 'net.onnx.gz')]"
    (one,) = read_instances([table(home, f'"{cell}",a.vnnlib,10\n')])
    assert (one.onnx, one.model) == (cell, dict.fromkeys("fg", home / "net.onnx.gz"))


@pytest.mark.parametrize("cell", ["[", "[]", "['f', 'net.onnx']", "[('f', 'net.onnx'), ('f', 'net.onnx')]"])
def test_several_networks_that_are_none(home: Path, cell: str) -> None:
    with pytest.raises(InputError, match=r":1: .* names no networks; write \[\('f', 'a.onnx'\)"):
        read_instances([table(home, f'"{cell}",a.vnnlib,10\n')])


def test_folders_are_named_without_their_version(tmp_path: Path) -> None:
    home = tmp_path / "acasxu" / "1.0"
    home.mkdir(parents=True)
    for name in ("net.onnx", "a.vnnlib"):
        (home / name).touch()
    found = read_instances([table(home, "net.onnx,a.vnnlib,10\n").parent])
    assert benchmarks(found) == ["acasxu"]


def test_shipped_tables() -> None:
    found = read_instances(sorted((ROOT / "properties").glob("*/instances.csv")))
    assert len(found) == 38 and all(one.expected and one.model.exists() for one in found)
