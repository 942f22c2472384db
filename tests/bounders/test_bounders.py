"""All iterative bounders: never below the start, never above a sample, and in the limit at the relaxation's own optimum."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import (
    DOUBLE,
    EXAMPLES,
    FAMILIES,
    Draft,
    label,
    networks,
    random_box,
    random_network,
    random_objective,
    random_splits,
    random_state,
    samples,
    seeds,
    variables,
)
from oracles import Planet
from scipy.optimize import linprog
from test_dual_oracle import chain, difference, interior
from test_dual_soundness import assert_below, assert_keepers_above, dual_problem
from torch import Tensor

from verify.bounders.ascent import Iterative
from verify.bounders.decoupled import Dvijotham, SupergradientAscent
from verify.bounders.ibp import magnitudes
from verify.bounders.intermediate import IntermediateBounds
from verify.bounders.proximal import Proximal
from verify.bounders.restricted import Restricted
from verify.deadline import Deadline, OutOfTimeError
from verify.lagrangian.dual import DualProblem
from verify.network.activations import Activation, Clip, LeakyRelu, Relu, Sigmoid, Square, Tanh
from verify.network.affine import Affine, Combine
from verify.network.convolution import Convolution
from verify.network.graph import Network
from verify.state import Bounds, DualState, Objective, Splits

CPU = torch.device("cpu")
METHODS: tuple[Iterative, ...] = (
    Restricted(4), Restricted(4, everywhere=True), SupergradientAscent(5), Proximal(3), Dvijotham(5),
)  # fmt: skip


def named(method: object) -> str:
    """A readable test id."""
    return type(method).__name__ + ("-everywhere" if getattr(method, "everywhere", False) else "")


every_method = pytest.mark.parametrize("method", METHODS, ids=named)


def starts(problem: DualProblem, seed: int) -> list[DualState]:
    """A point of every domain: CROWN's, a random one, and that one decoupled (twice) and coupled."""
    state = problem.clamp(random_state(problem.initial(), seed))
    apart = problem.decoupled(state)
    noise = random_state(apart | {"rho": 0 * apart["rho"]}, seed)["rho"]
    shifted = apart | {"rho": apart["rho"] + 0.2 * noise}
    return [
        problem.initial(), state, apart, problem.decoupled(state, posts=True), problem.coupled(state), shifted,
        problem.coupled(shifted),
    ]  # fmt: skip


def slack(bound: Tensor, certified: Tensor | None = None) -> Tensor:
    """How far two evaluations of one point in float64 may differ."""
    allowed = 1e-9 * (1 + bound.abs())
    return allowed if certified is None else allowed + (bound - certified).clamp(min=0)


def check(method: Iterative, problem: DualProblem, start: DualState, keeper: Tensor) -> None:
    """No lower than the start, the same when evaluated again, and below all samples, certified or not."""
    sizes = magnitudes(problem.network, problem.bounds)
    before = problem.evaluate(problem.clamp(start)).bound
    found = method.ascend(problem, start)
    again, certified = problem.evaluate(found.state).bound, problem.evaluate(found.state, sizes).bound
    assert bool((found.bound >= before - slack(before, problem.evaluate(start, sizes).bound)).all())
    assert bool(((again - found.bound).abs() <= slack(again, certified)).all())
    assert bool((certified <= again).all())
    torch.testing.assert_close(
        problem.clamp(found.state)["constraint_weights"], found.state["constraint_weights"]
    )
    assert_below(problem, found.state, certified, problem.network, 1e-12)
    assert_keepers_above(problem, found.state, certified, keeper, 1e-12)


@pytest.mark.parametrize("activation", EXAMPLES, ids=label)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_on_every_family(family: str, activation: Activation) -> None:
    """Each activation beside a ReLU; over the parameters every method meets each, and begins in every domain."""
    seed = EXAMPLES.index(activation) + len(EXAMPLES) * FAMILIES.index(family)
    network = random_network(seed, family, [activation, Relu()])
    problem, keeper = dual_problem(network, random_box(network, 2, seed, 0.4), seed, 3)
    points = starts(problem, seed)
    for index in range(2):
        check(
            METHODS[(seed + 3 * index) % len(METHODS)], problem, points[(seed + index) % len(points)], keeper
        )


