"""Blocks that claim bounds of pre-activations: on the boxes of roots, or over the unsafe points of a node's subproblem."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.bounding import Objective, Pair
from verify.checker.cuts import InUse, spare
from verify.checker.dual import Rho
from verify.checker.errors import NotProved, Refused
from verify.checker.lemmas import Lemma
from verify.checker.multipliers import Multipliers
from verify.checker.proof import CHUNK, Proof
from verify.checker.rules import Rule, register
from verify.checker.stream import Cursor

Array = NDArray[Any]


@register(0, "box")
class Box(Rule):
    """Bounds of all pre-activations on the box of some roots, by intervals and CROWN."""

    everywhere, counted = True, "roots"

    @classmethod
    def take_in(cls, proof: Proof, cursor: Cursor, prove: bool) -> None:
        roots = cursor.counted("<i8")
        inputs, count = proof.network.inputs, proof.network.variables - proof.network.inputs
        claimed = [np.array(cursor.take("<f8", count)) for _ in range(2)]
        check_roots(proof, roots)
        old = proof.tree.base(int(roots[0]))
        lower, upper = old[0].copy(), old[1].copy()
        lower[inputs:] = np.maximum(lower[inputs:], claimed[0])
        upper[inputs:] = np.minimum(upper[inputs:], claimed[1])
        if np.isnan(lower).any() or np.isnan(upper).any():
            raise Refused("a claim is not a number")
        if prove:
            _prove_box(proof, (lower, upper), (old[0][None].copy(), old[1][None].copy()))
        for root in roots.tolist():
            proof.tree.set_base(root, lower, upper)


def _prove_box(proof: Proof, claimed: Pair, known: Pair) -> None:
    """Layer by layer: what intervals do not show, a sweep for each neuron does."""
    for number, layer in enumerate(proof.network.layers):
        found, columns = proof.bounder.propagated(known), layer.variables
        sizes = proof.dual.sizes(*found)
        for side, end in ((1, 0), (-1, 1)):
            claims = claimed[end][columns]
            neurons = np.flatnonzero(~(side * claims <= side * found[end][0, columns]))
            neurons = neurons[proof.own(neurons)]
            for some in proof.bounder.pieces(len(neurons), CHUNK):
                own = neurons[some]
                objective = _variables(proof, number, own, np.full(len(own), side))
                _, reached = proof.bounder.reach(
                    known, objective, proof.bounder.default(known), sizes, side * claims[own][None], False
                )
                _check_reached(reached, number, own)
        for end in range(2):  # the claims themselves, even where more is known: CROWN's slopes depend on them
            claims = claimed[end][columns]
            known[end][0, columns] = np.where(np.isfinite(claims), claims, found[end][0, columns])
        proof.summary.claims += 2 * len(proof.own(np.arange(columns.stop - columns.start)))


class OnBox(Rule):
    """Bounds of some neurons of a layer on the box of some roots, and what they are shown by."""

    counted = "claims"

    @classmethod
    def take_in(cls, proof: Proof, cursor: Cursor, prove: bool) -> None:
        roots, number = cursor.counted("<i8"), cursor.integer()
        places, sides, claims = cursor.claims("<f8")
        check_roots(proof, roots)
        neurons = neurons_of(proof, number, places)
        old = proof.tree.base(int(roots[0]))
        cls.take_rest(proof, cursor, prove, number, old, (neurons, sides, claims))
        tighten(proof, roots, old, places, sides, claims)

    @classmethod
    @abstractmethod
    def take_rest(
        cls, proof: Proof, cursor: Cursor, prove: bool, number: int, old: Pair, stated: tuple[Array, Array, Array],
    ) -> None:  # fmt: skip
        """The rest of the block; proves what is stated (neurons, sides, claims) of a layer on the box `old`, if it is to be proved."""

    @classmethod
    def entries(cls, cursor: Cursor) -> int:
        cursor.counted("<i8")
        cursor.integer()
        return cursor.integer()


@register(1, "slopes")
class Slopes(OnBox):
    """Each by slopes of its own."""

    everywhere = True

    @classmethod
    def take_rest(
        cls, proof: Proof, cursor: Cursor, prove: bool, number: int, old: Pair, stated: tuple[Array, Array, Array],
    ) -> None:  # fmt: skip
        bounds = old[0][None], old[1][None]
        below = proof.network.layers_below(proof.network.layers[number].operand)
        alphas = read_alphas(proof, cursor, bounds, len(stated[0]), "<u1", below)

        def rho(part: Array) -> Rho:
            return proof.bounder.sloped(bounds, {layer: alpha[:, part] for layer, alpha in alphas.items()})

        if prove:
            _prove_on_box(proof, bounds, number, stated, rho)


@register(18, "multipliers")
class OwnMultipliers(OnBox):
    """Each by multipliers of its own, whatever the activations."""

    everywhere = True

    @classmethod
    def take_rest(
        cls, proof: Proof, cursor: Cursor, prove: bool, number: int, old: Pair, stated: tuple[Array, Array, Array],
    ) -> None:  # fmt: skip
        count, stored = len(stated[0]), {}
        for layer in proof.network.layers_below(proof.network.layers[number].operand):
            columns = proof.network.layers[layer].variables
            size = columns.stop - columns.start
            stored[layer] = cursor.take("<f4", count * size).reshape(1, count, size)

        def rho(part: Array) -> Rho:
            return lambda layer, _: Multipliers(stored[layer][:, part].astype(np.float64))

        if prove:
            bounds = proof.bounder.propagated((old[0][None], old[1][None]))
            _prove_on_box(proof, bounds, number, stated, rho)


def _prove_on_box(
    proof: Proof,
    bounds: Pair,
    number: int,
    stated: tuple[Array, Array, Array],
    rho: Callable[[Array], Rho],
) -> None:
    """This process's share of claims (neurons, sides, values) of a layer on one box. rho: the multipliers of some of them."""
    neurons, sides, claims = stated
    sizes = proof.dual.sizes(*proof.bounder.propagated(bounds))
    own = proof.own(neurons)
    for some in proof.bounder.pieces(len(own), CHUNK):
        part = own[some]
        objective = _variables(proof, number, neurons[part], sides[part])
        needed = (claims * sides)[part][None]
        _, reached = proof.bounder.reach(bounds, objective, rho(part), sizes, needed, False)
        _check_reached(reached, number, neurons[part])
    proof.summary.claims += len(own)


