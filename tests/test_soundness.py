"""The check of verdicts against exact optima: what it draws, and that it notices whatever could be wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from patience import PATIENCE

import verify
from benchmarks import soundness
from benchmarks.soundness import (
    FAILED,
    RIGHT,
    UNDECIDED,
    WRONG_OPTIMUM,
    WRONG_SAT,
    WRONG_UNSAT,
    WRONG_WITNESS,
    Example,
    Finding,
    ask,
    confirmed,
    example,
    faults,
    judge,
    report,
)
from verify.problem import Witness, prepare

SEEDS = (0, 1, 2, 3, 6, 7)  # of quickly decided networks
QUICK = 3.0  # seconds


@pytest.fixture(scope="module")
def one() -> Example:
    """The first network."""
    return example(0)


def test_no_verdict_on_some_networks_is_wrong() -> None:
    """Those decided in little time."""
    found = [finding for seed in SEEDS for finding in soundness.examine(seed, PATIENCE)]
    assert len(found) == 2 * len(SEEDS)
    assert not [finding.line() for finding in found if finding.judgement != RIGHT]


def test_all_kinds_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every family with inputs and with activations split."""
    monkeypatch.setattr(soundness, "optimum", lambda *_: soundness.Optimum(0.0, 0.0, 1.0))
    kinds = {example(seed).kind for seed in range(40)}
    assert len(kinds) == 2 * len(soundness.FAMILIES)


def test_seeds_draw_the_same_again(one: Example) -> None:
    """Network and properties."""
    again = example(one.seed)
    assert one.model == again.model
    assert [question.text() for question in one.questions] == [
        question.text() for question in again.questions
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_texts_say_what_clauses_say(seed: int) -> None:
    """Random points are judged alike by the check's own arithmetic and by the reader of VNN-LIB."""
    one = example(seed)
    random = np.random.default_rng(seed)
    for question in one.questions:
        problem = prepare(one.model, question.text())
        assert problem.clauses == len(question.clauses)
        for clause in question.clauses:
            for x in random.uniform(clause.lower, clause.upper, size=(20, len(clause.lower))).astype(
                np.float32
            ):
                y = problem.model.evaluate(x).ravel()
                inside = any(other.holds(x.tolist(), y.tolist()) for other in question.clauses)
                assert inside == problem.specification.violated(x.tolist(), y)


def answer(verdict: str, witness: Witness | None = None) -> verify.Result:
    """A result that nobody has worked for."""
    return verify.Result(verdict, "because", 0.0, witness)


def witness_of(one: Example) -> Witness:
    """A true witness of the violated question."""
    witness = verify.verify(one.model, one.questions[0].text(), timeout=PATIENCE).witness
    assert witness is not None
    return witness


def test_judgements(one: Example) -> None:
    """Each way to be wrong has its name."""
    sat, unsat = one.questions
    true = witness_of(one)
    outside = replace(true, inputs=true.inputs + np.float32(100))
    for question, result, judgement in (
        (sat, answer("sat", true), RIGHT),
        (unsat, answer("unsat"), RIGHT),
        (sat, answer("unsat"), WRONG_UNSAT),
        (unsat, answer("sat", true), WRONG_SAT),
        (sat, answer("sat", outside), WRONG_WITNESS),
        (sat, answer("sat"), WRONG_WITNESS),
        (replace(sat, expected="unsat"), answer("sat", true), WRONG_OPTIMUM),
        (sat, answer("unknown"), UNDECIDED),
        (unsat, answer("timeout"), UNDECIDED),
    ):
        assert judge(one.model, question, result) == judgement


def test_witnesses_are_run_again(one: Example) -> None:
    """What a witness says of its outputs does not count."""
    sat, unsat = one.questions
    true = witness_of(one)
    assert confirmed(one.model, sat, answer("sat", replace(true, outputs=true.outputs + 100)))
    assert not confirmed(one.model, unsat, answer("sat", replace(true, outputs=true.outputs - 100)))


@pytest.mark.parametrize(("verdict", "judgement"), [("unsat", WRONG_UNSAT), ("sat", WRONG_WITNESS)])
def test_a_wrong_verdict_is_reported(
    one: Example, verdict: str, judgement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verifier that always says the same is found out, with the seed that shows it."""
    monkeypatch.setattr(verify, "verify", lambda *_, **__: answer(verdict))
    found = [ask(one, question, QUICK) for question in one.questions]
    assert judgement in [finding.judgement for finding in found]
    (line,) = [finding.line() for finding in found if finding.judgement == judgement]
    assert f"--seed {one.seed}: {judgement}" in line
    assert any("wrong" in fault for fault in faults(found, 1))


def test_an_exception_is_reported(one: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verifier that gives up has failed."""

    def broken(*_: object, **__: object) -> verify.Result:
        raise RuntimeError("no idea")

    monkeypatch.setattr(verify, "verify", broken)
    found = ask(one, one.questions[0], QUICK)
    assert (found.judgement, found.wrong) == (FAILED, True)
    assert "RuntimeError: no idea" in found.line()


def findings(undecided: int, count: int = 100) -> list[Finding]:
    """Two findings of each network, some of them open."""
    return [
        Finding(i // 2, "dense", "sat", UNDECIDED if i < undecided else RIGHT, "", 0.5) for i in range(count)
    ]


def test_what_fails_the_check() -> None:
    """Wrong ones, too many open ones, and too few networks; the table counts them."""
    assert faults(findings(2), 50) == []
    assert len(faults(findings(3), 50)) == 1
    assert len(faults(findings(0), 51)) == 1
    assert len(faults([], 1)) == 1
    assert report(findings(3)).splitlines()[-1] == "| all | 50 | 100 | 97 | 3 | 0 | 0.50 | 0.50 |"


@pytest.mark.parametrize(("judgement", "status"), [(RIGHT, 0), (WRONG_UNSAT, 1), (UNDECIDED, 1)])
def test_exit_status(judgement: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not right is printed; time that runs out before a network is begun fails too."""
    made = [Finding(7, "dense", "sat", judgement, "why", 0.5)]
    monkeypatch.setattr(soundness, "examine_all", lambda *_: iter([made]))
    result = CliRunner().invoke(soundness.main, ["--seed", "7"])
    assert result.exit_code == status
    assert ("--seed 7:" in result.output) == (judgement != RIGHT)
    assert CliRunner().invoke(soundness.main, ["--networks", "2"]).exit_code == 1


def test_no_network_is_begun_late() -> None:
    """Without time there are no findings, and no worker is started."""
    assert list(soundness.examine_all(soundness.examine, [0, 1], 1, QUICK, stop=0.0)) == []
