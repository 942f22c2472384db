"""The file's container: read strictly, never with another exception than Refused."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verify.checker.container import Container, read
from verify.checker.errors import Refused
from verify.checker.kinds import blocks
from verify.checker.stream import Cursor

SIZES = {"U8": 1, "I8": 1, "I32": 4, "I64": 8, "F16": 2, "F32": 4, "F64": 8}


def entry(kind: str, shape: Any, start: Any, stop: Any) -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [start, stop]}


GOOD = {
    "__metadata__": {"format": "x", "verdict": "unsat"},
    "a": entry("I64", [2], 0, 16), "empty": entry("F64", [0], 16, 16), "b": entry("F32", [3, 1], 16, 28),
    "c": entry("U8", [], 28, 29), "d": entry("F16", [1], 29, 31), "e": entry("I32", [1], 31, 35),
}  # fmt: skip
DATA = bytes(range(35))


def whole(header: Any, data: bytes = DATA, pad: str = "") -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)) + pad
    return len(text.encode()).to_bytes(8, "little") + text.encode() + data


@pytest.fixture
def load(tmp_path: Path) -> Any:
    """Reads bytes as a file."""

    def loaded(content: bytes) -> Container:
        path = tmp_path / "file"
        path.write_bytes(content)
        return read(path)

    return loaded


def test_reads_what_is_there(load: Any) -> None:
    """In any alignment, with the spaces that other writers put behind the header."""
    for pad in ("", " ", " " * 7):
        found = load(whole(GOOD, pad=pad))
        assert found.metadata == GOOD["__metadata__"]
        at = 0
        for name, own in list(GOOD.items())[1:]:
            size = SIZES[own["dtype"]] * math.prod(own["shape"])
            kind = np.dtype(own["dtype"][0].lower() + str(SIZES[own["dtype"]]))
            assert found.tensors[name].dtype == kind
            assert found.tensors[name].shape == tuple(own["shape"])
            assert found.tensors[name].tobytes() == DATA[at : at + size]
            at += size


def test_truncated_everywhere(load: Any) -> None:
    content = whole(GOOD)
    for length in range(len(content)):
        with pytest.raises(Refused):
            load(content[:length])
    for more in (b"\0", b"\0" * 100):
        with pytest.raises(Refused, match="behind the last"):
            load(content + more)


def changed(name: str, **fields: Any) -> dict[str, Any]:
    return {**GOOD, name: {**GOOD[name], **fields}}


ALL = json.dumps(entry("U8", [35], 0, 35))
DEEP = "[" * 100_000
WRONG: dict[str, Any] = {
    "gap": changed("e", data_offsets=[32, 36]),
    "gap before the first": {"__metadata__": {}, "a": entry("U8", [34], 1, 35)},
    "overlap": {"a": entry("I64", [2], 0, 16), "b": entry("I64", [2], 8, 24), "c": entry("U8", [11], 24, 35)},
    "same bytes twice": {"a": entry("U8", [35], 0, 35), "b": entry("U8", [35], 0, 35)},
    "not in order": {"b": entry("U8", [30], 5, 35), "a": entry("U8", [5], 0, 5)},
    "beyond the end": changed("e", shape=[2], data_offsets=[31, 39]),
    "bytes left": {"a": entry("U8", [34], 0, 34)},
    "shape too large": changed("a", shape=[3]),
    "shape too small": changed("a", shape=[1]),
    "shape negative": changed("a", shape=[-2]),
    "shapes negative": changed("a", shape=[-1, -2]),
    "shape a float": changed("a", shape=[2.0]),
    "shape a truth value": {"a": entry("U8", [True, 35], 0, 35)},
    "shape a number": changed("a", shape=2),
    "shape a string": changed("a", shape="2"),
    "shape a table": changed("a", shape={"2": 2}),
    "no shape": {"a": {"dtype": "U8", "data_offsets": [0, 35]}},
    "no type": {"a": {"shape": [35], "data_offsets": [0, 35]}},
    "no offsets": {"a": {"dtype": "U8", "shape": [35]}},
    "unknown type": changed("a", dtype="I65"),
    "type in small letters": changed("a", dtype="i64"),
    "type that is not read": {"a": entry("BF16", [17], 0, 34), "b": entry("U8", [1], 34, 35)},
    "type a list": changed("a", dtype=["I64"]),
    "type nothing": changed("a", dtype=None),
    "offsets reversed": changed("a", data_offsets=[16, 0]),
    "offsets negative": changed("a", data_offsets=[-16, 0]),
    "offsets floats": changed("a", data_offsets=[0.0, 16.0]),
    "one offset": changed("a", data_offsets=[16]),
    "three offsets": changed("a", data_offsets=[0, 16, 16]),
    "offsets a number": changed("a", data_offsets=16),
    "offsets a string": changed("a", data_offsets="ab"),
    "offsets huge": changed("a", data_offsets=[0, 10**30]),
    "entry a number": {**GOOD, "a": 3},
    "entry a list": {**GOOD, "a": [1]},
    "entry nothing": {**GOOD, "a": None},
    "metadata a list": {**GOOD, "__metadata__": []},
    "metadata nothing": {**GOOD, "__metadata__": None},
    "metadata of numbers": {**GOOD, "__metadata__": {"rows": 1}},
    "metadata nested": {**GOOD, "__metadata__": {"rows": {"a": "b"}}},
    "list": "[]",
    "number": "1",
    "string": '"a"',
    "nothing": "",
    "spaces": "   ",
    "two objects": "{}{}",
    "half an object": '{"a": ',
    "not JSON": "{'a': 1}",
    "repeated key": f'{{"__metadata__":{{}},"a":{ALL},"a":{ALL}}}',
    "repeated metadata": f'{{"__metadata__":{{}},"__metadata__":{{}},"a":{ALL}}}',
    "repeated in metadata": f'{{"__metadata__":{{"x":"1","x":"2"}},"a":{ALL}}}',
    "repeated in an entry": '{"a":{"dtype":"I64","dtype":"U8","shape":[35],"data_offsets":[0,35]}}',
    "deep": DEEP,
    "deep objects": '{"a":' * 50_000,
    "many digits": ALL.replace("35]", "9" * 5000 + "]", 1).join(('{"a":', "}")),
    "NaN": '{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,35]}}',
    "infinity": '{"a":{"dtype":"U8","shape":[35],"data_offsets":[0,Infinity]}}',
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_headers(name: str, load: Any) -> None:
    with pytest.raises(Refused):
        load(whole(WRONG[name]))


@pytest.mark.parametrize("shape", [[0, 2**70], [0, 2**40, 2**40], [1] * 100 + [35]], ids=["wide", "large", "deep"])  # fmt: skip
def test_shapes_that_numpy_has_not(shape: list[int], load: Any) -> None:
    """Bug found: ValueError instead of Refused."""
    size = math.prod(shape)
    content = whole({"a": entry("U8", shape, 0, size), "b": entry("U8", [35 - size], size, 35)})
    try:
        found = load(content)
    except Refused:
        return
    assert found.tensors["a"].shape == tuple(shape)


@pytest.mark.parametrize("length", [10**3, 2**26 + 1, 2**32, 2**63, 2**64 - 1])
def test_header_lengths(length: int, load: Any) -> None:
    content = whole(GOOD)
    with pytest.raises(Refused, match="cut short"):
        load(length.to_bytes(8, "little") + content[8:])


def test_header_lengths_that_are_off(load: Any) -> None:
    content = whole(GOOD)
    right = int.from_bytes(content[:8], "little")
    for length in range(right + 36):
        if length != right:
            with pytest.raises(Refused):
                load(length.to_bytes(8, "little") + content[8:])


def test_damaged_text(load: Any) -> None:
    """Bytes that are no UTF-8, and other encodings, which the format has not."""
    for text in (b'{"\xff":1}', b"\xc3{}", b"\x80", b"\xed\xa0\x80{}", b"\x00{}"):
        with pytest.raises(Refused):
            load(len(text).to_bytes(8, "little") + text)


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be read"):
        read(tmp_path / "nowhere")
    with pytest.raises(Refused, match="cannot be read"):
        read(tmp_path)
    hidden = tmp_path / "hidden"
    hidden.write_bytes(whole(GOOD))
    hidden.chmod(0)
    if os.geteuid():
        with pytest.raises(Refused, match="cannot be read"):
            read(hidden)


def rules(header: Any, size: int) -> bool:
    """The format's own rules: known types, no overlaps, no gaps, everything covered."""
    entries = sorted((own for name, own in header.items() if name != "__metadata__"), key=lambda e: tuple(e["data_offsets"]))  # fmt: skip
    at = 0
    for own in entries:
        start, stop = own["data_offsets"]
        if own["dtype"] not in SIZES or start != at or stop - start != SIZES[own["dtype"]] * math.prod(own["shape"]):  # fmt: skip
            return False
        at = stop
    return at == size