@register(11, "cuts")
class CutsRule(Rule):
    """Cutting planes, by intervals on a box; who uses them has to be inside of it."""

    counted = "cuts"
    # each is proved in closed form
    effort = 1 / 16

    @classmethod
    def take_in(cls, proof: Proof, cursor: Cursor, prove: bool) -> None:
        variables = cursor.counted("<i4").astype(np.int64)
        count, size = len(variables), proof.network.variables
        box = np.array(cursor.take("<f8", size)), np.array(cursor.take("<f8", size))
        slopes, factors, offsets = (np.array(cursor.take("<f8", count)) for _ in range(3))
        counts = cursor.take("<i4", count).astype(np.int64)
        if (counts < 0).any():
            raise Refused("a cut has less than no coefficients")
        entries = (
            cursor.take("<i4", int(counts.sum())).astype(np.int64),
            cursor.take("<f8", int(counts.sum())),
        )
        if proof.dual.arithmetic.deployed:
            raise Refused("cuts hold of the real function alone")
        cuts = proof.cuts.add(box, variables, (slopes, factors, offsets), counts, entries)
        if not prove:
            return
        # in float64 nothing holds that is no number
        held = np.zeros(count, dtype=bool) if proof.bounder.all_exact else spare(proof.dual, box, cuts) >= 0
        left = np.flatnonzero(~held)
        if len(left):
            exactly = spare(proof.bounder.exact, box, [cuts[i] for i in left.tolist()])
            held[left] = [value >= 0 for value in exactly.tolist()]
        if not held.all():
            raise NotProved(f"cut {int(held.argmin())} of the block does not hold on its box")
        proof.summary.claims += count


@register(2, "lemma")
class LemmaRule(Rule):
    """Bounds of some neurons of a layer over the unsafe points of a node's subproblem; the slopes are theirs in common."""

    counted = "claims"
    cuts = False

    @classmethod
    def take_in(cls, proof: Proof, cursor: Cursor, prove: bool) -> None:
        node, number = cursor.integer(), cursor.integer()
        places, sides, claims = cursor.claims("<f4")
        proof.tree.check_nodes(np.array([node]))
        neurons = neurons_of(proof, number, places)
        if prove:
            proof.lemmas.add(_stated(proof, cursor, (node, number), neurons, sides, claims, cls.cuts))
        else:
            cursor.skip()
        proof.tree.claim(
            node, places, np.where(sides > 0, claims, -np.inf), np.where(sides < 0, claims, np.inf)
        )

    @classmethod
    def entries(cls, cursor: Cursor) -> int:
        cursor.take("<i8", 2)
        return cursor.integer()


@register(14, "lemma_cuts")
class LemmaCuts(LemmaRule):
    """The same, with shares of cuts."""

    cuts = True