@every_method
@settings(max_examples=10)
@given(networks(), seeds, st.integers(0, 4), st.integers(0, 6))
def test_mixtures(method: Iterative, network: Network, seed: int, depth: int, start: int) -> None:
    problem, keeper = dual_problem(network, random_box(network, 2, seed), seed, depth)
    check(method, problem, starts(problem, seed)[start], keeper)


def narrowed(problem: DualProblem, device: torch.device) -> DualProblem:
    """The problem in float32, on a device."""
    single = torch.float32
    return DualProblem(
        problem.network.to(device, single), problem.bounds.to(device, single), problem.objective.to(device, single),
        problem.splits.to(device, single),
    )  # fmt: skip


def check_narrow(
    method: Iterative, problem: DualProblem, keeper: Tensor, device: torch.device, about: float = 2e-3
) -> None:
    """What float32 has found is sound in float64, and about as good."""
    narrow = narrowed(problem, device)
    found = method.ascend(narrow, narrow.initial())
    assert found.bound.dtype == torch.float32
    assert found.bound.device.type == device.type
    state = problem.clamp(found.state.to(CPU, DOUBLE))
    certified = problem.evaluate(state, magnitudes(problem.network, problem.bounds)).bound
    assert_below(problem, state, certified, problem.network, 1e-12)
    assert_keepers_above(problem, state, certified, keeper, 1e-12)
    start = problem.evaluate(problem.initial()).bound
    assert bool((certified >= start - about * (1 + start.abs())).all())
    assert bool(((found.bound.cpu().double() - certified).abs() <= about * (1 + certified.abs())).all())


@every_method
@settings(max_examples=8)
@given(networks(), seeds, st.integers(0, 3))
def test_single_precision(method: Iterative, network: Network, seed: int, depth: int) -> None:
    problem, keeper = dual_problem(network, random_box(network, 2, seed, 0.4), seed, depth)
    check_narrow(method, problem, keeper, CPU)


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
@every_method
def test_on_a_gpu(method: Iterative, family: str) -> None:
    """Both precisions: what is found there is sound and no lower than the start when evaluated on the CPU."""
    device = torch.device("cuda")
    for seed, activation in enumerate(EXAMPLES):
        network = random_network(seed, family, [activation, Relu()])
        problem, keeper = dual_problem(network, random_box(network, 3, seed, 0.4), seed, 3)
        check_narrow(method, problem, keeper, device, 2e-2)  # convolutions may run in TF32
        there = DualProblem(
            network.to(device, DOUBLE), problem.bounds.to(device, DOUBLE), problem.objective.to(device, DOUBLE),
            problem.splits.to(device, DOUBLE),
        )  # fmt: skip
        found = method.ascend(there, there.initial())
        state = found.state.to(CPU, DOUBLE)
        torch.testing.assert_close(problem.evaluate(state).bound, found.bound.cpu(), rtol=1e-7, atol=1e-7)
        assert_below(problem, state, found.bound.cpu(), network, 1e-9)
        start = problem.evaluate(problem.initial()).bound
        assert bool((found.bound.cpu() >= start - 1e-7 * (1 + start.abs())).all())


@every_method
@pytest.mark.parametrize("family", FAMILIES)
def test_objectives_at_inner_nodes(method: Iterative, family: str) -> None:
    """Bounds of pre-activations, where the layers behind them are out of play."""
    network = random_network(7, family, [Sigmoid(), Relu()])
    box = random_box(network, 2, 7)
    bounds = IntermediateBounds().tighten(network, box, Deadline())
    points = samples(box.lower[:, : network.inputs], box.upper[:, : network.inputs], 100)
    for layer in network.layers:
        unit = torch.eye(layer.size, dtype=DOUBLE)[:1].expand(2, -1)
        objective = Objective(
            torch.stack([unit, -unit], 1)[:, :, None], torch.zeros(2, 2, 1, dtype=DOUBLE),
            torch.zeros(2, 2, 1, 0, dtype=DOUBLE),
        )  # fmt: skip
        problem = DualProblem(network, bounds, objective, node=layer.pre_node)
        start, found = problem.evaluate(problem.initial()).bound, method.ascend(problem, problem.initial())
        assert bool((found.bound >= start - slack(start)).all())
        torch.testing.assert_close(problem.evaluate(found.state).bound, found.bound, rtol=1e-9, atol=1e-9)
        for row in range(2):
            z = variables(network, points[row])[:, layer.variables.start]
            assert float(found.bound[row, 0]) <= float(z.min()) + 1e-9
            assert float(found.bound[row, 1]) <= -float(z.max()) + 1e-9