@settings(max_examples=200)
@given(st.data())
def test_agrees_with_the_format(data: st.DataObject) -> None:
    """Random tables, right and wrong by one: what is read obeys the rules; what obeys them is read (in the order of the data)."""
    header: dict[str, Any] = {}
    at = 0
    for i in range(data.draw(st.integers(0, 4))):
        kind = data.draw(st.sampled_from([*SIZES, "BF16"]))
        shape = data.draw(st.lists(st.integers(0, 3), max_size=2))
        size = SIZES.get(kind, 2) * math.prod(shape)
        header[f"t{i}"] = entry(kind, shape, at, at + size)
        at += size
    if header and data.draw(st.booleans()):
        own = header[data.draw(st.sampled_from(sorted(header)))]
        place, step = data.draw(st.integers(0, 1)), data.draw(st.sampled_from([-1, 1, 8]))
        own["data_offsets"][place] = max(0, own["data_offsets"][place] + step)
    if len(header) > 1 and data.draw(st.booleans()):
        header = dict(reversed(header.items()))
    size = max(0, at + data.draw(st.sampled_from([0, 0, 0, 1, -1])))
    path = Path(tempfile.mkdtemp()) / "file"
    path.write_bytes(whole(header, bytes(size)))
    starts = [own["data_offsets"] for own in header.values()]
    try:
        found = read(path)
    except Refused:
        assert not rules(header, size) or starts != sorted(starts)
    else:
        assert rules(header, size)
        assert {name: list(own.shape) for name, own in found.tensors.items()} == {
            name: own["shape"] for name, own in header.items()
        }
    finally:
        shutil.rmtree(path.parent)