def _stated(
    proof: Proof,
    cursor: Cursor,
    place: tuple[int, int],
    neurons: Array,
    sides: Array,
    claims: Array,
    cuts: bool,
) -> Lemma:
    """With the rest of the block: weights, the multipliers of the node's splits, shares of cuts if it has any, slopes."""
    node, layer = place
    nodes = np.array([node])
    weights = proof.weights(cursor, "<f4", len(neurons), proof.clauses.most_rows)
    splits, counts = proof.tree.splits(nodes)
    multipliers = np.array(cursor.take("<f2", int(counts[0])), dtype=np.float64)
    bounds = proof.tree.subproblems(nodes)
    numbers, shares = np.zeros(0, dtype=np.int64), np.zeros((1, 0))
    if cuts:
        numbers = np.array(cursor.counted("<i8"))
        proof.cuts.in_use(numbers).check_inside(*bounds, nodes)
        shares = _shares(cursor, "<u1", (1, len(numbers)))
    alphas = read_alphas(proof, cursor, bounds, 1, "<u1", list(range(len(proof.network.layers))))
    return Lemma(
        node,
        layer,
        neurons,
        sides,
        claims,
        weights,
        proof.clause(node),
        bounds,
        alphas,
        splits[0],
        multipliers,
        proof.sizes_of(nodes),
        numbers,
        shares[0],
    )


def _variables(proof: Proof, number: int, neurons: Array, sides: Array) -> Objective:
    """The objectives `side z_neuron` of a layer on one subproblem."""
    node = proof.network.layers[number].operand
    coefficients = np.zeros((1, len(neurons), proof.network.nodes[node].size))
    coefficients[0, np.arange(len(neurons)), neurons] = sides
    return Objective(np.zeros((1, len(neurons), 0)), [], (node, coefficients))


def _check_reached(reached: Array, number: int, names: Array) -> None:
    if not reached.all():
        raise NotProved(f"claim of neuron {int(names[np.flatnonzero(~reached[0])[0]])} of layer {number}")


def neurons_of(proof: Proof, number: int, places: Array) -> Array:
    """Variables as places within a layer. Refused where they are not its."""
    if not 0 <= number < len(proof.network.layers):
        raise Refused(f"there is no layer {number}")
    columns = proof.network.layers[number].variables
    if ((places < columns.start) | (places >= columns.stop)).any():
        raise Refused(f"a claim of layer {number} is not of its variables")
    return np.asarray(places - columns.start)


def tighten(proof: Proof, roots: Array, old: Pair, places: Array, sides: Array, claims: Array) -> None:
    """What is known of some roots' box, with claims of some variables."""
    lower, upper = old[0].copy(), old[1].copy()
    np.maximum.at(lower, places[sides > 0], claims[sides > 0])
    np.minimum.at(upper, places[sides < 0], claims[sides < 0])
    for root in roots.tolist():
        proof.tree.set_base(root, lower, upper)


def check_roots(proof: Proof, roots: Array) -> None:
    """Refused unless they share a box and what is claimed of it."""
    if not len(roots) or ((roots < 0) | (roots >= proof.tree.roots)).any():
        raise Refused("a root that is not in the tree")
    first = proof.tree.base(int(roots[0]))
    for root in roots[1:].tolist():
        if not all(a is b or np.array_equal(a, b) for a, b in zip(first, proof.tree.base(root), strict=True)):
            raise Refused("roots of different boxes share a claim")


def read_shares(proof: Proof, cursor: Cursor, kind: str, count: int) -> tuple[InUse, Array]:
    """Cuts, and the shares of them that so many subproblems have: [subproblems, cuts in use]."""
    numbers = np.array(cursor.counted("<i8"))
    return proof.cuts.in_use(numbers), _shares(cursor, kind, (count, len(numbers)))


def _shares(cursor: Cursor, kind: str, shape: tuple[int, int]) -> Array:
    stored = np.array(cursor.take(kind, shape[0] * shape[1]), dtype=np.float64).reshape(shape)
    found: Array = stored / 255 if kind == "<u1" else stored
    if not (found >= 0).all() or not np.isfinite(found).all():
        raise Refused("a cut's share is negative or not finite")
    return found


def read_alphas(
    proof: Proof, cursor: Cursor, bounds: Pair, objectives: int, kind: str, layers: list[int]
) -> dict[int, Array]:
    """The slopes of the given layers' unstable ReLUs: [subproblems, objectives, size] each, 0 elsewhere."""
    lower, upper = bounds
    own = [number for number in layers if proof.network.layers[number].kind == "relu"]
    columns = [proof.network.layers[number].variables for number in own]
    masks = [(lower[:, None, c] < 0) & (upper[:, None, c] > 0) for c in columns]
    if not masks:
        return {}
    mask = np.concatenate(masks, 2).repeat(objectives, 1)
    stored = np.array(cursor.take(kind, int(mask.sum())), dtype=np.float64)
    alpha = np.zeros(mask.shape)
    alpha[mask] = stored / 255 if kind == "<u1" else stored
    ends = np.cumsum([part.shape[2] for part in masks])[:-1]
    return dict(zip(own, np.split(alpha, ends, 2), strict=True))
