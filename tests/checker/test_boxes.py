"""Boxes of the input: what is carried forward holds at every input, what a box hands on counts below it alone, and forgeries fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make_data import FAMILIES, Files, by_hand, network, numbers, placed, searched
from nets import property_text, random_layers, relu_model

from verify.bab.effort import Effort, Observation
from verify.bab.loop import BranchAndBound
from verify.bounders.forward import forward
from verify.bounders.halfspaces import Halfspaces as Reference
from verify.bounders.ibp import interval
from verify.checker import halfspaces
from verify.checker.bounding import Bounder
from verify.checker.checking import prepare_proof, take_in
from verify.checker.clauses import Clauses, Rows
from verify.checker.dual import Linear
from verify.checker.forward import carried_forward
from verify.checker.halfspaces import Halfspaces
from verify.checker.kinds import blocks as blocks_of
from verify.checker.multipliers import Arithmetic, Pair
from verify.checker.network import Network
from verify.checker.onnx_reader import read_model
from verify.checker.passes import tightened
from verify.checker.query import read_query
from verify.deadline import Deadline
from verify.problem import prepare
from verify.state import Bounds

Array = np.ndarray[Any, Any]


def boxes_of(count: int, inputs: int, seed: int) -> Pair:
    """Some boxes; an input is a point in each."""
    random = np.random.default_rng(seed)
    middle, radius = random.uniform(-0.5, 0.5, (count, inputs)), random.uniform(0.05, 0.5, (count, inputs))
    radius[:, -1] = 0.0
    return middle - radius, middle + radius


def inside(box: Pair, count: int, seed: int) -> Array:
    """Points of boxes, corners among them: [boxes, count, inputs]."""
    share = np.random.default_rng(seed).uniform(-0.3, 1.3, (len(box[0]), count, box[0].shape[1])).clip(0, 1)
    return np.minimum(
        np.maximum(box[0][:, None] + share * (box[1] - box[0])[:, None], box[0][:, None]), box[1][:, None]
    )


def pre_activations(net: Network, points: Array) -> Array:
    """All variables at points [boxes, count, inputs]."""
    values = net.values(points.reshape(-1, points.shape[2]))
    found = np.concatenate(
        [points.reshape(-1, points.shape[2]), *(values[one.operand] for one in net.layers)], 1
    )
    return found.reshape(*points.shape[:2], -1)


def check_hold(bounds: Pair, values: Array, kept: Array | None = None) -> None:
    """No value of a box (of those kept) lies outside by more than what evaluating it rounds."""
    slack = 1e-11 * (1 + np.abs(values))
    fits = (values >= bounds[0][:, None] - slack) & (values <= bounds[1][:, None] + slack)
    assert bool((fits if kept is None else fits | ~kept[..., None]).all())


def widths(bounds: Pair) -> float:
    return float((bounds[1] - bounds[0]).sum())


@pytest.mark.parametrize("family", ["relu", "residual"])
def test_what_is_charged_does_not_depend_on_who_is_bounded_beside(family: str) -> None:
    """Which boxes a block holds is no concern of each one's bounds: beside a huge one they were charged for its sizes."""
    net = read_model(network(family, 3).SerializeToString())
    bounder, box = Bounder(net, Arithmetic()), boxes_of(2, net.inputs, 0)
    box[0][1], box[1][1] = -1e9, 1e9
    alone, both = (
        tightened(bounder, bounder.dual.intervals(box[0][:count], box[1][:count])) for count in (1, 2)
    )
    for one, two in zip(alone, both, strict=True):
        np.testing.assert_allclose(two[:1], one, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("deployed", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_carried_forward(family: str, deployed: bool) -> None:
    """It holds at every input, is no looser than intervals, and is what the search carries forward but for rounding."""
    proto = network(family, 3)
    net = read_model(proto.SerializeToString())
    piecewise = all(one.kind in ("relu", "leaky", "clip", "abs") for one in net.layers)
    if deployed and not piecewise:
        pytest.skip("nothing is known of it in float32")
    bounder = Bounder(net, Arithmetic(deployed=deployed))
    box = boxes_of(4, net.inputs, 0)
    with np.errstate(all="ignore"):
        known = bounder.dual.intervals(*box)
        found = carried_forward(bounder.dual, known)
    check_hold(found, pre_activations(net, inside(box, 500, 1)))
    assert bool((found[0] >= known[0]).all() and (found[1] <= known[1]).all())
    # one layer of activations behind the input, and what its outputs' intervals give: nothing to gain
    assert family in ("convolution", "maximum", "product") or widths(found) < 0.999 * widths(known)
    if not deployed:
        own = prepare(proto, property_text([-1.0] * 3, [1.0] * 3, net.outputs, "(<= Y_0 0.0)")).model.network
        start, _ = interval(own, *(torch.from_numpy(end) for end in box))
        theirs = forward(own, start, Deadline()).bounds
        for mine, other in zip(found, (theirs.lower, theirs.upper), strict=True):
            np.testing.assert_allclose(mine, other.numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_over_what_half_spaces_leave(family: str) -> None:
    """Bounds hold where rows are at most 0, and tell more than those of the whole boxes."""
    net = read_model(network(family, 5).SerializeToString())
    bounder, box = Bounder(net, Arithmetic()), boxes_of(3, net.inputs, 2)
    points = inside(box, 3000, 3)
    random = np.random.default_rng(4)
    normals = random.normal(size=(3, 2, net.inputs))
    values = (points[:, :, None] * normals[:, None]).sum(3)
    constants = -np.quantile(values, 0.4, axis=1)
    rows = Linear(normals, constants, np.full((3, 2), 1e-3))
    kept = (values + constants[:, None] - 1e-3 <= 0).all(2)
    assert kept.any() and not kept.all()
    with np.errstate(all="ignore"):
        unsafe = Halfspaces.of(box, rows, np.ones((3, 2), dtype=bool))
        known = bounder.dual.intervals(*box)
        for way in (carried_forward, lambda _, *rest: tightened(bounder, *rest)):
            shallow = way is not carried_forward and len(net.layers) == 1
            whole, part = way(bounder.dual, known), way(bounder.dual, known, unsafe)
            check_hold(whole, pre_activations(net, points))
            check_hold(part, pre_activations(net, points), kept)
            assert shallow or widths(part) < 0.999 * widths(whole)


def test_least_values_over_half_spaces() -> None:
    """As the search has them; a row that is not used, or says nothing, changes nothing."""
    random = np.random.default_rng(0)
    box = boxes_of(20, 4, 5)
    normals, functions = random.normal(size=(20, 2, 4)), random.normal(size=(20, 7, 4))
    normals[3] = 0.0
    none = np.zeros((20, 7))
    rows, asked = Linear(normals, np.full((20, 2), 0.3), np.zeros((20, 2))), Linear(functions, none, none)
    used = random.uniform(size=(20, 2)) < 0.7
    used[4] = False
    low, high = (torch.from_numpy(end) for end in box)
    with np.errstate(all="ignore"):
        found = Halfspaces.of(box, rows, used).least(asked)
        plain = asked.bound(box[0][:, None], box[1][:, None])
        row_bound = rows.bound(box[0][:, None], box[1][:, None])
    theirs = Reference.of(
        Bounds(low, high), torch.from_numpy(row_bound), torch.from_numpy(normals), torch.from_numpy(used)
    )
    expected = theirs.least(torch.from_numpy(plain), torch.from_numpy(functions)).numpy()
    np.testing.assert_allclose(np.fmax(found, plain), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found[[3, 4]], plain[[3, 4]], rtol=1e-12, atol=1e-12)
    assert bool((found > plain + 1e-3).any())


def test_many_rows_are_charged_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row that is added rounds: with what that may lose a bound is below the sum in rationals, whatever the weights."""
    random, count = np.random.default_rng(1), 400
    normals = random.choice([-1.0, 1.0], (1, count, 1)) * random.uniform(0.5, 1, (1, count, 1)) / 3
    box, weights = (-np.ones((1, 1)), np.ones((1, 1))), random.uniform(0.5, 1, count) / 3
    given = iter(weights)
    monkeypatch.setattr(halfspaces, "_weight", lambda *_: np.full((1, 1), next(given)))
    rows = Linear(normals, np.full((1, count), -0.1), np.zeros((1, count)))
    unsafe = Halfspaces.of(box, rows, np.ones((1, count), dtype=bool))
    asked = Linear(np.full((1, 1, 1), 0.7), np.full((1, 1), 0.1), np.zeros((1, 1)))
    found = Fraction(float(unsafe.least(asked)[0, 0]))
    constant, slope = Fraction(0.1), Fraction(0.7)
    for weight, normal in zip(weights.tolist(), normals[0, :, 0].tolist(), strict=True):
        constant, slope = (
            constant - Fraction(weight) * Fraction(0.1),
            slope + Fraction(weight) * Fraction(normal),
        )
    size = 0.8 + float(sum(weights)) * 0.5
    assert found <= constant - abs(slope)
    assert constant - abs(slope) - found > 3 * count * size * 2.0**-54


def test_rows_are_known_by_what_they_say() -> None:
    """The search asks which rows clauses share."""
    text = property_text(
        [-1.0],
        [1.0],
        2,
        "(or (and (<= Y_0 1.0) (<= Y_1 2.0)) (and (<= Y_1 2.0) (<= Y_0 1.5)) (<= Y_0 1.0) (<= Y_0 X_0) (<= Y_0 (+ X_0 0.5)))",
    )
    query = read_query(text)
    clauses = Clauses(query, np.arange(5), np.array([5]), "2")
    first, second, third, fourth, fifth = (clauses.row_numbers(clause) for clause in range(5))
    assert first[1] == second[0] and first[0] != second[1] and third == (first[0], first[0])
    assert len({first[0], fourth[0], fifth[0]}) == 3 and isinstance(clauses.rows(3), Rows)


# -- searches


class OneByOne(Effort):
    """Every technique is tried on every box, and on one at a time."""

    def learned(self, seen: Observation) -> Effort:
        return self

    def chosen(self, technique: str, bound: torch.Tensor, techniques: int = 1) -> torch.Tensor:
        return torch.arange(min(1, len(bound)))

    def sooner(self, *_: object) -> bool:
        return False


def one_by_one(search: BranchAndBound) -> None:
    search.knowledge = replace(search.knowledge, effort=OneByOne())


@pytest.mark.parametrize("seed", [4, 6])
def test_techniques_that_take_boxes_of_a_batch_one_by_one(seed: int, tmp_path: Path) -> None:
    """Bug found: the multipliers of boxes that had ascended before others of their batch were lost."""
    layers = random_layers(seed, (3, 10, 10, 2))
    y = np.random.default_rng(0).uniform(-1, 1, (4000, 3))
    for i, (weight, bias) in enumerate(layers):
        y = y @ weight.T + bias
        y = np.maximum(y, 0) if i < 2 else y
    limit = float(y[:, 0].min()) - 0.2 * float(np.ptp(y[:, 0]))
    text = property_text([-1.0] * 3, [1.0] * 3, 2, f"(<= Y_0 {limit!r})")
    files = placed(tmp_path, relu_model(layers), text)
    assert searched(files, "inputs", prepare_search=one_by_one) == ("unsat", None)


# -- forgeries: y = relu(x) on [-1, 1], split at 0


def relu_files(folder: Path, text: str) -> Files:
    one = np.ones((1, 1), np.float32)
    folder.mkdir()
    model = relu_model([(one, np.zeros(1, np.float32)), (one, np.zeros(1, np.float32))])
    return placed(folder, model, property_text([-1.0], [1.0], 1, text))


def head(nodes: Sequence[int], clauses: Sequence[int] = (0,), *passes: tuple[int, bytes]) -> bytes:
    """The beginning of both kinds of blocks: the same clauses of all nodes, and passes behind the first."""
    kinds = [kind for kind, _ in passes]
    start = numbers("<i8", len(nodes), *nodes, len(clauses)) + numbers("<i4", *(list(clauses) * len(nodes)))
    return start + numbers("<i8", len(kinds)) + numbers("<u1", *kinds) + b"".join(data for _, data in passes)


def places(*rows: int) -> bytes:
    return numbers("<i8", len(rows)) + numbers("<i4", *rows)


def leaf(
    nodes: Sequence[int], clauses: Sequence[int] = (0,), *passes: tuple[int, bytes]
) -> tuple[str, bytes]:
    return "box_leaves", head(nodes, clauses, *passes)


def known(
    node: int, box: tuple[float, float] = (-1.0, 1.0), z: tuple[float, float] | None = None, clauses: Sequence[int] = (0,), left: Sequence[int] = (1,)
) -> tuple[str, bytes]:  # fmt: skip
    """What is said of a node: its box, perhaps bounds of its pre-activation, and which clauses are left."""
    data = head([node], clauses) + numbers("<f8", *box) + numbers("<u1", *left)
    if z is None:
        return "boxes", data + places()
    return "boxes", data + places(0) + numbers("<f4", *z)


HOLDS, FAILS = "(>= Y_0 1.5)", "(>= Y_0 0.5)"
TWO = "(or (>= Y_0 {}) (<= Y_0 -2.0))"
SPLIT = [(0, 0, 0.0)]
FORGED = {
    "leaf": [leaf([1, 2])],
    "leaf after passes": [leaf([1, 2], (0,), (1, places(0, 1)), (2, places(0, 1)))],
    "multipliers": [leaf([1, 2], (0,), (3, places(0, 1) + numbers("<f4", 0.0, 1e9)))],
    "no numbers": [leaf([1, 2], (0,), (3, places(0, 1) + numbers("<f4", np.nan, np.inf)))],
    "a box that is too small": [known(1, (0.0, 0.25)), leaf([1, 2])],
    "an empty box": [known(1, (1.0, 0.0)), leaf([1, 2])],
    "a bound that is too tight": [known(1, (0.0, 1.0), (0.0, 0.25)), leaf([1, 2])],
    "a bound of the other half": [known(2, (-1.0, 0.0), (-1.0, 0.0)), leaf([1, 2])],
    "a bound of the other half, said above": [known(0, (-1.0, 1.0), (-1.0, 0.0)), leaf([1, 2])],
    "a box of the other half, said above": [known(0, (-1.0, 0.0)), leaf([1, 2])],
    "said afterwards": [leaf([1, 2]), known(1, (0.0, 0.25))],
    "a clause left out": [known(1, (0.0, 1.0), left=(0,)), leaf([1, 2])],
    "all clauses left out above": [known(0, left=(0,)), leaf([1, 2])],
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_nothing_is_proved_of_what_is_false(name: str, tmp_path: Path) -> None:
    files = relu_files(tmp_path / "false", FAILS)
    by_hand(files, FORGED[name], splits=SPLIT)
    assert not files.accepted()


HONEST = {
    "leaves": [leaf([1, 2])],
    "passes": [leaf([1, 2], (0,), (1, places(0, 1)), (2, places(1)), (1, places(0)))],
    "multipliers": [leaf([2, 1], (0,), (3, places(1) + numbers("<f4", -1.0)))],
    "what is known": [known(0, (-1.0, 1.0), (-1.001, 1.001)), known(1, (-0.5, 1.0), (-np.inf, 1.25)), leaf([1]), leaf([2])],
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_what_is_true_is_proved(name: str, tmp_path: Path) -> None:
    """Or the forgeries would prove nothing. Each of these fails too where a block is cut short, prolonged, or is not in order."""
    files = relu_files(tmp_path / "true", HOLDS)
    by_hand(files, HONEST[name], splits=SPLIT)
    assert files.check().proved, files.check().sentence
    for at, (kind, data) in enumerate(HONEST[name]):
        for changed in (data[:-1], data + b"\0", data[:8], b""):
            blocks = [*HONEST[name][:at], (kind, changed), *HONEST[name][at + 1 :]]
            by_hand(files, blocks, splits=SPLIT)
            assert not files.accepted(), (kind, len(changed))


@pytest.mark.parametrize(
    ("blocks", "why"),
    [
        ([leaf([1, 2], (0,), (1, places(1, 0)))], "not in order"),
        ([leaf([1, 2], (0,), (1, places(0, 0)))], "not in order"),
        ([leaf([1, 2], (0,), (1, places(2)))], "not there"),
        ([leaf([1, 2], (0,), (3, places(2) + numbers("<f4", 1.0)))], "not there"),
        ([leaf([1, 2], (0,), (4, places(0)))], "pass that is not known"),
        ([leaf([1, 2], (0,), (0, places(0)))], "pass that is not known"),
        ([leaf([1, 2], ())], "no clauses"),
        ([leaf([1, 2], (1,))], "does not stand for"),
        ([leaf([1, 2], (-1,))], "does not stand for"),
        ([known(0), known(0), leaf([1, 2])], "told of twice"),
        ([known(0, (np.nan, 1.0)), leaf([1, 2])], "not a number"),
        ([known(0, left=(2,)), leaf([1, 2])], "a flag that is none"),
        ([known(3), leaf([1, 2])], "not in the tree"),
        ([leaf([1, 1, 2])], "twice"),
    ],
)
def test_what_is_not_well_formed(blocks: list[tuple[str, bytes]], why: str, tmp_path: Path) -> None:
    files = relu_files(tmp_path / "true", HOLDS)
    by_hand(files, blocks, splits=SPLIT)
    assert why in files.check().sentence


def test_clauses_that_are_left(tmp_path: Path) -> None:
    """The second clause is refuted at the root; below that only the first is needed, and nowhere else."""
    rest = [known(0, clauses=(0, 1), left=(1, 0)), leaf([1], (0,)), leaf([2], (0,))]
    for number, (limit, blocks, why) in enumerate((
        (1.5, rest, None),
        (0.5, rest, "no bound above 0"),
        (1.5, [leaf([1, 2], (1, 0, 1))], None),
        (1.5, rest[1:], "not all clauses that are left of node 1"),
        (1.5, [known(1, (0.0, 1.0), clauses=(0, 1), left=(1, 0)), *rest[1:]], "not all clauses that are left of node 2"),
        (1.5, [*rest[:2], leaf([2], (1,))], "not all clauses that are left of node 2"),
        (1.5, [rest[0], known(2, (-1.0, 0.0), clauses=(1,)), *rest[1:]], "not all clauses that are left of node 2"),
        (0.5, [known(0, clauses=(0, 1), left=(0, 1)), leaf([1, 2], (1,))], "left out that is not refuted"),
    )):  # fmt: skip
        files = relu_files(tmp_path / str(number), TWO.format(limit))
        by_hand(files, blocks, splits=SPLIT, roots=[[0, 1]])
        checked = files.check()
        assert checked.proved == (why is None), (number, checked.sentence)
        assert why is None or why in checked.sentence


def test_what_is_known_is_forgotten_once_all_below_is_closed(tmp_path: Path) -> None:
    """So that memory holds what is open alone."""
    files = relu_files(tmp_path / "true", HOLDS)
    by_hand(
        files, [known(0), known(1, (0.0, 1.0)), leaf([3]), leaf([4]), leaf([2])], splits=[*SPLIT, (1, 0, 0.5)]
    )
    container, proof = prepare_proof(files.certificate, files.model, files.property)
    held = []
    for block in blocks_of(container):
        take_in(proof, block, True)
        held.append(sorted(proof.tree._known))
    assert held == [[0], [0, 1], [0, 1], [0], []]
    assert proof.finished().leaves == 3
