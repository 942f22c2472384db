"""What a search tells its proof: the neutral tracer does nothing at all, the one that writes keeps the tree in order."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import property_text, random_layers, relu_model
from torch import Tensor

from verify.bab.strategy import root_subproblems
from verify.bounders.ibp import interval, magnitudes
from verify.bounders.tracing import UNTRACED, BoundTracer, Provable, unobserved
from verify.checker.container import read
from verify.checker.kinds import blocks as checked_blocks
from verify.lagrangian.dual import DualProblem
from verify.problem import prepare
from verify.proof import certificate
from verify.proof.box_blocks import FORWARD
from verify.proof.box_tracer import BoxTracer
from verify.proof.certificate import PIECEWISE, UNPROVED, CertificateTracer
from verify.proof.input_boxes import InputBoxes, Turn
from verify.proof.tracer import NO_PROOF, ProofTracer
from verify.proof.writer import CertificateWriter
from verify.state import Bounds, Subproblems

SIZES = (3, 4, 2)


def problem_of() -> tuple[DualProblem, Subproblems]:
    """A network's only clause on its whole box."""
    problem = prepare(
        relu_model(random_layers(0, SIZES)), property_text([-1.0] * 3, [1.0] * 3, 2, "(<= Y_0 0.0)")
    )
    network = problem.model.network
    bounds, _ = interval(network, *problem.boxes([0]))
    subproblems = root_subproblems(1, [0], network.alphas, network.device)
    return DualProblem(network, bounds, problem.objective([0])), subproblems


def own_methods(kind: type) -> dict[str, Callable[..., Any]]:
    """The public methods that a class defines."""
    found = vars(kind).items()
    return {name: method for name, method in found if inspect.isfunction(method) and name[0] != "_"}


@pytest.mark.parametrize(
    ("neutral", "writing", "besides"),
    [(ProofTracer, CertificateTracer, {"number"}), (BoundTracer, BoxTracer, set())],
)
def test_the_neutral_tracer_has_every_method(neutral: type, writing: type, besides: set[str]) -> None:
    """A search may call whatever the other one has, with the same arguments."""
    mine, others = own_methods(neutral), own_methods(writing)
    assert set(others) - besides == set(mine)
    for name, method in mine.items():
        assert list(inspect.signature(method).parameters) == list(inspect.signature(others[name]).parameters)


def test_the_neutral_tracer_hands_back_what_it_is_given() -> None:
    """The same objects: nothing is copied, rounded or kept."""
    problem, subproblems = problem_of()
    state, owner = problem.initial(), torch.zeros(1, dtype=torch.int64)
    assert not NO_PROOF.writes
    assert NO_PROOF.roots(subproblems, subproblems.clause[:, None]) is subproblems
    assert NO_PROOF.split(subproblems, subproblems, owner, owner) is subproblems
    assert NO_PROOF.rounded(state) is state
    assert NO_PROOF.boxes(subproblems, owner, 1) is UNTRACED
    assert NO_PROOF.lemmas(subproblems, problem.network.layers[0], problem.bounds, state) is unobserved
    lower, upper = torch.zeros(1, 3), torch.ones(1, 3)
    box = NO_PROOF.input_boxes(
        subproblems, problem.bounds, boxes_of(problem.bounds, lower, upper), (Turn(1, FORWARD),)
    )
    inherited = subproblems.constrained_lower.shape[1]
    for end, own, known in (
        (box.lower, lower, problem.bounds.lower),
        (box.upper, upper, problem.bounds.upper),
    ):
        assert torch.equal(end, torch.cat([own, known[:, 3:inherited]], 1))
    assert UNTRACED.settled(problem.bounds) is problem.bounds
    assert UNTRACED.rounded(problem, state) is state
    assert UNTRACED.slack(lower, upper) == 0


def test_without_a_proof_dual_points_refute_as_they_are() -> None:
    problem, subproblems = problem_of()
    sizes, state = magnitudes(problem.network, problem.bounds), problem.initial()
    bound = problem.evaluate(state, sizes).bound[:, 0]
    assert NO_PROOF.refuted(subproblems, problem, state, sizes).tolist() == (bound > 0).tolist()
    empty = replace(problem.bounds, lower=problem.bounds.upper + 1)
    nothing = DualProblem(problem.network, empty, problem.objective)
    assert NO_PROOF.refuted(subproblems, nothing, state, sizes).tolist() == [True]


def test_what_a_certificate_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every restriction is one entry of a table: without it the search may do as it likes."""
    problem, _ = problem_of()
    with CertificateWriter(tmp_path / "certificate") as writer:
        tracer = CertificateTracer(problem.network, 1, writer)
        assert tracer.writes
        assert tracer.piecewise
        assert all(NO_PROOF.proves(technique) for technique in Provable)
        assert {one for one in Provable if not tracer.proves(one)} == UNPROVED
        tracer.piecewise = False
        assert {one for one in Provable if not tracer.proves(one)} == UNPROVED | PIECEWISE
        monkeypatch.setattr(certificate, "UNPROVED", UNPROVED - {Provable.FORWARD})
        assert tracer.proves(Provable.FORWARD)


def test_threads_tell_at_once(tmp_path: Path) -> None:
    """Every child's number is that of the split that was written for it."""
    problem, subproblems = problem_of()
    threads, rounds = 8, 200
    with CertificateWriter(tmp_path / "certificate") as writer:
        tracer = CertificateTracer(problem.network, 1, writer)
        roots = tracer.roots(
            subproblems.select(torch.zeros(threads, dtype=torch.int64)), torch.zeros(threads, 1)
        )

        def tell(thread: int) -> list[int]:
            """Goes down from its root, always to the upper side."""
            mine, nodes = roots.select(torch.tensor([thread])), []
            for number in range(rounds):
                variable = torch.tensor([thread * rounds + number])
                both = Subproblems.concatenate([mine, mine])
                mine = tracer.split(mine, both, variable, torch.zeros(1)).select(torch.tensor([0]))
                nodes += mine.subproblem_id.tolist()
                tracer.leaves_by_default(mine)
            return nodes

        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(tell, range(threads)))
        writer.finish({})
        written = read(writer.whole)
        node, variable = written.tensor("split.node", "<i8"), written.tensor("split.variable", "<i4")
        ends = written.tensor("block.end", "<i8")
        assert len(np.unique(node)) == len(node) == threads * rounds == len(ends)
        assert set(np.diff(ends, prepend=0)) == {8 + 8 + 4}
        for thread, nodes in enumerate(found):
            splits = (np.array(nodes) - threads) // 2
            assert variable[splits].tolist() == [thread * rounds + number for number in range(rounds)]
            assert node[splits].tolist() == [thread, *nodes[:-1]]


