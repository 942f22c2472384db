"""The check of networks of all operators against planted points: what it draws, and that it notices what could be wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import verify
from benchmarks import planted
from benchmarks.planted import (
    RIGHT,
    WRONG_BOUND,
    WRONG_PROOF,
    WRONG_UNSAT,
    WRONG_WITNESS,
    Drawn,
    draw,
    judge,
    sampled,
)
from benchmarks.random_operators import LAYERS, STEPS, by_hand, module
from verify.problem import Witness
from verify.state import Bounds

SEEDS = (0, 2, 4)


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    """A network written by hand."""
    found = next(one for one in map(draw, range(50)) if one.route == "by hand")
    assert isinstance(found.model, bytes)
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_wrong(seed: int) -> None:
    """Neither bounds nor verdicts; on a busy machine some stay open."""
    found = planted.examine(seed, planted.SECONDS)
    assert found and not [finding.line() for finding in found if finding.wrong]


def test_every_step_and_layer_is_drawn() -> None:
    """A step that never suited any value would test nothing."""
    steps, layers = Counter[str](), Counter[str]()
    for seed in range(400):
        steps.update(by_hand(np.random.default_rng(seed), 2)[1])
        if seed < 150:
            layers.update(module(np.random.default_rng(seed), 2)[2])
    assert set(STEPS) == set(steps)
    assert set(LAYERS) <= set(layers)


def test_seeds_draw_the_same_again(drawn: Drawn) -> None:
    """Model, box and row."""
    seed = next(seed for seed in range(50) if draw(seed).model == drawn.model)
    again = draw(seed)
    assert again.model == drawn.model and again.text(0.5) == drawn.text(0.5)


def answer(verdict: str, **rest: Any) -> verify.Result:
    """A result that nobody has worked for."""
    return verify.Result(verdict, "because", 0.0, **rest)


def test_judgements(drawn: Drawn, tmp_path: Any) -> None:
    """Each way to be wrong has its name."""
    points = sampled(drawn, np.random.default_rng(0))
    best = points.points[points.values.argmin()]
    witness = Witness(best.astype(np.float32).reshape(drawn.shape), drawn.outputs(best[None])[0])
    above, below = float(points.values.min() + 1), float(points.values.min() - 1)
    outside = replace(witness, inputs=witness.inputs + np.float32(100))
    assert judge(drawn, above, True, answer("unsat")) == WRONG_UNSAT
    assert judge(drawn, above, True, answer("unsat", certificate=tmp_path)) == WRONG_PROOF
    assert judge(drawn, below, False, answer("unsat")) == RIGHT
    assert judge(drawn, above, True, answer("sat", witness=witness)) == RIGHT
    assert judge(drawn, below, False, answer("sat", witness=witness)) == WRONG_WITNESS
    assert judge(drawn, above, True, answer("sat", witness=outside)) == WRONG_WITNESS
    assert judge(drawn, above, True, answer("timeout")) == planted.UNDECIDED


def test_a_wrong_unsat_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever network it is said of."""
    monkeypatch.setattr(verify, "verify", lambda *_, **__: answer("unsat"))
    assert WRONG_UNSAT in {finding.judgement for finding in planted.examine(SEEDS[0], 1.0)}


def test_bounds_that_cut_off_a_point_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a variable by intervals, and of the whole property."""
    true = planted.interval

    def halved(*arguments: Any) -> Any:
        bounds, outputs = true(*arguments)
        middle = (bounds.lower + bounds.upper) / 2
        return Bounds(middle, middle), outputs

    monkeypatch.setattr(planted, "ROUTES", {"by hand": 1.0})
    monkeypatch.setattr(planted, "interval", halved)
    bounds = verify.ClauseBounds("crown", 0, (1e9,), 0.0, 0.0, ())
    monkeypatch.setattr(verify, "bounds", lambda *_, **__: bounds)
    seed = next(
        seed
        for seed in range(50)
        if (draw(seed).upper > draw(seed).lower).all() and "Relu" in draw(seed).operators
    )
    found = [finding for finding in planted.examine(seed, 1.0) if finding.judgement == WRONG_BOUND]
    assert len(found) == 2


def test_exceptions_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not the end of the check."""

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(verify, "bounds", broken)
    assert "out of order" in " ".join(
        finding.detail for finding in planted.examine(SEEDS[0], 1.0) if finding.wrong
    )
