"""Cutting planes of certificates: none is proved that some point lies above, and bounds below them are no bounds of anything else.

Truth is `test_dual.Truth`, a forward pass in Fractions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_data import Files, Parts, by_hand, numbers, placed
from nets import property_text, random_layers, relu_model
from test_dual import Truth, fraction, points, random_box, random_network

from verify.checker.bounding import Bounder, Objective
from verify.checker.checking import DEPLOYED
from verify.checker.clauses import Rows
from verify.checker.cuts import Cuts, spare
from verify.checker.dual import Dual
from verify.checker.errors import Refused
from verify.checker.multipliers import Arithmetic
from verify.checker.network import Network

Array = np.ndarray[Any, Any]
seeds = st.integers(0, 10**6)


def relu_network(seed: int) -> Network:
    return random_network(seed, [("relu", ())] * (1 + seed % 3))


def random_cuts(network: Network, random: np.random.Generator, box: tuple[Array, Array]) -> tuple[Any, ...]:
    """Some of random neurons, by their own inputs and others before them, as `Cuts.add` takes them; offsets are 0."""
    variables, counts, columns, values = [], [], [], []
    for _ in range(int(random.integers(1, 5))):
        number = int(random.integers(len(network.layers)))
        layer = network.layers[number]
        before = [np.arange(network.inputs)]
        before += [
            np.arange(one.variables.start, one.variables.stop)
            for one in network.layers
            if one.node < layer.operand
        ]
        every = np.concatenate(before)
        chosen = random.permutation(every)[: int(random.integers(0, min(6, len(every)) + 1))]
        variables.append(int(random.integers(layer.variables.start, layer.variables.stop)))
        counts.append(len(chosen))
        columns += chosen.tolist()
        values += random.standard_normal(len(chosen)).tolist()
    count = len(variables)
    slopes, factors = random.standard_normal((2, count)) * random.choice([0.0, 0.3, 1.0], (2, count))
    given_numbers = slopes, factors, np.zeros(count)
    return box, np.array(variables), given_numbers, np.array(counts), (np.array(columns, dtype=np.int64), np.array(values))  # fmt: skip


def heights(network: Network, cut: Any, values: Sequence[Sequence[Fraction]]) -> Fraction:
    """How far a point's output is above a cut with offset 0: what its offset must be at least."""
    layer = next(one for one in network.layers if one.variables.start <= cut.variable < one.variables.stop)
    place = cut.variable - layer.variables.start
    total = values[layer.node][place] - Fraction(cut.slope) * values[layer.operand][place]
    for node, column, value in zip(cut.nodes.tolist(), cut.places.tolist(), cut.values.tolist(), strict=True):
        total -= Fraction(value) * values[node][column]
    return total


def least_offsets(network: Network, box: tuple[Array, Array], cuts: Sequence[Any]) -> list[Fraction]:
    """The least offsets with which cuts are proved in rationals, exactly."""
    return [
        -fraction(value) for value in spare(Dual(network, Arithmetic(exact=True)), box, list(cuts)).tolist()
    ]