@settings(max_examples=20)
@given(networks(), seeds, st.integers(0, 3))
def test_conversions_lose_nothing(network: Network, seed: int, depth: int) -> None:
    """q is no less decoupled, and from there on the same, with the activations' own multipliers, or coupled again."""
    problem, _ = dual_problem(network, random_box(network, 2, seed), seed, depth)
    sizes = magnitudes(network, problem.bounds)
    for state in (problem.initial(), problem.clamp(random_state(problem.initial(), seed))):
        before, apart = problem.evaluate(state).bound, problem.decoupled(state)
        after, certified = problem.evaluate(apart).bound, problem.evaluate(apart, sizes).bound
        allowed = slack(after, certified) + slack(before, problem.evaluate(state, sizes).bound)
        assert bool((after >= before - allowed).all())
        assert "alpha" not in apart
        assert "post_multipliers" not in apart
        for other in (
            problem.decoupled(state, posts=True), problem.coupled(state), problem.coupled(apart),
            problem.decoupled(problem.coupled(apart)), problem.coupled(problem.decoupled(apart, posts=True)),
        ):  # fmt: skip
            assert bool(((problem.evaluate(other).bound - after).abs() <= allowed).all())


@settings(max_examples=25)
@given(networks(), seeds, st.integers(0, 3))
def test_children_are_no_looser_at_decoupled_points(network: Network, seed: int, depth: int) -> None:
    """Each neuron's minimum is over its box alone, so a smaller box, of any variable, can only raise q."""
    problem, _ = dual_problem(network, random_box(network, 2, seed), seed, depth)
    more, _ = random_splits(network, problem.bounds, 2, seed + 1)
    child = DualProblem(network, more.apply(problem.bounds), problem.objective, problem.splits)
    state = problem.decoupled(problem.clamp(random_state(problem.initial(), seed)))
    before = problem.evaluate(state)
    assert bool((child.evaluate(state).bound >= before.bound - slack(before.bound)).all())


class Watcher:
    """Keeps what a climb tells."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, count: int, bound: Tensor) -> None:
        assert count == len(self.seen)
        self.seen.append(bound.clone())


@every_method
@settings(max_examples=6)
@given(networks(("chain", "residual", "tangle")), seeds)
def test_best_bounds_never_fall(method: Iterative, network: Network, seed: int) -> None:
    """During a climb, and from one to a longer one that begins like it (with steps that do not depend on their number)."""
    problem, _ = dual_problem(network, random_box(network, 2, seed), seed, 2)
    start = problem.evaluate(problem.clamp(problem.initial())).bound
    watcher = Watcher()
    found = method.ascend(problem, problem.initial(), observe=watcher)
    assert len(watcher.seen) == method.iterations + 1
    assert found.iterations == method.iterations
    assert bool((watcher.seen[0] >= start - slack(start)).all())
    assert all(bool((later >= sooner).all()) for sooner, later in pairwise(watcher.seen))
    torch.testing.assert_close(watcher.seen[-1], found.bound, rtol=0, atol=0)
    if isinstance(method, SupergradientAscent):
        method = replace(method, first=0.1, last=0.1)
    if not isinstance(method, Proximal):
        counts = (0, 1, method.iterations)
        bounds = [replace(method, iterations=n).ascend(problem, problem.initial()).bound for n in counts]  # type: ignore[type-var]
        assert all(bool((later >= sooner - slack(sooner)).all()) for sooner, later in pairwise(bounds))


def four_rows(seed: int, family: str = "chain") -> tuple[DualProblem, DualState]:
    """A problem of four boxes with splits and two objectives of two rows each, and a point of it."""
    network = random_network(seed, family, [Relu(), EXAMPLES[seed % len(EXAMPLES)]])
    bounds = IntermediateBounds().tighten(network, random_box(network, 4, seed, 0.4), Deadline())
    splits, _ = random_splits(network, bounds, 3, seed)
    problem = DualProblem(network, splits.apply(bounds), random_objective(network, 4, 2, 2, seed), splits)
    return problem, problem.clamp(random_state(problem.initial(), seed))


@every_method
def test_soft_limits_and_deadlines(method: Iterative) -> None:
    problem, state = four_rows(3)
    start = problem.evaluate(state).bound
    found = method.ascend(problem, state, soft_deadline=Deadline(0.0))
    assert found.iterations == 0
    assert bool((found.bound >= start - slack(start)).all())
    torch.testing.assert_close(found.bound, problem.evaluate(found.state).bound)
    none = replace(method, iterations=0).ascend(problem, state)  # type: ignore[type-var]
    torch.testing.assert_close(none.bound, found.bound, rtol=0, atol=0)
    with pytest.raises(OutOfTimeError):
        method.ascend(problem, state, deadline=Deadline(0.0))


@every_method
def test_targets_stop_early(method: Iterative) -> None:
    problem, state = four_rows(3)
    found = method.ascend(problem, state, target=-1e9)
    assert found.iterations == 0
    torch.testing.assert_close(found.bound, problem.evaluate(found.state).bound)


def assert_same_states(found: DualState, expected: DualState) -> None:
    """But for rounding: sums of a few hundred terms in some tens of layers' operations lose 1e5 times 1e-16 at most."""
    for name, part in expected.items():
        torch.testing.assert_close(found[name], part, rtol=1e-11, atol=1e-11)


