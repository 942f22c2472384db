"""One meaning of the input set: search and checker extend the same intervals to the same numbers, and no two files get both verdicts."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE

import verify
from tests.checker.test_certificates import DEPLOYED, Files, _write_witness, placed, property_text, relu_model
from verify.checker.query import Query, read_query
from verify.formats.vnnlib import Property, parse
from verify.problem import Problem

TYPES = {"float32": np.float32, "float64": np.float64}


def neighbours(value: Fraction, kind: str) -> tuple[Fraction | None, Fraction | None]:
    """The greatest number of the type that is no more, and the least that is no less."""
    own, largest = TYPES[kind], Fraction(float(np.finfo(TYPES[kind]).max))
    with np.errstate(over="ignore"):
        near = own(float(value))
    if not np.isfinite(near):
        return (largest, None) if value > 0 else (None, -largest)
    found = [near]
    with np.errstate(over="ignore"):
        for end in (own(-np.inf), own(np.inf)):
            found += [np.nextafter(near, end), np.nextafter(np.nextafter(near, end), end)]
    exact = [Fraction(float(number)) for number in found if np.isfinite(number)]
    return max((n for n in exact if n <= value), default=None), min(
        (n for n in exact if n >= value), default=None
    )


def meant(low: Fraction, high: Fraction, kind: str) -> tuple[Fraction, Fraction]:
    """The input set of an interval by its definition."""
    below, above = neighbours(high, kind)[0], neighbours(low, kind)[1]
    if below is not None and below >= low:
        return low, high
    if below is None or above is None:
        nearest = below if above is None else above
        assert nearest is not None
    elif low - below == above - high:
        even = int(np.array(float(below), TYPES[kind]).view(f"i{np.dtype(kind).itemsize}")) % 2 == 0
        nearest = below if even else above
    else:
        nearest = below if low - below < above - high else above
    return min(low, nearest), max(high, nearest)


def decimal(value: Fraction, generator: random.Random) -> Fraction:
    """A decimal near a value: some digits of it, more or less."""
    digits = generator.choice((3, 8, 10, 12, 20, 50, 160))
    return Fraction(round(value * 10**digits) + generator.choice((0, 0, 1, -1)), 10**digits)


def written(value: Fraction) -> str:
    """All digits of a decimal."""
    places = 0
    while (value * 10**places).denominator > 1:
        places += 1
    digits = f"{abs(int(value * 10**places)):0{places + 1}d}"
    return (
        ("-" if value < 0 else "")
        + digits[: len(digits) - places]
        + "."
        + (digits[len(digits) - places :] or "0")
    )


def interval(generator: random.Random, kind: str) -> tuple[Fraction, Fraction]:
    """An interval about a number of the type, a tie, 0, the smallest numbers or beyond the largest."""
    own, largest = TYPES[kind], min(float(np.finfo(TYPES[kind]).max), 1e299)
    size = generator.choice((1.0, 1.0, 0.1, 3.0, 16777216.0, 1e-40, 2.0**-149, 1e-50, 0.0, largest, 1e39))
    scale = generator.choice((1.0, generator.uniform(0.5, 1)))
    number = own(min(size * scale, largest))
    exact, other = Fraction(float(number)), Fraction(float(np.nextafter(number, own(0))))
    if size == 1e39:
        exact = other = Fraction(10) ** 39
    part = generator.choice((Fraction(0), Fraction(1, 2), Fraction(generator.randint(1, 7), 8)))
    base = exact + (other - exact) * part
    ends = [base if generator.random() < 0.3 else decimal(base, generator) for _ in range(2)]
    if generator.random() < 0.4:
        ends[1] = ends[0]
    low, high = sorted(generator.choice((1, -1)) * end for end in ends)
    return low, high


def readings(text: str, kind: str) -> tuple[Query, Property]:
    """Both readers' properties of inputs of a type."""
    every = np.ones(len(read_query(text).clauses[0].lower), dtype=bool)
    return read_query(text).of_type(kind), parse(text).of_types([(kind, every)])


