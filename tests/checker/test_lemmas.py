"""Lemmas proved together say what each says alone, in rationals: no more, and no less than rounding costs."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_dual import Truth, random_box, random_network
from test_proved_cuts import random_cuts

from verify.checker import lemmas as module
from verify.checker.bounding import Bounder, Objective
from verify.checker.clauses import Rows
from verify.checker.cuts import Cuts
from verify.checker.errors import NotProved
from verify.checker.lemmas import Lemma, Lemmas
from verify.checker.multipliers import Arithmetic
from verify.checker.network import Network

seeds = st.integers(0, 10**6)


def random_pool(network: Network, random: np.random.Generator) -> Cuts:
    """Some cuts; whether they hold is all the same where two say what follows from them."""
    found = Cuts(network)
    ends = np.zeros(network.variables)
    found.add(*random_cuts(network, random, (ends, ends)))
    return found


def lemmas(
    network: Network, random: np.random.Generator, layer: int, rows: int, count: int, point: bool = False, cuts: Cuts | None = None
) -> list[Lemma]:  # fmt: skip
    """Of subproblems of different roots: other boxes, clauses, splits, cuts, numbers of claims (whose values are still 0)."""
    bounder, found = Bounder(network, Arithmetic()), []
    columns = network.layers[layer].variables
    for node in range(count):
        lower, upper = random_box(network, random)
        low, high = bounder.dual.intervals(lower, lower if point else upper)
        splits = random.integers(network.inputs, network.variables, random.integers(3))
        if not point:
            low[:, splits[:1]] = 0.0
        high = np.maximum(low, high)
        alphas = {
            number: np.where((low[:, None, one.variables] < 0) & (high[:, None, one.variables] > 0), random.random((1, 1, one.variables.stop - one.variables.start)), 0.0)
            for number, one in enumerate(network.layers)
        }  # fmt: skip
        own = int(random.integers(1, 5))
        thresholds = random.standard_normal(rows)
        clause = Rows(
            random.standard_normal((rows, network.outputs)), None, [Fraction(value) for value in thresholds.tolist()], thresholds
        )  # fmt: skip
        found.append(Lemma(
            node, layer, random.integers(0, columns.stop - columns.start, own), random.choice([1.0, -1.0], own), np.zeros(own),
            np.abs(random.standard_normal((own, rows))) * 10.0 ** random.integers(-3, 8), clause, (low, high), alphas, splits,
            random.standard_normal(len(splits)), bounder.dual.sizes(low, high), *shares_of(cuts, random),
        ))  # fmt: skip
    return found


def shares_of(cuts: Cuts | None, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Some cuts' numbers, and shares."""
    numbers = np.zeros(0, dtype=np.int64)
    if cuts is not None:
        numbers = np.flatnonzero(random.random(len(cuts._all)) < 0.7)
    return numbers, random.random(len(numbers))


def exact_bounds(network: Network, lemma: Lemma, cuts: Cuts | None = None) -> np.ndarray:
    """What a lemma's claims may be, by the checker's own evaluation in rationals, on the subproblem alone."""
    bounder = Bounder(network, Arithmetic(exact=True))
    node = network.layers[lemma.layer].operand
    coefficients = np.zeros((1, len(lemma), network.nodes[node].size))
    coefficients[0, np.arange(len(lemma)), lemma.neurons] = lemma.sides
    objective = Objective(lemma.weights[None], [lemma.rows], (node, coefficients))
    multipliers = lemma.multipliers * lemma.weights.sum(1)[:, None]
    shares = None if cuts is None else (cuts.in_use(lemma.cuts), lemma.shares[None])
    rho = bounder.sloped(lemma.bounds, lemma.alphas, (lemma.splits[None], multipliers[None]), shares)
    bound, _ = bounder.reach(lemma.bounds, objective, rho, lemma.sizes, np.zeros((1, len(lemma))), False)
    return bound[0]


def proved(network: Network, stated: list[Lemma], cuts: Cuts | None = None) -> bool:
    collected = Lemmas(Bounder(network, Arithmetic()), cuts or Cuts(network))
    try:
        with np.errstate(all="ignore"):
            for lemma in stated:
                collected.add(lemma)
            collected.settle()
    except NotProved:
        return False
    assert collected.proved == sum(map(len, stated))
    return True


@settings(max_examples=60, deadline=None)
@given(seeds, st.sampled_from([1, 1, 2]), st.sampled_from([1, 3, 96]))
def test_what_is_proved_is_what_rationals_say(seed: int, rows: int, together: int) -> None:
    """Claims at their bounds hold; one that is beyond its bound, by however little, is found among all others."""
    random = np.random.default_rng(seed)
    network = random_network(seed, [("relu", ())] * (1 + seed % 2))
    layer = int(random.integers(len(network.layers)))
    cuts = random_pool(network, random) if seed % 3 else None
    stated = lemmas(network, random, layer, rows, 4, cuts=cuts)
    bounds = [exact_bounds(network, lemma, cuts) for lemma in stated]
    least = [np.nextafter(bound - 1e-12 * np.abs(bound), -np.inf) for bound in bounds]

    def claiming(values: list[np.ndarray]) -> list[Lemma]:
        return [
            module.replace(one, claims=one.sides * value) for one, value in zip(stated, values, strict=True)
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_TOGETHER", together)
        assert proved(network, claiming(least), cuts)
        for subproblem, bound in enumerate(bounds):
            for claim in range(len(bound)):
                wrong = [values.copy() for values in least]
                wrong[subproblem][claim] = np.nextafter(bound[claim] + 1e-12 * abs(bound[claim]), np.inf)
                assert not proved(network, claiming(wrong), cuts)


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_sharing_rows_decides_most(seed: int) -> None:
    """Claims that leave rounding some room take no second sweep."""
    random = np.random.default_rng(seed)
    network = random_network(seed, [("relu", ())])
    cuts = random_pool(network, random)
    stated = lemmas(network, random, len(network.layers) - 1, 1, 3, cuts=cuts)
    stated = [module.replace(one, claims=one.sides * (exact_bounds(network, one, cuts) - 1e-6 * (1 + one.weights.sum(1)))) for one in stated]  # fmt: skip
    bounder = Bounder(network, Arithmetic())
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        patch.setattr(bounder, "reach", None)
        collected = Lemmas(bounder, cuts)
        for lemma in stated:
            collected.add(lemma)
        collected.settle()
    assert collected.proved == sum(map(len, stated))


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_no_claim_is_beyond_the_truth(seed: int) -> None:
    """At a single input an objective has one value, which a claim must not pass by the last place of it."""
    random = np.random.default_rng(seed)
    network = random_network(seed, [("relu", ())] * (1 + seed % 2))
    layer = int(random.integers(len(network.layers)))
    node = network.layers[layer].operand
    for stated in lemmas(network, random, layer, 1, 4, point=True):
        values = Truth(network).values(stated.bounds[0][0, : network.inputs].tolist())
        row = sum((Fraction(c) * v for c, v in zip(stated.rows.outputs[0].tolist(), values[-1], strict=True)), -stated.rows.exact_thresholds[0])  # fmt: skip
        for claim in range(len(stated)):
            one = stated.part(slice(claim, claim + 1))
            side = Fraction(float(one.sides[0]))
            value = side * values[node][int(one.neurons[0])] + Fraction(float(one.weights[0, 0])) * row
            beyond = float(value)
            beyond = beyond if Fraction(beyond) > value else float(np.nextafter(beyond, np.inf))
            assert not proved(network, [module.replace(one, claims=one.sides * beyond)])
