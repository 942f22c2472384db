"""Verdicts against exact minima, and a planted counterexample that no step of a search may ever lose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from nets import (
    DOUBLE,
    EXAMPLES,
    FAMILIES,
    label,
    loaded,
    property_text,
    random_box,
    random_layers,
    random_network,
    relu_model,
    row_text,
    samples,
    variables,
)
from oracles import exact_minimum
from patience import PATIENCE
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import verify.bab.frontier as frontier_module
from verify.attack import Attack
from verify.bab.activations import SplitActivations
from verify.bab.executor import Mapper
from verify.bab.frontier import Frontier
from verify.bab.inputs import SplitInputs
from verify.bab.loop import BranchAndBound
from verify.bab.progress import Outcome, Silent
from verify.bab.root_bounds import RootBounds
from verify.bab.steps import Done, Steps
from verify.bab.strategy import Bounded, Knowledge, Objectives, Result, Strategy
from verify.branching.rule import Split
from verify.deadline import Deadline, OutOfTimeError
from verify.errors import ResourceError
from verify.formats.vnnlib import parse
from verify.lagrangian.dual import storage
from verify.network.activations import Activation, Relu
from verify.network.graph import Network
from verify.problem import Problem, Witness, prepare
from verify.settings import Settings, build_search, preset
from verify.state import Subproblems

MARGIN = 1e-3
CPU = torch.device("cpu")
BOTH = {"inputs": 10**6, "activations": 0}
NO_ATTACK = Attack(restarts=1, steps=0, seconds=0.0)
both_strategies = pytest.mark.parametrize("splits", BOTH)


def search_for(problem: Problem, splits: str, settings: Settings | None = None) -> BranchAndBound:
    """A search that splits what it is told to."""
    settings = replace(settings or preset("default"), splittable_inputs=BOTH[splits], triable_inputs=0)
    search = build_search(problem, settings, CPU, 0, Silent())
    assert isinstance(search.strategy, SplitInputs if splits == "inputs" else SplitActivations)
    return search


def bounded_roots(strategy: Strategy, batch: int = 100) -> tuple[list[Bounded], Knowledge]:
    """The roots as they come, and what is known then."""
    knowledge, bounded = strategy.begin(), []
    for result in strategy.roots(knowledge, batch, Deadline()):
        knowledge = knowledge.learned(*result.seen)
        bounded.append(result.bounded)
    return bounded, knowledge


@dataclass(frozen=True)
class Case:
    """A random ReLU model, a box, and a conjunction of rows."""

    seed: int
    rows: int

    def parts(self) -> tuple[object, list[float], list[float], np.ndarray, np.ndarray]:
        """Model, box, coefficients, thresholds."""
        random = np.random.default_rng(self.seed)
        sizes = [1 + self.seed % 3, *(int(random.integers(2, 8)) for _ in range(1 + self.seed % 2)), 3]
        centre = np.round(random.standard_normal(sizes[0]) * 2, 2)
        radius = np.round(0.2 + random.random(sizes[0]), 2)
        coefficients = np.round(random.standard_normal((self.rows, 3)), 2)
        thresholds = np.round(random.standard_normal(self.rows) * 0.3, 2)
        model = relu_model(random_layers(self.seed, sizes))
        return model, [*(centre - radius)], [*(centre + radius)], coefficients, thresholds


def conjunction(coefficients: np.ndarray, thresholds: np.ndarray) -> str:
    """All rows at once."""
    return "(and " + " ".join(row_text(c, d) for c, d in zip(coefficients, thresholds, strict=True)) + ")"


@both_strategies
@pytest.mark.parametrize(
    "case", [Case(seed, 1 + (seed % 5 == 0) + (seed % 7 == 0)) for seed in range(20)], ids=str
)
def test_verdicts_on_both_sides_of_the_optimum(case: Case, splits: str) -> None:
    """Just below the exact optimum the clause is refuted, just above it has a witness, which is a real one.

    Conjunctions with activations split may take long (their leaves are left to the ascent): there a timeout passes.
    """
    slow = case.rows > 1 and splits == "activations"
    model, lower, upper, coefficients, thresholds = case.parts()
    optimum = exact_minimum(model, lower, upper, coefficients, thresholds)  # type: ignore[arg-type]
    for shift, expected in ((-MARGIN, "unsat"), (MARGIN, "sat")):
        text = property_text(lower, upper, 3, conjunction(coefficients, thresholds + optimum + shift))
        problem = prepare(model, text)  # type: ignore[arg-type]
        outcome = search_for(problem, splits).run(Deadline.after(5 if slow else PATIENCE))
        assert outcome.verdict in ({expected, "timeout"} if slow else {expected}), (
            outcome.reason,
            optimum,
            shift,
        )
        if outcome.witness is not None:
            x = outcome.witness.inputs.ravel()
            again = problem.model.evaluate(x)
            assert problem.specification.violated(x, again)
            assert np.array_equal(again.ravel(), outcome.witness.outputs.ravel())


@both_strategies
@pytest.mark.parametrize("on_disk", [False, True])
def test_searches_without_attacks_agree(splits: str, on_disk: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search alone decides too: nothing is unsat because an attack failed, or because subproblems wait on disk, best bound first."""
    sizes: list[int] = []
    spill = frontier_module._on_disk
    monkeypatch.setattr(frontier_module, "_on_disk", lambda size: (sizes.append(size), spill(size))[1])
    settings = replace(preset("default"), first_attack=NO_ATTACK, second_attack=NO_ATTACK)
    for seed in range(20, 23):
        model, lower, upper, coefficients, thresholds = Case(seed, 1).parts()
        optimum = exact_minimum(model, lower, upper, coefficients, thresholds)  # type: ignore[arg-type]
        for shift, expected in ((-MARGIN, "unsat"), (MARGIN, "sat")):
            text = property_text(lower, upper, 3, conjunction(coefficients, thresholds + optimum + shift))
            search = search_for(prepare(model, text), splits, settings)  # type: ignore[arg-type]
            if on_disk:
                search.frontier, search.batch = Frontier(1, storage(search.network)), 1
            outcome = search.run(Deadline.after(PATIENCE))
            assert outcome.verdict == expected, (seed, shift, outcome.reason)
    assert bool(sizes) == on_disk