def test_roots_that_begin_anew_again(tmp_path: Path) -> None:
    """A root that was left open and begun from again is split by then: only what nobody goes on with is covered."""
    _, subproblems = problem_of()
    one = torch.tensor([0])
    with CertificateWriter(tmp_path / "certificate") as writer:
        tracer = CertificateTracer(problem_of()[0].network, 1, writer)
        tracer.expect_renewals()
        root = tracer.roots(subproblems, subproblems.clause[:, None])
        assert tracer.renewable
        # nothing is known of the root yet, so it is tried itself
        again = tracer.anew(root)
        assert again.subproblem_id.tolist() == root.subproblem_id.tolist() == [0]
        tracer.abandoned(root)
        both = Subproblems.concatenate([again, again])
        children = tracer.split(again, both, one, torch.zeros(1))
        assert tracer.anew(root).subproblem_id.tolist() == [1]
        # not taken: the children go on
        upper = children.select(one)
        more = tracer.split(upper, both, one, torch.zeros(1))
        last = tracer.anew(root)
        tracer.abandoned(Subproblems.concatenate([children.select(one + 1), more]))
        tracer.leaves_by_default(last)
        writer.finish({"verdict": "unsat"})
        written = read(writer.whole)
        roots = len(written.tensor("root.count", "<i8"))
        found = [block for block in checked_blocks(written) if block.rule.name == "covered"]
        [covered] = found
        nodes = covered.cursor().counted("<i8").tolist()
        assert sorted(nodes) == [*range(2, roots), roots + 1, roots + 2, roots + 3]
        assert covered.data[8 + 8 * len(nodes) :].view("<i8").tolist() == [1] * len(nodes)


def boxes_of(bounds: Bounds, lower: Tensor, upper: Tensor, made: bool = False) -> InputBoxes:
    """One box of one clause and one row, left open, perhaps after a second pass."""
    nothing = torch.zeros(1, 2, 1, 1, dtype=torch.float64)
    every = torch.zeros(1, 1, dtype=torch.int64)
    return InputBoxes(
        torch.tensor([False]), every, every == 0, torch.tensor([[True, made]]), nothing, nothing[:, 0, :, :0], lower, upper, bounds
    )  # fmt: skip


@pytest.mark.parametrize("made", [False, True])
def test_boxes_leave_room_for_who_rounds_otherwise(
    made: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug found: behind products the checker's boxes are wider by 1e-11 of them, and no certificate was proved. What is handed on is what was written."""
    problem, subproblems = problem_of()
    inputs, bounds = problem.network.inputs, problem.bounds
    subproblems = replace(
        subproblems,
        constrained_lower=torch.full_like(bounds.lower, -torch.inf),
        constrained_upper=torch.full_like(bounds.upper, torch.inf),
    )
    whole = Bounds(bounds.lower[:, :inputs], bounds.upper[:, :inputs])
    blocks: list[Any] = []
    lower, upper = whole.lower.clone(), whole.upper.clone()
    lower[:, 0], upper[:, 1] = 0.25, 0.5
    found = boxes_of(bounds, lower, upper, made)
    with CertificateWriter(tmp_path / "certificate") as writer:
        tracer = CertificateTracer(problem.network, 1, writer)
        monkeypatch.setattr(tracer, "write", blocks.append)
        kept = tracer.input_boxes(subproblems, whole, found, (Turn(1, FORWARD),))
    (block,) = blocks
    box = Bounds(kept.lower[:, :inputs], kept.upper[:, :inputs])
    assert torch.equal(block.lower, box.lower) and torch.equal(block.upper, box.upper)
    assert bool((box.lower >= whole.lower).all() and (box.upper <= whole.upper).all())
    room = torch.tensor([lower[0, 0] - box.lower[0, 0], box.upper[0, 1] - upper[0, 1]])
    assert bool(((room > 1e-7) & (room < 1e-5)).all())
    behind = Bounds(kept.lower[:, inputs:], kept.upper[:, inputs:])
    assert len(block.known) == made
    if not made:
        assert bool(behind.lower.isinf().all() and behind.upper.isinf().all())
        return
    assert torch.equal(block.known_lower, behind.lower) and torch.equal(block.known_upper, behind.upper)
    assert torch.equal(behind.lower.float().double(), behind.lower)
    room = torch.cat([bounds.lower[:, inputs:] - behind.lower, behind.upper - bounds.upper[:, inputs:]])
    width = bounds.upper[:, inputs:] - bounds.lower[:, inputs:]
    assert bool(((room > 0.9e-6 * width) & (room < 1e-5 * (1 + width))).all())