def above(value: Fraction, slack: float = 0.0) -> float:
    """A float no less than a number, or so much more."""
    near = float(value) + slack * (1 + abs(float(value)))
    return near if Fraction(near) >= value else float(np.nextafter(near, np.inf))


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_no_point_is_above_a_cut(seed: int) -> None:
    """With the least offset that is proved; float64 charges for rounding, and not for much more."""
    random = np.random.default_rng(seed)
    network = relu_network(seed)
    lower, upper = random_box(network, random)
    if seed % 4 == 0:
        upper = lower
    dual = Dual(network, Arithmetic())
    box = dual.intervals(lower, upper)
    whole = box[0][0], np.maximum(*box)[0]
    cuts = Cuts(network).add(*random_cuts(network, random, whole))
    with np.errstate(all="ignore"):
        least = least_offsets(network, whole, cuts)
        enough = [replace(cut, offset=above(offset, 1e-8)) for cut, offset in zip(cuts, least, strict=True)]
        assert (spare(dual, whole, enough) >= 0).all()
        short = [replace(cut, offset=-above(-offset)) for cut, offset in zip(cuts, least, strict=True)]
        for cut, offset, found in zip(short, least, spare(dual, whole, short).tolist(), strict=True):
            assert found < 0 or Fraction(cut.offset) == offset
    truth = Truth(network)
    for x in points(lower, upper, random, 6):
        values = truth.values(x.tolist())
        if all(
            low <= value <= high for value, low, high in zip(truth.variables(values), *whole, strict=True)
        ):
            for cut, offset in zip(cuts, least, strict=True):
                assert heights(network, cut, values) <= offset


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_bounds_below_cuts(seed: int) -> None:
    """Whatever the shares are, as long as the cuts hold: below the objective everywhere, and in float64 below the rationals."""
    random = np.random.default_rng(seed)
    network = relu_network(seed)
    lower, upper = random_box(network, random)
    bounder = Bounder(network, Arithmetic())
    low, high = bounder.dual.intervals(lower, upper)
    high = np.maximum(low, high)
    whole = low[0], high[0]
    pool = Cuts(network)
    given_cuts = list(random_cuts(network, random, whole))
    drafts = Cuts(network).add(*given_cuts)
    with np.errstate(all="ignore"):
        offsets = np.array([above(offset, 1e-8) for offset in least_offsets(network, whole, drafts)])
    given_cuts[2] = (*given_cuts[2][:2], offsets)
    held = pool.add(*given_cuts)
    assert (spare(bounder.dual, whole, held) >= 0).all()
    every = np.arange(len(held))
    shares = random.uniform(0, 1.5, (1, len(held))) * random.choice([0.0, 1.0], (1, len(held)), p=[0.2, 0.8])
    alphas = {number: random.random((1, 1, one.variables.stop - one.variables.start)) for number, one in enumerate(network.layers)}  # fmt: skip
    thresholds = random.standard_normal(2)
    rows = Rows(random.standard_normal((2, network.outputs)), None, [Fraction(v) for v in thresholds.tolist()], thresholds)  # fmt: skip
    weights = np.abs(random.standard_normal((1, 3, 2)))
    found = []
    for exact in (False, True):
        own = Bounder(network, Arithmetic(exact=exact))
        rho = own.sloped((low, high), alphas, None, (pool.in_use(every), shares))
        sizes = own.dual.sizes(low, high)
        needed = np.full((1, 3), -1e300 if exact else np.inf)
        with np.errstate(all="ignore"):
            found.append(own.reach((low, high), Objective(weights, [rows]), rho, sizes, needed, False)[0][0])
    rounded, bound = found
    assert (rounded <= bound + 1e-300).all()
    assert (
        bound - rounded <= 1e-7 * (1 + np.abs(bound) + np.abs(shares).sum() * np.abs(offsets).max())
    ).all()
    truth = Truth(network)
    for x in points(lower, upper, random, 6):
        y = truth.values(x.tolist())[-1]
        margins = [sum((Fraction(c) * v for c, v in zip(row, y, strict=True)), -limit) for row, limit in zip(rows.outputs.tolist(), rows.exact_thresholds, strict=True)]  # fmt: skip
        for objective, one in enumerate(weights[0].tolist()):
            value = sum((Fraction(w) * margin for w, margin in zip(one, margins, strict=True)), Fraction(0))
            assert fraction(bound[objective]) <= value + Fraction(1, 10**9) * (1 + abs(value))
            assert fraction(rounded[objective]) <= value


# -- what a file may say


SIZES = (2, 3, 1)
WIDE = [-1.0, -1.0], [1.0, 1.0]


def files_of(folder: Path, limit: float = -30.0) -> Files:
    """Two inputs (variables 0 and 1), three neurons (2 to 4), one output; -30 is far below all of it."""
    text = property_text(*WIDE, 1, f"(<= Y_0 {limit!r})")
    return placed(folder, relu_model(random_layers(2, SIZES)), text)


def cut_block(
    variables: Sequence[int] = (2,), slopes: Sequence[float] = (0.0,), factors: Sequence[float] = (0.0,), offsets: Sequence[float] = (50.0,),
    counts: Sequence[int] = (0,), columns: Sequence[int] = (), values: Sequence[float] = (), box: Sequence[Sequence[float]] | None = None,
) -> tuple[str, bytes]:  # fmt: skip
    low, high = box or ([-1, -1, -40, -40, -40], [1, 1, 40, 40, 40])
    head = numbers("<i8", len(variables)) + numbers("<i4", *variables) + numbers("<f8", *low, *high)
    middle = numbers("<f8", *slopes, *factors, *offsets) + numbers("<i4", *counts)
    return "cuts", head + middle + numbers("<i4", *columns) + numbers("<f8", *values)


def leaf(
    cuts: Sequence[int] = (0,), shares: Sequence[float] = (0.5,), unstable: int = 3
) -> tuple[str, bytes]:
    """Node 0 by slopes of 0.5; the box block before it leaves all neurons unstable."""
    head = numbers("<i8", 1, 0) + numbers("<f4", 1.0) + numbers("<i8", len(cuts), *cuts)
    return "leaves32_cuts", head + numbers("<f4", *shares, *[0.5] * unstable)


BOX = "box", numbers("<i8", 1, 0) + numbers("<f8", *[-40.0] * 3, *[40.0] * 3)


def told(files: Files, *blocks: tuple[str, bytes], **options: Any) -> str:
    by_hand(files, blocks, **options)
    found = files.check()
    assert not found.proved, found.sentence
    return found.sentence