def assert_reproduced(problem: DualProblem, state: DualState, bound: Tensor) -> Tensor:
    """Evaluated again, the state has the bound, but for rounding; what is certified there."""
    again = problem.evaluate(state).bound
    certified = problem.evaluate(state, magnitudes(problem.network, problem.bounds)).bound
    assert bool(((again - bound).abs() <= slack(again, certified)).all())
    return certified


@every_method
@pytest.mark.parametrize("seed", [0, 3, 4])
def test_rows_step_as_if_alone(method: Iterative, seed: int) -> None:
    """A subproblem's q and its next step do not depend on its neighbours, nor on its place among them.

    Whole climbs may part: sums of other batches round differently, and where q has a kink a step follows the rounding. So
    the climbs are brought together again at each step.
    """
    problem, state = four_rows(seed, FAMILIES[seed])
    optimiser = method.start(problem, state)
    for count in range(1, method.iterations + 1):
        bound = optimiser.evaluate()
        parts = [(rows, optimiser.select(rows)) for rows in (torch.tensor([1]), torch.tensor([3, 0, 2]))]
        optimiser.step(count)
        for rows, part in parts:
            assert_reproduced(part.problem, part.state, bound[rows])
            part.step(count)
            assert_same_states(part.state, optimiser.state.select(rows))


@pytest.mark.parametrize("seed", [0, 3, 4])
def test_supergradients_do_not_depend_on_neighbours(seed: int) -> None:
    """At points without kinks, as random ones are; in both domains."""
    problem, state = four_rows(seed, FAMILIES[seed])
    for at in (state, problem.decoupled(state)):
        together = problem.supergradient(at, problem.evaluate(at))
        for rows in (torch.tensor([1]), torch.tensor([3, 0, 2])):
            part, here = problem.select(rows), at.select(rows)
            alone = part.supergradient(here, part.evaluate(here))
            assert_same_states(alone.state, together.state.select(rows))
            assert_reproduced(part, here, together.bound[rows])


@every_method
@pytest.mark.parametrize("seed", [0, 3, 4])
def test_climbs_of_a_batch_hold_for_each_row(method: Iterative, seed: int) -> None:
    """Each row's best point gives its bound when evaluated alone, no lower than its start, below all samples."""
    problem, state = four_rows(seed, FAMILIES[seed])
    before, together = problem.evaluate(state).bound, method.ascend(problem, state)
    for row in range(4):
        part, at = problem.select(torch.tensor([row])), together.state.select(torch.tensor([row]))
        certified = assert_reproduced(part, at, together.bound[row : row + 1])
        assert bool((together.bound[row] >= before[row] - slack(before[row])).all())
        assert_below(part, at, certified, problem.network, 1e-12)