@both_strategies
@pytest.mark.parametrize("seed", range(6))
def test_disjunctions_are_as_bad_as_their_worst_clause(seed: int, splits: str) -> None:
    """Five clauses, one of them just violated or just not; over one box and over several."""
    model, lower, upper, _, _ = Case(seed, 1).parts()
    random = np.random.default_rng(seed)
    rows = np.round(random.standard_normal((5, 3)), 2)
    optima = [exact_minimum(model, lower, upper, row[None], np.zeros(1)) for row in rows]  # type: ignore[arg-type]
    worst = int(random.integers(5))
    for shift, expected in ((-MARGIN, "unsat"), (MARGIN, "sat")):
        limits = [optimum - 0.05 * (1 + i) for i, optimum in enumerate(optima)]
        limits[worst] = optima[worst] + shift
        clauses = [f"(and {row_text(row, limit)})" for row, limit in zip(rows, limits, strict=True)]
        text = property_text(lower, upper, 3, f"(or {' '.join(clauses)})")
        outcome = search_for(prepare(model, text), splits).run(Deadline.after(PATIENCE))  # type: ignore[arg-type]
        assert outcome.verdict == expected, (worst, outcome.reason)


class Blind(Problem):
    """A problem whose witnesses are never recognised, so that a search must go on around them."""

    def replay(self, clause: int, x: Tensor) -> Witness | None:
        """Nothing."""
        return None