def test_tensors_are_asked_for_by_type(load: Any) -> None:
    found = load(whole(GOOD))
    assert found.tensor("a", "<i8").tolist() == np.frombuffer(DATA[:16], "<i8").tolist()
    for name, kind, rank in (("a", "<f8", 1), ("a", "<i8", 2), ("b", "<f4", 1), ("zzz", "u1", 1)):
        with pytest.raises(Refused, match=name):
            found.tensor(name, kind, rank)
    with pytest.raises(Refused, match="rows"):
        found.text("rows")


def stream(kinds: list[int], ends: list[int], size: int) -> Container:
    table = {"block.kind": np.array(kinds, "u1"), "block.end": np.array(ends, "<i8"), "stream": np.zeros(size, "u1")}  # fmt: skip
    return Container({}, table)


def test_tables_of_blocks() -> None:
    assert [len(block.data) for block in blocks(stream([0, 1, 9], [3, 3, 5], 5))] == [3, 0, 2]
    assert list(blocks(stream([], [], 0))) == []
    for kinds, ends, size in (([], [], 1), ([0], [], 0), ([0], [1], 2), ([0], [2], 1), ([0, 0], [2, 1], 1), ([0], [-1], 0), ([99], [1], 1), ([255], [1], 1)):  # fmt: skip
        with pytest.raises(Refused):
            list(blocks(stream(kinds, ends, size)))


def test_cursors() -> None:
    data = np.frombuffer(np.array([2, 7, 9], "<i8").tobytes() + b"\x01\xff", np.uint8)
    cursor = Cursor(data)
    assert cursor.counted("<i8").tolist() == [7, 9]
    with pytest.raises(Refused, match="more in it"):
        cursor.finish()
    assert cursor.take("i1", 2).tolist() == [1, -1]
    cursor.finish()
    for kind, count in (("u1", 1), ("<f8", 1), ("u1", -1), ("<i8", 2**61), ("u1", -(2**63))):
        with pytest.raises(Refused, match="less in it"):
            cursor.take(kind, count)


@pytest.mark.parametrize("side", [0, 2, -2, 127, -128])
def test_claims_have_a_side(side: int) -> None:
    data = np.array([1], "<i8").tobytes() + np.array([3], "<i4").tobytes() + np.array([side], "i1").tobytes()
    with pytest.raises(Refused, match="side"):
        Cursor(np.frombuffer(data + np.zeros(1).tobytes(), np.uint8)).claims("<f8")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_claims_are_finite(value: float) -> None:
    data = np.array([1], "<i8").tobytes() + np.array([3], "<i4").tobytes() + b"\x01"
    with pytest.raises(Refused, match="finite"):
        Cursor(np.frombuffer(data + np.array([value]).tobytes(), np.uint8)).claims("<f8")