@every_method
@pytest.mark.parametrize("seed", [0, 3, 4])
def test_rows_that_reach_the_target_are_dropped(method: Iterative, seed: int) -> None:
    """The rest climb on. Until then all climb as without a target, bit by bit on one machine: these are the same sums of the same shapes."""
    problem, state = four_rows(seed, FAMILIES[seed])
    watcher = Watcher()
    method.ascend(problem, state, observe=watcher)
    for bounds in watcher.seen:
        goal = float(bounds.amin(1).sort().values[-2]) - 1e-6
        first = next(seen for seen in watcher.seen if int((seen.amin(1) > goal).sum()) >= 2)
        reached = first.amin(1) > goal
        dropped = method.ascend(problem, state, target=goal)
        torch.testing.assert_close(dropped.bound[reached], first[reached], rtol=0, atol=0)
        assert bool((dropped.bound[~reached] >= first[~reached]).all())
        certified = assert_reproduced(problem, dropped.state, dropped.bound)
        assert_below(problem, dropped.state, certified, problem.network, 1e-12)


@pytest.mark.parametrize("activation", EXAMPLES, ids=label)
@pytest.mark.parametrize("family", FAMILIES)
def test_multipliers_against_differences(family: str, activation: Activation) -> None:
    """dq along random directions in multipliers, those of activations, slopes and constraint weights; most must agree."""
    seed, agreeing, total = EXAMPLES.index(activation), 0, 0
    network = random_network(seed, family, [activation, Relu()])
    bounds = IntermediateBounds().tighten(network, random_box(network, 4, seed, 0.4), Deadline())
    splits, _ = random_splits(network, bounds, 2, seed)
    problem = DualProblem(network, splits.apply(bounds), random_objective(network, 4, 2, 3, seed), splits)
    state = interior(problem, random_state(problem.initial(), seed), seed)
    for point in (problem.decoupled(state), problem.decoupled(state, posts=True), problem.coupled(state)):
        nothing = point.map(torch.zeros_like)
        noise, direction = random_state(nothing, seed + 3), random_state(nothing, seed + 9)
        weights = direction["constraint_weights"] - direction["constraint_weights"].mean(2, keepdim=True)
        direction = direction | {"constraint_weights": 0.1 * weights}
        point = problem.clamp(
            point
            | {name: point[name] + 0.1 * noise[name] for name in ("rho", "post_multipliers") if name in point}
        )
        found, expected = difference(problem, point, direction, 1e-7)
        scale = 1e-7 * (1 + problem.evaluate(point).bound.abs())
        agreeing += int(((found - expected).abs() <= 1e-4 * (found.abs() + scale)).sum())
        total += found.numel()
    assert agreeing >= 0.9 * total, (agreeing, total)


def image(seed: int, wide: bool) -> Network:
    """A convolution or two and a dense layer: 164 or 236 ReLUs."""
    draft = Draft(torch.Generator().manual_seed(seed), (1, 2, 6, 6))
    value = 0
    for channels, stride in ((4, (1, 1)), (8, (2, 2)))[: 1 + wide]:
        shape = draft.nodes[value].shape
        weight = 1.4 * draft.normal(channels, shape[1], 3, 3) / (9 * shape[1]) ** 0.5
        bias = 0.3 * draft.normal(channels)
        operator = Convolution(weight, bias, stride, (1, 1), (1, 1), 1, shape)
        out = operator.forward(torch.zeros(1, *shape, dtype=DOUBLE)).shape[1:]
        value = draft.activation(draft.add(operator, (value,), tuple(out)), Relu())
    draft.dense(draft.activation(draft.dense(draft.flat(value), 20), Relu()), 3)
    return draft.network()


def residual(seed: int, size: int, blocks: int) -> Network:
    """Blocks `x + W relu(V x)`, a last ReLU."""
    draft = Draft(torch.Generator().manual_seed(seed), (6,))
    value = draft.dense(0, size)
    for _ in range(blocks):
        branch = draft.dense(draft.activation(draft.dense(value, size), Relu()), size)
        value = draft.add(Combine((1, 1)), (value, branch), (size,))
    draft.dense(draft.activation(value, Relu()), 3)
    return draft.network()