@dataclass
class Watched:
    """A strategy under observation: no subproblem that holds the planted input may be refuted, and one such always waits."""

    strategy: Strategy
    x: Tensor
    steps: int
    seen: int = 0
    alive: int = 0

    @property
    def objectives(self) -> Objectives:
        """As the strategy does."""
        return self.strategy.objectives

    def begin(self) -> Knowledge:
        """As the strategy does."""
        return self.strategy.begin()

    def _holds(self, subproblems: Subproblems, knowledge: Knowledge) -> Tensor:
        """Which subproblems contain the planted input; in their network, smaller, perhaps, than the problem's."""
        shared = knowledge.shared
        network = shared.network if isinstance(shared, RootBounds) else self.strategy.bounder.network  # type: ignore[attr-defined]
        values = variables(network, self.x[None])[0]
        index = subproblems.split_variable.clamp(min=0)
        keeps = (values[index] - subproblems.split_value) * subproblems.split_side >= 0
        return (keeps | (subproblems.split_variable < 0)).all(1)

    def _checked(self, result: Result, knowledge: Knowledge) -> Result:
        bounded = result.bounded
        holds = self._holds(bounded.subproblems, knowledge.learned(*result.seen))
        assert not bool((holds & bounded.refuted).any()), "a subproblem with the counterexample was refuted"
        assert not bool((holds & (bounded.subproblems.lower_bound > 0)).any()), "its bound is above 0"
        self.alive += int(holds.sum())
        if len(bounded):
            assert self.alive >= 1, "no subproblem with the counterexample is left"
        return result

    def clauses_of(self, clauses: Tensor, knowledge: Knowledge) -> list[int]:
        """As the strategy does."""
        return self.strategy.clauses_of(clauses, knowledge)

    def roots(self, knowledge: Knowledge, batch: int, deadline: Deadline) -> Iterator[Result]:
        """As the strategy does."""
        for result in self.strategy.roots(knowledge, batch, deadline):
            knowledge = knowledge.learned(*result.seen)
            yield self._checked(result, knowledge)

    def bound(self, subproblems: Subproblems, knowledge: Knowledge, deadline: Deadline) -> Result:
        """As the strategy does, a limited number of times."""
        self.seen += 1
        if self.seen > self.steps:
            raise OutOfTimeError
        return self._checked(self.strategy.bound(subproblems, knowledge, deadline), knowledge)

    def at_once(self, knowledge: Knowledge) -> int | None:
        """As the strategy says."""
        return self.strategy.at_once(knowledge)

    def choose(self, subproblems: Subproblems, knowledge: Knowledge, deadline: Deadline) -> Split:
        """As the strategy does; the chosen subproblems leave the frontier, their children come back."""
        split = self.strategy.choose(subproblems, knowledge, deadline)
        self.alive -= int((self._holds(subproblems, knowledge) & (split.variable >= 0)).sum())
        return split

    def due(self, seconds: float, knowledge: Knowledge, deadline: Deadline) -> bool:
        """As the strategy does."""
        return self.strategy.due(seconds, knowledge, deadline)

    def refine_roots(
        self, waiting: Subproblems, knowledge: Knowledge, batch: int, deadline: Deadline, run: Mapper
    ) -> tuple[Subproblems, list[Result]]:
        """As the strategy does; subproblems that do not go on waiting leave the frontier."""
        before = int(self._holds(waiting, knowledge).sum())
        kept, roots = self.strategy.refine_roots(waiting, knowledge, batch, deadline, run)
        after = knowledge.learned(*(seen for result in roots for seen in result.seen))
        self.alive -= before - int(self._holds(kept, after).sum())
        for result in roots:
            knowledge = knowledge.learned(*result.seen)
            self._checked(result, knowledge)
        assert self.alive >= 1, "no subproblem with the counterexample is left"
        return kept, roots


def planted(network: Network, seed: int, slack: float) -> tuple[Problem, Tensor]:
    """A problem over a random box that the best of many samples violates by just `slack`."""
    box = random_box(network, 1, seed, 0.6)
    lower, upper = box.lower[:, : network.inputs], box.upper[:, : network.inputs]
    x = samples(lower, upper, 3000, seed)[0]
    row = torch.randn(network.outputs, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).round(
        decimals=2
    )
    value, best = (network.forward(x) @ row).min(0)
    text = property_text(
        lower[0].tolist(),
        upper[0].tolist(),
        network.outputs,
        row_text(row.tolist(), round(float(value) + slack, 7)),
    )
    return Blind(loaded(network), parse(text)), x[best]


