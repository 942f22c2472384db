"""Texts that would take long or much memory: refused with the place, or read in small steps that look at the time."""

from __future__ import annotations

import gzip
import math
import time
from pathlib import Path

import numpy as np
import pytest

from verify.checker import question
from verify.checker.errors import NotProved, Refused
from verify.checker.query import read_query
from verify.deadline import Deadline, OutOfTimeError
from verify.errors import SpecificationError
from verify.formats.vnnlib import Property, parse, read
from verify.formats.vnnlib2 import parse as parse_either

DECLARED = "".join(f"(declare-const {name} Real)" for name in ("X_0", "X_1", "Y_0", "Y_1"))
BOX = "(assert (and (<= X_0 1) (>= X_0 -1) (<= X_1 1) (>= X_1 -1)))\n"
BINARY = "(or (<= Y_0 1) (<= Y_0 2))"
QUERY = (
    "(vnnlib-version <2.0>)(declare-network f (declare-input X float32 [2]) (declare-output Y float32 [2]))"
)
SUM = " ".join(f"(/ Y_0 {2 * i + 1000001})" for i in range(6000))
REFUSED = {
    f"(assert (>= Y_0 (* {'1e-3000 ' * 500})))": "bits",
    f"(assert (>= Y_0 (/ {'1e-3000 ' * 500})))": "bits",
    f"(assert (>= Y_0 {'(* 1e-3999 (+ 1 ' * 90}1{'))' * 90}))": "bits",
    f"(assert (<= (+ {SUM}) 1))": "bits",
    f"(assert (<= (+ {SUM.replace('Y_0', '1')} Y_0) 1))": "bits",
    "(assert (<= (+ " + " ".join(f"(/ Y_{i % 2} {2 * i + 1000001})" for i in range(6000)) + ") 1))": "bits|digits",
    f"(assert {BINARY})" * 20: "1000000 clauses",
    f"(assert {BINARY})" * 20_000: "1000000 clauses",  # bug found: how many they are has more digits than Python writes
    f"(assert (or (<= Y_1 0) (and {BINARY * 17} {'(<= Y_0 3) (or (<= Y_0 7) (or))' * 300})))": "10000000 comparisons",
}  # fmt: skip


@pytest.mark.parametrize("place", range(len(REFUSED)))
def test_what_multiplies_is_refused(place: int) -> None:
    body, message = list(REFUSED.items())[place]
    with pytest.raises(SpecificationError, match=message):
        parse(DECLARED + BOX + body)
    with pytest.raises(Refused, match=message):
        read_query(DECLARED + BOX + body)


def test_alternatives_that_are_not_there() -> None:
    """A false part makes a conjunction false, however many alternatives the others have."""
    nothing = f"(and {BINARY * 60} (or))"
    for body, clauses in ((f"(assert (or (<= Y_0 3) {nothing}))", 1), (f"(assert {nothing})", 0)):
        text = DECLARED + BOX + body
        assert len(parse(text).clauses) == len(read_query(text).clauses) == clauses


SLOW = [
    "(assert (or " + "(<= Y_0 1)" * 1000 + "))", f"(assert {BINARY})" * 16, "(assert (<= (+ " + "(* 2 Y_0)" * 1000 + ") 1))",
    "(assert " + "(and " * 150 + "(<= (+ Y_0 0) 1)" + ")" * 151, f"(set-info :a {'(' * 1000}{')' * 1000})", "",
]  # fmt: skip


@pytest.mark.parametrize("body", SLOW)
def test_readers_look_at_the_time(body: str) -> None:
    """At the first statement, at the latest."""
    with pytest.raises(OutOfTimeError):
        parse(DECLARED + BOX + body, deadline=Deadline.after(0))
    with pytest.raises(NotProved, match="time"):
        read_query(DECLARED + BOX + body, until=time.monotonic() - 1)
    query = QUERY + "(assert (and (<= X[0] 1) (<= Y[0] 0)))"
    with pytest.raises(OutOfTimeError):
        parse_either(query, deadline=Deadline.after(0))
    assert isinstance(
        parse(DECLARED + BOX + body.replace("set-info", "set-option"), deadline=Deadline()), Property
    )
    assert read_query(DECLARED + BOX, until=math.inf)


class Countdown(Deadline):
    """Passed when it has been asked so often."""

    left = 0

    def check(self) -> None:
        type(self).left -= 1
        if type(self).left < 0:
            raise OutOfTimeError