def test_a_cut_that_holds(tmp_path: Path) -> None:
    """In both arithmetics, and the same with a coefficient of each input."""
    files = files_of(tmp_path)
    for cut in (cut_block(), cut_block(counts=(2,), columns=(1, 0), values=(0.25, -1.5))):
        by_hand(files, [BOX, cut, leaf()])
        assert files.check().proved, files.check().sentence
        assert files.check(exact=True).proved
    assert Parts.read(files.certificate).blocks[1][0] == "cuts"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"offsets": (-50.0,)}, "does not hold on its box"),
        ({"slopes": (-3.0,)}, "does not hold on its box"),
        ({"counts": (1,), "columns": (0,), "values": (-60.0,)}, "does not hold on its box"),
        ({"offsets": (np.nan,)}, "not finite"),
        ({"slopes": (np.inf,)}, "not finite"),
        ({"factors": (np.nan,)}, "not finite"),
        ({"counts": (1,), "columns": (0,), "values": (np.nan,)}, "not finite"),
        ({"box": ([-1, -1, -np.inf, -40, -40], [1, 1, 40, 40, 40])}, "not finite"),
        ({"variables": (0,)}, "before no ReLU"),
        ({"variables": (-1,)}, "unknown variable"),
        ({"variables": (5,)}, "unknown variable"),
        ({"counts": (1,), "columns": (3,), "values": (0.0,)}, "not before it"),
        ({"counts": (1,), "columns": (2,), "values": (1.0,)}, "not before it"),
        ({"counts": (1,), "columns": (5,), "values": (1.0,)}, "unknown variable"),
        ({"counts": (2,), "columns": (0, 0), "values": (1.0, 1.0)}, "two coefficients"),
        ({"counts": (-1,)}, "less than no"),
        ({"counts": (1,)}, "less in it"),
    ],
)  # fmt: skip
def test_cuts_that_are_none(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    files = files_of(tmp_path)
    assert words in told(files, BOX, cut_block(**changes), leaf())
    by_hand(files, [BOX, cut_block(**changes), leaf()])
    assert not files.check(exact=True).proved


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([BOX, leaf(), cut_block()], "not there yet"),
        ([BOX, cut_block(), leaf((1,))], "not there yet"),
        ([BOX, cut_block(), leaf((-1,))], "not there yet"),
        ([BOX, cut_block(), leaf((2**62,))], "not there yet"),
        ([BOX, cut_block(), leaf(shares=(-0.1,))], "negative or not finite"),
        ([BOX, cut_block(), leaf(shares=(np.nan,))], "negative or not finite"),
        ([BOX, cut_block(), leaf(shares=(np.inf,))], "negative or not finite"),
        ([BOX, cut_block(), leaf((0,), ())], "less in it"),
    ],
)
def test_leaves_that_use_no_cuts(tmp_path: Path, blocks: Sequence[tuple[str, bytes]], words: str) -> None:
    assert words in told(files_of(tmp_path), *blocks)


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("side", [0, 1])
def test_outside_of_its_box(tmp_path: Path, place: int, side: int) -> None:
    """By however little, and whatever the variable: a cut says nothing there."""
    ends = [[-1.0, -1, -40, -40, -40], [1.0, 1, 40, 40, 40]]
    ends[side][place] *= 1 - 1e-15
    cut = cut_block(box=ends)
    assert "node 0 is not inside the box of its cuts" in told(files_of(tmp_path), BOX, cut, leaf())


def test_a_false_cut_would_prove_anything(tmp_path: Path) -> None:
    """A property that is violated: with the cut that the checker refuses, and with those that it accepts."""
    files = files_of(tmp_path, 30.0)
    for offset in (-1e6, -50.0, 0.0, 50.0):
        for variable in (2, 3, 4):
            for shares in ((1.0,), (3.0,)):
                told(files, BOX, cut_block(variables=(variable,), offsets=(offset,)), leaf(shares=shares))


def test_of_the_deployed_network(tmp_path: Path) -> None:
    """Cuts put inputs in for pre-activations, which float32 does not."""
    files = files_of(tmp_path)
    by_hand(files, [BOX, cut_block(), leaf()], semantics=DEPLOYED)
    assert "real function alone" in files.check(semantics=DEPLOYED).sentence
    assert files.check().proved


def test_duplicates_share_twice(tmp_path: Path) -> None:
    """A cut that a leaf names twice has both shares."""
    files = files_of(tmp_path)
    by_hand(files, [BOX, cut_block(), leaf((0, 0), (0.3, 0.2))])
    twice = files.check()
    by_hand(files, [BOX, cut_block(), leaf((0,), (0.5,))])
    once = files.check()
    assert twice.proved and once.proved
    assert twice.summary is not None and once.summary is not None
    assert twice.summary.margin == pytest.approx(once.summary.margin, rel=1e-6)


def test_numbers_of_unknown_cuts_are_refused() -> None:
    with pytest.raises(Refused, match="not there yet"):
        Cuts(relu_network(1)).in_use(np.array([0]))