def watched(problem: Problem, network: Network, x: Tensor, splits: str, steps: int = 8) -> Outcome:
    """The outcome of a search under observation."""
    settings = replace(preset("default"), first_attack=NO_ATTACK, second_attack=NO_ATTACK)
    search = search_for(problem, splits, settings)
    search.strategy = Watched(search.strategy, x, steps)
    search.batch, search.workers = 16, 1
    return search.run(Deadline.after(PATIENCE))


@both_strategies
@pytest.mark.parametrize("activation", EXAMPLES, ids=label)
def test_planted_counterexample_survives(activation: Activation, splits: str) -> None:
    """Networks with every activation, of every family or, where that takes long, of one in its turn.

    The margin of the planted input is tiny, so all else is nearly refuted.
    """
    families = list(enumerate(("chain", "tangle", "residual")))
    turn = EXAMPLES.index(activation) % len(families)
    for seed, family in families if splits == "inputs" else families[turn : turn + 1]:
        network = random_network(seed, family, [activation, Relu()])
        problem, x = planted(network, seed, 1e-5)
        outcome = watched(problem, network, x, splits)
        assert outcome.verdict in ("timeout", "unknown"), outcome.reason


@both_strategies
@pytest.mark.parametrize("family", FAMILIES)
def test_planted_counterexample_survives_in_relu_networks(family: str, splits: str) -> None:
    for seed in (5, 6) if splits == "inputs" else (5,):
        network = random_network(seed, family, [Relu(), Relu(), Relu()])
        problem, x = planted(network, seed, 1e-6)
        outcome = watched(problem, network, x, splits, 15)
        assert outcome.verdict in ("timeout", "unknown"), outcome.reason


@both_strategies
@pytest.mark.parametrize("activation", EXAMPLES, ids=label)
def test_clear_properties_of_every_activation(activation: Activation, splits: str) -> None:
    """Well below all samples the answer is unsat, well above the least it is sat."""
    for seed in range(2):
        network = random_network(seed, "chain", [activation])
        for slack, expected in ((-0.5, "unsat"), (0.05, "sat")):
            blind, _ = planted(network, seed, slack)
            problem = Problem(blind.model, blind.specification)
            outcome = search_for(problem, splits).run(Deadline.after(PATIENCE))
            assert outcome.verdict == expected, (seed, slack, outcome.reason)


@both_strategies
def test_children_are_no_looser_than_their_parents(splits: str) -> None:
    """As far as a subproblem that stays open tells: its bound is at least what it inherited, up to 0."""
    network = random_network(4, "chain", [Relu(), Relu(), Relu()])
    problem, _ = planted(network, 4, 0.02)
    strategy = search_for(problem, splits).strategy
    bounded, knowledge = bounded_roots(strategy, 1)
    level = bounded[-1].subproblems
    for _ in range(5):
        split = strategy.choose(level, knowledge, Deadline())
        splittable = split.variable >= 0
        above = split.value if split.above is None else split.above
        ends = split.value[splittable], above[splittable]
        parents = level.select(splittable).split(split.variable[splittable], ends, split.beta[splittable])
        found = strategy.bound(parents, knowledge, Deadline()).bounded
        if splits == "activations":
            assert bool((found.subproblems.lower_bound >= parents.lower_bound.clamp(max=0) - 1e-6).all())
        else:
            assert float(found.subproblems.lower_bound.min()) >= float(parents.lower_bound.min()) - 1e-6
        level = found.subproblems.select(~found.refuted)
        if not len(level):
            return


def test_time_runs_out_politely() -> None:
    """A deadline in the past ends in `timeout`, never in a verdict."""
    network = random_network(6, "chain", [Relu(), Relu()])
    problem, _ = planted(network, 6, -1e-4)
    for splits in BOTH:
        assert search_for(problem, splits).run(Deadline.after(-1)).verdict == "timeout"