@pytest.mark.parametrize("kind", TYPES)
def test_both_readers_extend_alike(kind: str) -> None:
    """To what is meant; and points are in the set for both, or for neither."""
    generator = random.Random(1)
    extended = 0
    for _ in range(150):
        pairs = [interval(generator, kind) for _ in range(3)]
        bounds = [f"({relation} X_{i} {written(end)})" for i, pair in enumerate(pairs) for relation, end in zip((">=", "<="), pair, strict=True)]  # fmt: skip
        declared = "".join(f"(declare-const {name} Real)" for name in ("X_0", "X_1", "X_2", "Y_0"))
        text = f"{declared}(assert (and {' '.join(bounds)} (<= Y_0 0)))"
        mine, other = readings(text, kind)
        wanted = [list(ends) for ends in zip(*(meant(*pair, kind) for pair in pairs), strict=True)]
        clause = mine.clauses[0]
        assert [clause.lower, clause.upper] == list(other.exact_bounds(0)) == wanted, text
        lower, upper = other.bounds([0])
        clause_of_search = other.clauses[0]
        for k, (low, high) in enumerate(zip(*wanted, strict=True)):
            assert Fraction(lower[0, k]) <= low <= high <= Fraction(upper[0, k])
            assert (clause_of_search.lower[k], clause_of_search.upper[k]) == (lower[0, k], upper[0, k])
            assert np.nextafter(lower[0, k], np.inf) > low and np.nextafter(upper[0, k], -np.inf) < high
        own = [pair != tuple(ends) for pair, *ends in zip(pairs, *wanted, strict=True)]
        assert other.extended([0])[0].tolist() == own
        extended += sum(own)
        starts, stops = other.inner_bounds(0, kind)
        for start, stop, low, high in zip(starts, stops, *wanted, strict=True):
            assert low <= Fraction(float(start)) <= Fraction(float(stop)) <= high
        choices = [(Fraction(float(start)), Fraction(float(stop)), low, high, high + 1) for start, stop, low, high in zip(starts, stops, *wanted, strict=True)]  # fmt: skip
        for _ in range(6):
            x = [generator.choice(choice) for choice in choices]
            inside = all(low <= value <= high for value, low, high in zip(x, *wanted, strict=True))
            assert inside == clause.contains(x) == mine.violated(x, [Fraction(0)]) == other.violated(x, [0.0])
            assert inside == other.violated(x, [0.0], 0)
            assert not mine.violated(x, [Fraction(1)]) and not other.violated(x, [1.0])
    assert extended > 100


def test_strict_bounds() -> None:
    """They count where an interval holds a number, if only as its end; an interval that holds none is closed."""
    text = "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (> X_0 0.5))(assert (<= X_0 {}))(assert (<= Y_0 0))"
    for high, number, inside in (
        ("0.50000001", 0.5, False),
        ("0.51", 0.5, False),
        ("0.51", 0.5 + 2.0**-24, True),
    ):
        mine, other = readings(text.format(high), "float32")
        assert mine.violated([Fraction(number)], [Fraction(0)]) == other.violated([number], [0.0]) == inside
        assert mine.clauses[0].lower == other.exact_bounds(0)[0] == [Fraction(1, 2)]
    gap = text.replace("0.5)", "0.500000001)").format("0.500000002")
    mine, other = readings(gap, "float32")
    assert mine.violated([Fraction(1, 2)], [Fraction(0)]) and other.violated([0.5], [0.0])


def test_clauses_are_judged_one_by_one() -> None:
    """What one clause's interval was extended to says nothing of another clause's rows."""
    text = (
        "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 0.1))"
        "(assert (or (and (<= X_0 0.1) (<= Y_0 0)) (and (>= X_0 0.2) (<= X_0 0.3) (>= Y_0 1))))"
    )
    mine, other = readings(text, "float32")
    tenth = float(np.float32(0.1))
    for x, y, wanted in (
        (tenth, 0.0, True),
        (tenth, 1.0, False),
        (0.25, 1.0, True),
        (0.25, 0.0, False),
        (0.1, 0.0, True),
    ):
        assert mine.violated([Fraction(x)], [Fraction(y)]) == other.violated([x], [y]) == wanted
    assert other.violated([tenth], [0.0], 0) and not other.violated([tenth], [0.0], 1)