def sign_splits(network: Network, bounds: Bounds, depth: int, seed: int) -> Splits:
    """Random unstable neurons split at 0, on the sides that one point of each box keeps."""
    generator = torch.Generator().manual_seed(seed)
    batch, inputs = len(bounds), network.inputs
    share = torch.rand(batch, inputs, generator=generator, dtype=DOUBLE)
    point = bounds.lower[:, :inputs] + share * (bounds.upper - bounds.lower)[:, :inputs]
    unstable = (bounds.lower < 0) & (bounds.upper > 0)
    unstable[:, :inputs] = False
    chosen = torch.where(unstable, torch.rand(unstable.shape, generator=generator, dtype=DOUBLE), -1.0)
    top = chosen.topk(depth, 1)
    side = torch.where(variables(network, point).gather(1, top.indices) >= 0, 1, -1)
    return Splits(torch.where(top.values > 0, top.indices, -1), torch.zeros(batch, depth, dtype=DOUBLE), side)


@dataclass(frozen=True)
class Case:
    """Two boxes of a network, each with splits and two objectives."""

    family: str
    seed: int
    rows: int
    radius: float

    @property
    def network(self) -> Network:
        wide = self.family.startswith("wide ")
        if self.family.endswith("image"):
            return image(self.seed, wide)
        if self.family.endswith("residual"):
            return residual(self.seed, 60, 3) if wide else residual(self.seed, 20, 2)
        return chain(self.seed, (8, 80, 80, 80, 4) if wide else (5, 40, 40, 3))

    @property
    def problem(self) -> DualProblem:
        network = self.network
        bounds = IntermediateBounds().tighten(
            network, random_box(network, 2, self.seed, self.radius), Deadline()
        )
        splits = sign_splits(network, bounds, 6, self.seed)
        objective = random_objective(network, 2, 2, self.rows, self.seed)
        return DualProblem(network, splits.apply(bounds), objective, splits)


def assert_reaches(method: Iterative, problem: DualProblem, optima: Tensor, above: float = 1e-6) -> None:
    """Within 1e-3 of the optima, relative to them or to what there was to gain, and never above."""
    finite = optima.isfinite()
    assert bool(finite.any())
    start = problem.evaluate(problem.initial()).bound
    found = method.ascend(problem, problem.initial())
    scale = torch.maximum(optima.abs(), optima - start)
    again = problem.evaluate(found.state).bound
    assert bool(((found.bound - optima)[finite] <= above * scale[finite]).all())
    assert bool(((again - optima)[finite] <= above * scale[finite]).all())
    gaps = ((optima - found.bound) / scale)[finite]
    assert bool((gaps <= 1e-3).all()), gaps


def planets(problem: DualProblem) -> Tensor:
    """The linear program's optimum for each box and objective."""
    values = [
        [
            Planet(problem.network, problem.bounds, row).minimise(problem.objective, row, which)
            for which in range(problem.objectives)
        ]
        for row in range(problem.batch)
    ]
    return torch.tensor(values, dtype=DOUBLE)


EVERYWHERE = Restricted(800, step=1.0, decay=0.99, everywhere=True)
ASCENT = SupergradientAscent(1500, first=1.0, last=1e-5)
PROXIMAL = Proximal(300, last=0.002)
SMALL = (Case("chain", 4, 2, 0.5), Case("residual", 1, 1, 0.5), Case("image", 0, 2, 0.5))
LIMITS = (
    (EVERYWHERE, Case("wide chain", 3, 2, 0.3)), (EVERYWHERE, Case("wide image", 1, 2, 0.3)),
    (replace(EVERYWHERE, iterations=500, decay=0.985), Case("wide residual", 0, 1, 0.3)),
    (ASCENT, SMALL[0]), (ASCENT, SMALL[1]), (replace(ASCENT, iterations=1000), SMALL[2]),
    *((PROXIMAL, case) for case in SMALL),
)  # fmt: skip


@pytest.mark.parametrize(
    ("method", "case"), LIMITS, ids=lambda part: named(part) if isinstance(part, Iterative) else f"{part.family}-{part.rows}"
)  # fmt: skip
def test_reaches_the_linear_program(method: Iterative, case: Case) -> None:
    """Random ReLU networks of 66 to 308 variables with six splits, in one row and in two."""
    problem = case.problem
    assert_reaches(method, problem, planets(problem))


