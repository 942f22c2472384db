"""A row that all clauses have and that says of the input alone that it lies in a ball: better minima of linear functions over its box.

The row is `sum_i (f_i(x_i + e_i) + b_i x_i) <= d`, with each f_i `a_i y^2` or each `a_i |y|`, a_i >= 0. All unsafe points satisfy it. Above any line it is convex: for every slope s_i
(of absolute values those with |s_i| <= a_i), `f_i(y) >= s_i y - h_i` with `h_i = s_i^2 / (4 a_i)` or 0, so for every multiplier m >= 0

    c . x  >=  (c + m (b + s)) . x + m (sum_i (s_i e_i - h_i) - d) .

Multipliers and slopes are declared: whatever they are, this holds. They are chosen near the best ones, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from verify.checker.dual import UNDERFLOW, Dual, Linear
from verify.checker.maps import Gather, Identity
from verify.checker.network import Activation, Affine, Network
from verify.checker.query import Query
from verify.checker.query2 import JointQuery
from verify.checker.query_clauses import Row
from verify.checker.rationals import Array

STEPS = 12
TINY = 1e-30
Places = tuple[Array, Array]  # which ones, and their entries in a node


@dataclass(frozen=True, eq=False)
class Ball:
    """The row; a, e and b are [inputs] and exact."""

    squares: bool
    a: Array
    e: Array
    b: Array
    d: Fraction

    def least(self, dual: Dual, linear: Linear, lower: Array, upper: Array) -> tuple[Array, Array]:
        """The least values of linear functions on boxes [subproblems, 1, inputs], rounded down, and the errors that are charged."""
        bound = linear.bound(lower, upper)
        found = self._lowered(dual, linear, lower, upper)
        better = found.bound(lower, upper)
        return np.asarray(np.where(better > bound, better, bound)), np.maximum(linear.error, found.error)

    def _lowered(self, dual: Dual, linear: Linear, lower: Array, upper: Array) -> Linear:
        """The linear functions with the row's lines below them."""
        floats = [np.asarray(part, dtype=np.float64) for part in (linear.cotangent, lower, upper)]
        with np.errstate(all="ignore"):
            chosen = (self._of_squares if self.squares else self._of_absolutes)(*floats)
        fine = np.isfinite(chosen[0]) & (chosen[0] >= 0) & np.isfinite(chosen[1]).all(2)
        multiplier = np.where(fine, chosen[0], 0.0)
        slopes = np.where(fine[..., None], chosen[1], 0.0)
        if not self.squares:
            slopes = np.clip(slopes, -self.a, self.a)
        slopes = np.where(self.a > 0, slopes, 0.0)
        m, s, a, e, b = map(dual.arithmetic.array, (multiplier, slopes, self.a, self.e, self.b))
        d = dual.arithmetic.array([self.d if dual.arithmetic.exact else _up(self.d)])[0]
        heights = s * s / np.where(a > 0, 4 * a, 1) if self.squares else 0 * s
        cotangent = linear.cotangent + m[..., None] * (b + s)
        constant = linear.constant + m * ((s * e - heights).sum(2) - d)
        if not dual.gamma:
            return Linear(cotangent, constant, linear.error)
        size = np.maximum(np.abs(lower), np.abs(upper))
        terms = (np.abs(linear.cotangent) + m[..., None] * (np.abs(b) + np.abs(s))) @ size.swapaxes(-1, -2)
        inside = m * ((np.abs(s * e) + heights).sum(2) + np.abs(d)) + np.abs(linear.constant)
        lost = UNDERFLOW * (1 + size.sum(-1)) * (1 + m)
        return Linear(cotangent, constant, linear.error + dual.gamma * (2 * terms[..., 0] + inside) + lost)

    def _of_squares(self, c: Array, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Multipliers and slopes: inputs that the best point has at their box's ends are fixed there, which takes a few steps."""
        root = np.sqrt(self.a)
        centre = np.where(self.a > 0, -self.e - self.b / (2 * self.a), 0.0)
        radius = float(self.d) - (self.a * (self.e**2 - centre**2)).sum()
        low, high = lower - centre, upper - centre
        room = np.maximum(root * np.where(c > 0, -low, high), 0.0)
        steep = np.where(self.a > 0, np.abs(c) / root, 0.0)
        fixed = np.zeros(steep.shape, dtype=bool)
        for _ in range(STEPS):
            rest = radius - np.where(fixed, room**2, 0.0).sum(2)
            free = np.where(fixed, 0.0, steep**2).sum(2)
            m = np.sqrt(free / np.maximum(rest, TINY)) / 2
            fixed = steep > 2 * m[..., None] * room
        near = root * np.clip(0.0, low, high)
        m = np.maximum(m, _apart(c, low, high, (near**2).sum(2) - radius))
        away = np.clip(-c / np.maximum(2 * m[..., None] * self.a, TINY), low, high)
        return m, 2 * self.a * (centre + away + self.e)

    def _of_absolutes(self, c: Array, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Multipliers and slopes: the steepest inputs go to their box's ends until the radius is used up."""
        low, high = lower + self.e, upper + self.e
        room = np.maximum(self.a * np.where(c > 0, -low, high), 0.0)
        steep = np.where(self.a > 0, np.abs(c) / self.a, 0.0)
        order = np.argsort(-steep, axis=2, kind="stable")
        used = np.take_along_axis(np.broadcast_to(room, steep.shape), order, 2).cumsum(2)
        place = (used < float(self.d)).sum(2, keepdims=True)
        sorted_ = np.concatenate([np.take_along_axis(steep, order, 2), np.zeros((*steep.shape[:2], 1))], 2)
        m = np.take_along_axis(sorted_, place, 2)[..., 0]
        near = self.a * np.abs(np.clip(0.0, low, high))
        m = np.maximum(m, _apart(c, low, high, near.sum(2) - float(self.d)))
        inside = np.clip(-c / np.maximum(m, TINY)[..., None], -self.a, self.a)
        return m, np.where(low > 0, self.a, np.where(high < 0, -self.a, inside))


def _apart(c: Array, low: Array, high: Array, excess: Array) -> Array:
    """A multiplier that refutes boxes that the ball is beyond; 0 for others."""
    farthest = np.maximum(np.abs(low), np.abs(high))
    needed = 4 * (np.abs(c) * farthest).sum(2) / np.maximum(excess, TINY)
    return np.where(excess > 1e-6, needed, 0.0)


def _up(value: Fraction) -> float:
    """The least float64 that is no less."""
    near = float(value)
    return near if Fraction(near) >= value else float(np.nextafter(near, np.inf))


# -- which row it is


def ball_of(network: Network, query: Query) -> Ball | None:
    """The first row of all clauses that is of a ball; None without one."""
    if not isinstance(query, JointQuery):
        return None
    balls = (_ball_of_row(network, row) for row in query.clauses.shared_rows)
    return next((ball for ball in balls if ball is not None), None)


def _ball_of_row(network: Network, row: Row) -> Ball | None:
    """What a row says of the input; None where it is none of a ball."""
    coefficients = [row.outputs[place] for place in row.outputs]
    found = origins(network, len(network.nodes) - 1, list(row.outputs))
    if not coefficients or found is None or any(found[1]) or min(coefficients) <= 0:
        return None
    a, e, b = (np.zeros(network.inputs) for _ in range(3))
    kinds, seen = set(), set[int]()
    for index, (which, entries) in found[0].items():
        below = _of_input(network, index, entries)
        if below is None:
            return None
        kind, inputs, shifts = below
        kinds.add(kind)
        for place, i, shift in zip(which.tolist(), inputs.tolist(), shifts, strict=True):
            if i in seen or float(shift) != shift:
                return None
            seen.add(i)
            a[i], e[i] = float(coefficients[place]), float(shift)
    for i, value in row.inputs.items():
        b[i] = float(value)
    if len(kinds) != 1 or (b[a == 0] != 0).any() or (kinds == {"abs"} and b.any()):
        return None
    return Ball(kinds == {"square"}, a, e, b, row.threshold)


def _of_input(network: Network, index: int, entries: Array) -> tuple[str, Array, list[Fraction]] | None:
    """Of some outputs of an activation its kind, and the inputs with shifts that they are of; the square of an absolute value is a square."""
    node = network.nodes[index]
    if not isinstance(node, Activation) or node.kind not in ("square", "abs"):
        return None
    found = origins(network, node.operand, entries.tolist())
    if found is None or len(found[0]) != 1:
        return None
    (below, (which, own)), shifts = *found[0].items(), found[1]
    order = np.argsort(which)
    if below == 0:
        return node.kind, own[order], shifts
    deeper = _of_input(network, below, own[order])
    if node.kind != "square" or deeper is None or deeper[0] != "abs" or any(shifts):
        return None
    return node.kind, deeper[1], deeper[2]


def origins(
    network: Network, index: int, entries: Sequence[int]
) -> tuple[dict[int, Places], list[Fraction]] | None:
    """The nodes (the input or activations) whose entries, moved and shifted, some entries of a node are; None where one is more than that."""
    shifts = [Fraction(0)] * len(entries)
    pending: dict[int, Places] = {index: (np.arange(len(entries)), np.array(entries, dtype=np.int64))}
    found: dict[int, Places] = {}
    while pending:
        at = max(pending)
        which, own = pending.pop(at)
        node = network.nodes[at]
        if not len(which):
            continue
        if not isinstance(node, Affine):
            found[at] = which, own
            continue
        for place, value in zip(which.tolist(), node.bias[own].tolist(), strict=True):
            shifts[place] += Fraction(value)
        sources = np.zeros(len(own), dtype=np.int64)
        for linear, operand in node.operands:
            if isinstance(linear, Gather) and linear.index.shape[1] == 1:
                entry = linear.index[own, 0]
            elif isinstance(linear, Identity):
                entry = own
            else:
                return None
            has = entry >= 0
            sources += has
            before = pending.get(operand, (which[:0], own[:0]))
            pending[operand] = (
                np.concatenate([before[0], which[has]]),
                np.concatenate([before[1], entry[has]]),
            )
        if (sources != 1).any():
            return None
    return found, shifts