@pytest.mark.parametrize(
    "text",
    [
        DECLARED + BOX + "(assert (<= (+ " + "(* 2 Y_0)" * 1000 + ") 1))",
        DECLARED + BOX + "(assert (or " + "(and (<= Y_0 1) (<= (+ Y_0 Y_1) 1))" * 1000 + "))",
        DECLARED + BOX + "(assert (<= (+ Y_0 Y_1) 1))" * 1000,
        DECLARED + BOX + f"(set-info :a {'(' * 1000}{')' * 1000})",
        "(declare-const Y_0 Real)(assert (<= Y_0 1))" + "".join(f"(declare-const X_{i} Real)(assert (<= X_{i} 1))(assert (>= X_{i} 0))" for i in range(1000)),
        QUERY + "(assert (<= (+ " + "(* X[0] Y[0])" * 1000 + ") 1))",
        QUERY + "(assert (<= (+ X[0] Y[0]) 1))" * 1000,
    ],
)  # fmt: skip
def test_steps_are_small(text: str) -> None:
    """Wherever the time runs out, the reader stops there: it asks about a thousand times of a thousand things."""
    for steps in (0, 1, 10, 100, 700):
        Countdown.left = steps
        with pytest.raises(OutOfTimeError):
            parse_either(text, deadline=Countdown())
    Countdown.left = 100_000
    parse_either(text, deadline=Countdown())


def test_what_unpacks_to_too_much(tmp_path: Path) -> None:
    text = DECLARED + BOX + " " * 5_000_000
    for name, data in (("a.vnnlib.gz", gzip.compress(text.encode())), ("a.vnnlib", text.encode())):
        (tmp_path / name).write_bytes(data)
        assert len(read(tmp_path / name, most_bytes=len(text)).clauses) == 1
        with pytest.raises(SpecificationError, match=r"more than \d+ bytes") as error:
            read(tmp_path / name, most_bytes=len(text) - 1)
        assert error.value.file == str(tmp_path / name)
    (tmp_path / "b.vnnlib.gz").write_bytes(gzip.compress(text.encode()) + b"more")
    with pytest.raises(SpecificationError, match="damaged"):
        read(tmp_path / "b.vnnlib.gz")
    halves = gzip.compress(text[:50].encode()) + gzip.compress(text[50:].encode())
    (tmp_path / "c.vnnlib.gz").write_bytes(halves)
    assert len(read(tmp_path / "c.vnnlib.gz").clauses) == 1


def test_the_checker_does_not_unpack_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(question, "MOST_BYTES", 1000)
    for name, data in (("a.gz", gzip.compress(b" " * 1001)), ("a", b" " * 1001)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(Refused, match="more than 1000 bytes"):
            question.content(tmp_path / name)
    (tmp_path / "b.gz").write_bytes(gzip.compress(b" " * 500) + gzip.compress(b"x" * 500))
    assert question.content(tmp_path / "b.gz") == b" " * 500 + b"x" * 500


@pytest.mark.parametrize("mentions", [False, True])
def test_matrices_are_those_of_the_clauses(mentions: bool) -> None:
    """Bug found: objectives of 65,536 clauses of 16 rows were made one by one, which took minutes."""
    row = "(<= (+ Y_0 (* 2 X_1)) 3)" if mentions else "(<= (+ Y_0 Y_1) 3)"
    body = (
        f"(assert (>= Y_1 -5)) (assert (or (<= X_0 0) {row} (and (= Y_0 Y_1) {row} (< Y_1 7)) (<= X_0 -9)))"
        f"(assert (or (and {BINARY} {BINARY} (>= X_1 0)) (<= X_1 0.5)))"
    )
    for extra in ("", body):
        prop = parse(DECLARED + BOX + extra)
        for chosen in (list(range(len(prop.clauses))), [len(prop.clauses) - 1, 0], []):
            outputs, inputs, thresholds = prop.matrices(chosen)
            assert outputs.shape == (len(chosen), max(1, prop.rows), 2) and (inputs is not None) == (
                mentions and bool(extra)
            )
            for place, k in enumerate(chosen):
                clause = prop.clauses[k]
                count = len(clause.thresholds)
                source = [j if j < count else 0 for j in range(max(1, prop.rows))] if count else []
                assert np.array_equal(
                    outputs[place], clause.output_coefficients[source] if count else np.zeros((1, 2))
                )
                assert np.array_equal(thresholds[place], clause.thresholds[source] if count else np.zeros(1))
                if inputs is not None:
                    own = clause.input_coefficients
                    assert np.array_equal(
                        inputs[place], np.zeros((len(source), 2)) if own is None else own[source]
                    )