def hull_optimum(
    network: Network, bounds: Bounds, objective: Objective, row: int, which: int, count: int = 200
) -> float:
    """min of max_j (C_j y - d_j) over convex hulls of elementwise activations, each by `count` lines on either side.

    The lines' intercepts come from a fine grid on the activation's graph. For networks of flat values, without inputs in the rows.
    """
    lower, upper = bounds.lower[row].numpy(), bounds.upper[row].numpy()
    total = network.variables + network.posts + 1
    eye = np.eye(total)
    forms = [(eye[: network.inputs], np.zeros(network.inputs))]
    equal, at, below, most = [], [], [], []
    for index, node in enumerate(network.nodes[1:], start=1):
        matrix, constant = forms[node.operands[0]]
        if isinstance(node.operator, Affine):
            inputs = torch.from_numpy(np.concatenate([matrix.T, constant[None], 0 * constant[None]]))
            found = node.operator.forward(inputs).numpy()
            forms.append(((found[:total] - found[-1]).T, found[-2]))
            continue
        layer = network.layer_of_node[index]
        assert isinstance(node.operator, Activation)
        z = eye[layer.variables]
        y = eye[network.variables + layer.posts.start : network.variables + layer.posts.stop]
        equal.append(matrix - z)
        at.append(-constant)
        forms.append((y, np.zeros(len(y))))
        for i, (low, high) in enumerate(zip(lower[layer.variables], upper[layer.variables], strict=True)):
            grid = np.linspace(low, max(high, low + 1e-9), 4001)
            graph = node.operator.forward(torch.from_numpy(grid)).numpy()
            tangents = np.diff(graph) / np.diff(grid)
            chords = [
                (graph[1:] - graph[0]) / (grid[1:] - grid[0]),
                (graph[-1] - graph[:-1]) / (grid[-1] - grid[:-1]),
            ]
            ends = [end(slopes) for slopes in chords for end in (np.min, np.max)]
            slopes = np.array([*np.linspace(tangents.min(), tangents.max(), count), *ends])
            above = graph - slopes[:, None] * grid
            below += [slope * z[i] - y[i] for slope in slopes] + [y[i] - slope * z[i] for slope in slopes]
            most += [*-above.min(1), *above.max(1)]
    matrix, constant = forms[-1]
    coefficients = objective.coefficients[row, which].numpy()
    below += list(coefficients @ matrix - eye[-1])
    most += list(objective.thresholds[row, which].numpy() - coefficients @ constant)
    ranges = [*zip(lower, upper, strict=True), *((None, None) for _ in range(network.posts + 1))]
    solved = linprog(
        eye[-1], A_ub=np.array(below), b_ub=np.array(most), A_eq=np.concatenate(equal), b_eq=np.concatenate(at),
        bounds=ranges, method="highs",
    )  # fmt: skip
    assert solved.status == 0, solved.message
    return float(solved.fun)


HULLS = (
    (Sigmoid(), 2, (EVERYWHERE,)),
    (Tanh(), 2, (replace(ASCENT, iterations=700), replace(PROXIMAL, iterations=200))),
    (Square(), 1, (replace(EVERYWHERE, iterations=400, decay=0.98),)),
    (Clip(-0.5, 0.8), 2, (replace(ASCENT, iterations=700),)),
    (LeakyRelu(-0.4), 2, (replace(PROXIMAL, iterations=200),)),
)


@pytest.mark.parametrize(("activation", "rows", "methods"), HULLS, ids=[label(hull[0]) for hull in HULLS])
def test_reaches_the_optimum_over_convex_hulls(
    activation: Activation, rows: int, methods: tuple[Iterative, ...]
) -> None:
    """Small networks against finely discretised linear programs, which are lower by a share of 1e-4 at most."""
    draft = Draft(torch.Generator().manual_seed(1), (3,))
    value = draft.activation(draft.dense(0, 4), activation)
    draft.dense(draft.activation(draft.dense(value, 4), activation), 2)
    network = draft.network()
    bounds = IntermediateBounds().tighten(network, random_box(network, 1, 1, 1.0), Deadline())
    splits, _ = random_splits(network, bounds, 2, 1)
    problem = DualProblem(network, splits.apply(bounds), random_objective(network, 1, 2, rows, 2), splits)
    optima = [hull_optimum(network, problem.bounds, problem.objective, 0, which) for which in range(2)]
    for method in methods:
        assert_reaches(method, problem, torch.tensor([optima], dtype=DOUBLE), above=1e-4)