@both_strategies
def test_undefined_values_are_never_a_proof(splits: str) -> None:
    """1/z across 0: bounds are infinite or undefined on the way, and nothing may be concluded from them."""
    from verify.network.activations import Reciprocal
    from verify.network.affine import Dense
    from verify.network.graph import Node

    eye = torch.ones(1, 1, dtype=DOUBLE)
    nodes = [Node(None, (), (1,)), Node(Dense(eye), (0,), (1,)), Node(Reciprocal(), (1,), (1,))]
    nodes += [Node(Dense(eye, -eye[0]), (2,), (1,)), Node(Relu(), (3,), (1,)), Node(Dense(eye), (4,), (1,))]
    network = Network(tuple(nodes))
    problem = Problem(loaded(network), parse(property_text([-1.0], [1.0], 1, "(>= Y_0 1000.0)")))
    settings = replace(preset("default"), first_attack=NO_ATTACK, second_attack=NO_ATTACK)
    outcome = search_for(problem, splits, settings).run(Deadline.after(3))
    assert outcome.verdict != "unsat"


@both_strategies
def test_float32_proposals_are_not_proofs(splits: str) -> None:
    """Nearly linear problems violated by 1e-10 alone: float32 bounds fall on either side of 0, refutations may not."""
    for seed in range(6):
        network = random_network(seed, "chain", [Relu(), Relu()])
        box = random_box(network, 1, seed, 1e-3)
        lower, upper = box.lower[:, : network.inputs], box.upper[:, : network.inputs]
        x = samples(lower, upper, 500, seed)[0]
        row = torch.zeros(network.outputs, dtype=DOUBLE)
        row[0] = 1.0 if seed % 2 else -1.0
        value, best = (network.forward(x) @ row).min(0)
        unsafe = row_text(row.tolist(), round(float(value) + 1e-10, 12))
        text = property_text(lower[0].tolist(), upper[0].tolist(), network.outputs, unsafe)
        outcome = watched(Blind(loaded(network), parse(text)), network, x[best], splits, 6)
        assert outcome.verdict in ("timeout", "unknown"), (seed, outcome.reason)


@both_strategies
@pytest.mark.parametrize("power", [25, 30, 60])
def test_absorption_fools_neither_strategy(power: int, splits: str) -> None:
    """relu(relu(x + 2^p) - 2^p) - 1.5 reaches -0.5 at x = 1 over the reals, and is -1.5 in float32."""
    one, huge = np.ones((1, 1), np.float32), np.float32(2.0**power)
    layers = [(one, np.array([huge])), (one, np.array([-huge])), (one, np.array([-1.5], np.float32))]
    problem = prepare(relu_model(layers), property_text([0.1], [1.0], 1, "(>= Y_0 -1.0)"))
    outcome = search_for(problem, splits).run(Deadline.after(1.5))
    assert outcome.verdict != "unsat", outcome.reason