def test_rows_are_judged_at_the_number() -> None:
    """X_0 = 0.1 stands for the float32 number, which is more than 0.1 in a row too."""
    text = "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (= X_0 0.1))(assert (<= (+ X_0 Y_0) {}))"
    tenth = Fraction(float(np.float32(0.1)))
    for threshold, wanted in ((tenth, True), (Fraction(1, 10), False)):
        mine, other = readings(text.format(written(threshold)), "float32")
        assert mine.violated([tenth], [Fraction(0)]) == other.violated([tenth], [0.0]) == wanted


def test_inputs_of_several_types() -> None:
    text = "".join(f"(declare-const {name} Real)" for name in ("X_0", "X_1", "X_2", "Y_0"))
    text += "".join(f"(assert (= X_{i} 0.1))" for i in range(3)) + "(assert (<= Y_0 0))"
    kinds = [("float32", np.array([True, False, True])), ("float64", np.array([False, True, False]))]
    lower, upper = parse(text).of_types(kinds).exact_bounds(0)
    tenths = [Fraction(float(own(0.1))) for own in (np.float32, np.float64, np.float32)]
    assert lower == [Fraction(1, 10)] * 3 and upper == tenths


@pytest.mark.parametrize("seed", range(8))
def test_never_both_verdicts(seed: int, tmp_path: Path) -> None:
    """Of y = x on an interval about a gap: the search's verdict is the right one, and the checker proves nothing else."""
    generator = random.Random(seed)
    one, none = np.ones((1, 1), np.float32), np.zeros(1, np.float32)
    number = float(np.float32(generator.uniform(0.5, 1.5)))
    gap = Fraction(float(np.nextafter(np.float32(number), np.float32(9)))) - Fraction(number)
    ends = sorted(decimal(Fraction(number) + gap * Fraction(generator.random()), generator) for _ in range(2))
    limit = decimal(Fraction(number) + gap * Fraction(generator.uniform(-0.5, 1.5)), generator)
    text = property_text([0.0], [1.0], 1, f"(<= Y_0 {written(limit)})")
    text = text.replace(">= X_0 0.0", f">= X_0 {written(ends[0])}").replace(
        "<= X_0 1.0", f"<= X_0 {written(ends[1])}"
    )
    files: Files = placed(tmp_path, relu_model([(one, none), (one, none)]), text)
    low, high = meant(ends[0], ends[1], "float32")
    numbers = [Fraction(number) + k * gap for k in range(-1, 3)]
    violating = [value for value in numbers if low <= value <= high and value <= limit]
    # Where real inputs between the numbers violate, and no number does, nothing can be said.
    open_to_all = not violating and low <= limit
    found = verify.verify(
        files.model,
        files.property,
        certificate=files.certificate,
        timeout=1 if open_to_all else PATIENCE,
        device="cpu",
    )
    assert found.verdict == ("sat" if violating else "unsat") or (
        open_to_all and found.verdict in ("unknown", "timeout")
    )
    assert files.certificate.exists() == (found.verdict in ("sat", "unsat"))
    assert not files.certificate.exists() or files.accepted()
    for value in numbers:
        _write_witness(files, [float(value)], [float(value)])
        assert files.accepted() == files.accepted(semantics=DEPLOYED) == (value in violating)


def test_fixed_inputs_stay_fixed() -> None:
    """Points that are no numbers are extended by less than a step of float32: no freedom that a search would split."""
    text = "".join(f"(declare-const {name} Real)" for name in ("X_0", "X_1", "Y_0"))
    text += "(assert (= X_0 0.1))(assert (>= X_1 0))(assert (<= X_1 1))(assert (<= Y_0 0))"
    model = verify.load(
        relu_model([(np.ones((1, 2), np.float32), np.zeros(1, np.float32))] * 1).SerializeToString()
    )
    problem = Problem(model, parse(text))
    assert (problem.free_inputs, problem.snapped) == (1, 1)