@both_strategies
def test_batches_are_halved_where_memory_ends(splits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that holds three subproblems at a time decides all the same; one that holds none says so."""
    model, lower, upper, coefficients, thresholds = Case(37, 1).parts()
    optimum = exact_minimum(model, lower, upper, coefficients, thresholds)  # type: ignore[arg-type]
    text = property_text(lower, upper, 3, conjunction(coefficients, thresholds + optimum - 1e-4))
    settings = replace(
        preset("default"), first_attack=NO_ATTACK, second_attack=NO_ATTACK, output_constrained=()
    )
    for room in (3, 0):
        search = search_for(prepare(model, text), splits, settings)  # type: ignore[arg-type]
        whole = search.strategy.choose

        def choose(subproblems: Subproblems, *rest: Any, room: int = room, whole: Any = whole) -> Split:
            if len(subproblems) > room:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return whole(subproblems, *rest)  # type: ignore[no-any-return]

        object.__setattr__(search.strategy, "choose", choose)
        if not room:
            with pytest.raises(ResourceError, match="memory ran out while searching"):
                search.run(Deadline.after(PATIENCE))
            continue
        outcome = search.run(Deadline.after(PATIENCE))
        assert outcome.verdict == "unsat", outcome.reason


class Failing(TorchDispatchMode):
    """Torch in this thread, one operation of which finds no memory: the one of this number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.left = number

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return function(*args, **(kwargs or {}))


@both_strategies
@pytest.mark.parametrize(("shift", "right"), [(-0.1, "unsat"), (0.1, "sat")])
def test_wherever_memory_ends_in_a_step_nothing_is_lost(
    splits: str, shift: float, right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever operation of a step fails, both halves of its subproblems are bounded in its place."""
    model, lower, upper, coefficients, thresholds = Case(37, 1).parts()
    optimum = exact_minimum(model, lower, upper, coefficients, thresholds)  # type: ignore[arg-type]
    if splits == "inputs":
        shift /= 100
    text = property_text(lower, upper, 3, conjunction(coefficients, thresholds + optimum + shift))
    working = preset("fast")
    settings = replace(
        working,
        first_attack=NO_ATTACK,
        second_attack=NO_ATTACK,
        output_constrained=(),
        branched=None,
        optimised=working.intermediate,
    )
    whole, halved = Steps._expand, 0
    for number in (1, 10, 30, 200) if splits == "inputs" else (30,):
        failures = [number]

        def expand(steps: Steps, subproblems: Subproblems, *rest: Any, left: list[int] = failures) -> Any:
            if len(subproblems) == 1 or not left:
                return whole(steps, subproblems, *rest)
            with Failing(left.pop()):
                return whole(steps, subproblems, *rest)

        monkeypatch.setattr(Steps, "_expand", expand)
        outcome = search_for(prepare(model, text), splits, settings).run(Deadline.after(PATIENCE))  # type: ignore[arg-type]
        assert outcome.verdict == right, (number, outcome.reason)
        halved += not failures
    assert halved or right == "sat"


def test_leaves_are_solved_exactly() -> None:
    """Close to the optimum the dual ascents stall on subproblems with nothing left to split; linear programs finish them."""
    model, lower, upper, coefficients, thresholds = Case(37, 1).parts()
    optimum = exact_minimum(model, lower, upper, coefficients, thresholds)  # type: ignore[arg-type]
    text = property_text(lower, upper, 3, conjunction(coefficients, thresholds + optimum - 1e-4))
    settings = replace(
        preset("default"), first_attack=NO_ATTACK, second_attack=NO_ATTACK, output_constrained=()
    )
    outcome = search_for(prepare(model, text), "activations", settings).run(Deadline.after(PATIENCE))  # type: ignore[arg-type]
    assert outcome.verdict == "unsat", outcome.reason
    assert outcome.progress.opened < 2000


class Together:
    """All jobs end at the same moment, and those without a witness in an error."""

    workers = 2

    def __init__(self, error: Exception) -> None:
        self.error, self.found, self.failed = error, 0, 0

    @contextmanager
    def __call__(self, workers: int, deadline: Deadline, writing: bool) -> Iterator[Together]:
        yield self

    def submit(self, job: Callable[[], Done]) -> Future[Done]:
        ended, done = Future[Done](), job()
        if done.witness is not None:
            self.found += 1
            ended.set_result(done)
        else:
            self.failed += 1
            ended.set_exception(self.error)
        return ended

    def wait(self, jobs: Iterable[Future[Done]], deadline: Deadline) -> set[Future[Done]]:
        return set(jobs)


@pytest.mark.parametrize("error", [OutOfTimeError(), ResourceError("eight workers were lost")])
def test_a_witness_beside_an_error_counts(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time runs out, or workers are lost, for others at the very moment at which it is found."""
    model, row = relu_model(random_layers(5, [20, 10, 2])), np.array([[1.0, -0.5]])
    least = exact_minimum(model, [-0.7] * 20, [0.7] * 20, row, np.zeros(1))
    text, witness = property_text([-0.7] * 20, [0.7] * 20, 2, row_text(row[0], least - 0.02)), object()
    search = search_for(prepare(model, text), "activations")
    search.executors = together = Together(error)
    attack = lambda clauses, alone=False: None if alone else lambda deadline: witness  # noqa: E731
    monkeypatch.setattr(search, "next_attack", attack)
    outcome = search.run(Deadline.after(PATIENCE))
    assert (outcome.verdict, outcome.witness) == ("sat", witness)
    assert together.found == 1 and together.failed >= 1
