"""Falsification where gradients are 0: networks of steps, such as signs, roundings and comparisons.

Descents go by straight-through gradients. All clauses of a box are descended together, each point towards the clause that is
nearest to being violated there: a step through such a network costs as much for one clause as for all. What descent does not
find, flips may: entries of good points are moved elsewhere, some at a time, wherever that does no harm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from verify.attack import Attack, free_points, replay_best
from verify.deadline import Deadline
from verify.network.affine import Dense
from verify.network.convolution import Convolution
from verify.network.graph import Network
from verify.network.straight_through import straight_through
from verify.problem import Problem, Witness
from verify.state import is_wide, sent

_SHARE = 0.4  # of the time left, for a round
_FEW_INPUTS = 16
_POINTS = 8
_MOST = 256  # points, where a step takes hardly longer with them
_CLAUSES = 1024  # of a box, at once
_CHANGES = 32  # of a point, the best of which is taken, where there are so many points
_CELLS = 4096  # that are looked at one by one
_POINT = 1e-6  # of their size: intervals no wider are points
_SAME = 1e-5  # of its size: what a value changes by that does not change
_STEPS = 300
_PATIENCE = 60  # steps without gain
_FIRST = 0.1  # of a box's width: the first step
_FADING = 0.99  # of a step's size to the next
_SOFTNESS = 0.1  # of the clauses' mean distance from the nearest: within it others are descended, too


def for_steps(attack: Attack, network: Network) -> Attack:
    """The attack, or where no gradient leads through some activation this one in its place."""
    if not network.has_steps:
        return attack
    return StepAttack(**vars(attack))


def front_of(network: Network) -> int:
    """The node that the outputs are read off: the last dense map or convolution of their size, if all goes through it.

    Behind it are softmax and the like, whose own derivative is lost to rounding where they are saturated.
    """
    last = len(network.nodes) - 1
    earliest = last  # operand of any node from the front on
    for index in range(last, 0, -1):
        node = network.nodes[index]
        dense = isinstance(node.operator, Dense | Convolution)
        if dense and earliest >= index and node.size == network.outputs:
            return index
        if index in network.ancestors[last]:
            earliest = min(earliest, *node.operands)
    return last


@dataclass(frozen=True)
class StepAttack(Attack):
    """An attack for networks with steps, and the plain one after it: some gradients lead on beside the steps.

    A round may take a share of the time that is left, if that is more than `seconds`: a step through such a network may
    be dear.
    """

    def run(
        self,
        problem: Problem,
        network: Network,
        clauses: Sequence[int],
        generator: np.random.Generator,
        deadline: Deadline,
    ) -> Witness | None:
        """Descents from random points and corners of every box, and flips from where they end."""
        witness = self._by_boxes(problem, network, clauses, generator, deadline)
        return witness or self._plain.run(problem, network, clauses, generator, deadline)

    @property
    def _plain(self) -> Attack:
        return Attack(**vars(self))

    def _by_boxes(
        self,
        problem: Problem,
        network: Network,
        clauses: Sequence[int],
        generator: np.random.Generator,
        deadline: Deadline,
    ) -> Witness | None:
        # searches among few inputs look at so many points themselves
        longer = 0.0 if problem.free_inputs <= _FEW_INPUTS else deadline.share(_SHARE).remaining
        limit = deadline.within(max(self.seconds, longer))
        groups = list(_by_box(problem, clauses))
        for number, some in enumerate(groups):
            turn = limit.share(1 / (len(groups) - number))
            if turn.remaining <= 0:
                return None
            search = _Search(problem, network, some, generator, turn)
            count = max(_POINTS, min(_MOST, free_points(network)))
            witness = search.cells() or search.descend(search.starts(count)) or search.flip(count)
            if witness is not None:
                return witness
        return None

    def descend(
        self,
        problem: Problem,
        network: Network,
        owners: list[int],
        x: Float[Tensor, "batch inputs"],
        deadline: Deadline,
    ) -> Witness | None:
        """Descends from given points, each on its box, for as long as a round takes at most."""
        limit = deadline.within(self.seconds)
        boxes = problem.box_of[owners]
        for some in _by_box(problem, sorted(set(owners))):
            if limit.remaining <= 0:
                break
            points = x[torch.from_numpy(boxes == problem.box_of[some[0]])]
            search = _Search(problem, network, some, np.random.default_rng(0), limit)
            witness = search.descend(points[:_MOST])
            if witness is not None:
                return witness
        return self._plain.descend(problem, network, owners, x, limit)


def _by_box(problem: Problem, clauses: Sequence[int]) -> Iterator[list[int]]:
    """The clauses of each box, not too many at a time."""
    boxes = problem.box_of[np.asarray(clauses, dtype=np.int64)]  # of none there is no other type
    order = np.argsort(boxes, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(boxes[order])) + 1):
        for start in range(0, len(group), _CLAUSES):
            yield [clauses[place] for place in group[start : start + _CLAUSES].tolist()]


class _Search:
    """The search for a point of a box that violates one of some clauses."""

    def __init__(
        self,
        problem: Problem,
        network: Network,
        clauses: list[int],
        generator: np.random.Generator,
        limit: Deadline,
    ) -> None:
        self.problem, self.network, self.clauses = problem, network, clauses
        self.generator, self.limit = generator, limit
        self.objective = problem.objective(clauses).to(network.device, network.dtype)
        self.lower, self.upper = (end.to(network.device, network.dtype) for end in problem.boxes(clauses[:1]))
        self.front = front_of(network)
        # the point nearest to a violation, how near it is, and the steps since it was found
        self.best, self.least = (self.lower[0] + self.upper[0]) / 2, (float("inf"), float("inf"))
        self.since = 0

    def starts(self, count: int) -> Float[Tensor, "count inputs"]:
        """The middle, random points, and as many corners."""
        noise = self._random((count, self.lower.shape[1]))
        noise[1::2] = noise[1::2].round()
        noise[0] = 0.5
        return self.lower + (self.upper - self.lower) * noise

    def _random(self, shape: tuple[int, ...]) -> Tensor:
        return sent(torch.from_numpy(self.generator.random(shape)), self.lower.device).to(self.lower)

    @torch.no_grad()
    def cells(self) -> Witness | None:
        """Looks at a point of each cell that steps cut the box into along few inputs, if there are not too many."""
        points = cell_points(self.network, self.lower, self.upper)
        for some in points.split(_POINTS) if len(points) > 1 else ():
            if self.limit.remaining <= 0:
                return None
            _, witness = self._judged(some, self.network.values(some))
            if witness is not None:
                return witness
        return None

    def descend(self, x: Float[Tensor, "batch inputs"]) -> Witness | None:
        """Signed steps with momentum, which shrink; from anew where there is no gradient.

        Ends where nothing has come nearer for long.
        """
        x = x.to(self.lower).clamp(self.lower, self.upper)
        momentum, size, self.since = torch.zeros_like(x), _FIRST, 0
        for _ in range(_STEPS):
            values = straight_through(self.network, x.requires_grad_(True))
            _, witness = self._judged(x.detach(), values)
            if witness is not None or self._over:
                return witness
            gradient = self._gradient(x, values)
            lost = (gradient == 0).all(1, keepdim=True)
            momentum = 0.75 * momentum + gradient / gradient.abs().mean(1, keepdim=True).clamp(min=1e-30)
            moved = (x.detach() - size * (self.upper - self.lower) * momentum.sign()).clamp(
                self.lower, self.upper
            )
            x = torch.where(lost, self.starts(len(x)), moved)
            size *= _FADING
        return None

    @property
    def _over(self) -> bool:
        """Whether nothing has come nearer for long, or time is up."""
        return self.since >= _PATIENCE or self.limit.remaining <= 0

    def _judged(self, x: Tensor, values: list[Tensor]) -> tuple[Float[Tensor, "2 batch"], Witness | None]:
        """How near each point is to a violation, and a witness among those that seem to be one. The nearest point is kept.

        Where the outputs are equally near, what they are read off decides.
        """
        losses = self._losses(values[-1].detach().flatten(1), x).nan_to_num(torch.inf)
        front = self._losses(values[self.front].detach().flatten(1), x).nan_to_num(torch.inf).amin(1)
        loss, clause = losses.min(1)
        place = _first_least(loss, front)[None]
        nearest, beside = torch.cat([loss.gather(0, place), front.gather(0, place)]).tolist()
        found = nearest, beside
        self.since = 0 if found < self.least else self.since + 1
        if found <= self.least:
            self.best, self.least = x.index_select(0, place)[0], found
        if nearest > 0:
            return torch.stack([loss, front]), None
        owners = [self.clauses[number] for number in clause.tolist()]
        return torch.stack([loss, front]), replay_best(self.problem, owners, x, loss)

    def _gradient(self, x: Tensor, values: list[Tensor]) -> Tensor:
        """The gradient of each point's loss; 0 where there is none."""
        front, direct = values[self.front].flatten(1), x.detach().requires_grad_(True)
        if not front.requires_grad:
            return torch.zeros_like(x)
        value = _nearest(self._losses(values[-1].flatten(1), direct)).sum()
        inner, outer = torch.autograd.grad(value, (front, direct), retain_graph=True, materialize_grads=True)
        if self.front < len(values) - 1:
            plain = _nearest(self._losses(front, direct.detach())).sum()
            (others,) = torch.autograd.grad(plain, front, retain_graph=True)
            lost = ~inner.isfinite().all(1, keepdim=True) | (inner == 0).all(1, keepdim=True)
            inner = torch.where(lost, others, inner)
        (gradient,) = torch.autograd.grad((front * inner).sum(), x)
        return (gradient + outer).nan_to_num(0.0, 0.0, 0.0)

    def _losses(self, y: Tensor, x: Tensor) -> Float[Tensor, "batch clauses"]:
        """The largest row of each clause at each point."""
        rows = torch.einsum("kro,bo->bkr", self.objective.coefficients[:, 0], y)
        if self.objective.input_coefficients.shape[3]:
            rows = rows + torch.einsum("kri,bi->bkr", self.objective.input_coefficients[:, 0], x)
        return (rows - self.objective.thresholds[:, 0]).amax(2)

    @torch.no_grad()
    def flip(self, count: int) -> Witness | None:
        """Climbs side by side, from the best point and from others, while that helps.

        Of some changes of a point the best is made, or none. A change moves from one to all entries, to ends of their intervals or anywhere.
        """
        x, size, self.since = self.starts(count), len(self.best), 0
        x[0] = self.best
        (loss, _), witness = self._judged(x, self.network.values(x))
        points = x[loss.argsort()[: max(1, count // _CHANGES)]]
        every = torch.arange(len(points), device=x.device)
        while witness is None and not self._over:
            changes = count // len(points)
            x = points.repeat_interleave(changes, 0)
            chosen = self._random((len(x), size)) < float(size) ** -self._random((len(x), 1))
            chosen[changes - 1 :: changes] = False
            x = torch.where(chosen, self.starts(len(x)), x)
            merits, witness = self._judged(x, self.network.values(x))
            best = _first_least(*merits.unflatten(1, (len(points), changes)))
            points = x.unflatten(0, (len(points), changes))[every, best]
        return witness


def _first_least(loss: Float[Tensor, "*batch n"], front: Float[Tensor, "*batch n"]) -> Int[Tensor, "*batch"]:
    """Where the loss is least, of equals the one with the least `front`, of such the first."""
    rest = torch.where(loss == loss.amin(-1, keepdim=True), front, torch.inf)
    places = torch.arange(loss.shape[-1], device=loss.device)
    return torch.where(rest == rest.amin(-1, keepdim=True), places, loss.shape[-1]).amin(-1)


def _nearest(losses: Float[Tensor, "batch clauses"]) -> Float[Tensor, " batch"]:
    """The least loss at every other point; at the others that of all clauses that are near to it."""
    least = losses.amin(1)
    softness = (_SOFTNESS * (losses - least[:, None]).mean(1, keepdim=True)).detach().clamp(min=1e-12)
    soft = -(softness * torch.logsumexp(-losses / softness, 1, keepdim=True))[:, 0]
    return torch.where(torch.arange(len(losses), device=losses.device) % 2 == 0, least, soft)


def cell_points(
    network: Network, lower: Float[Tensor, "1 inputs"], upper: Float[Tensor, "1 inputs"]
) -> Float[Tensor, "cells inputs"]:
    """A point of each cell that the box is cut into by steps of single inputs; of none where there are too many."""
    middle = (lower + upper) / 2
    free = is_wide(lower, upper, _POINT)[0].nonzero()[:, 0]
    if not len(free):
        return middle
    if len(free) > _FEW_INPUTS:
        return middle[:0]
    moved = middle.repeat(1 + len(free), 1)
    moved[torch.arange(len(free)) + 1, free] = upper[0, free]
    jumps: list[list[float]] = [[] for _ in range(len(free))]
    for layer in network.layers:
        if layer.activation.flat and network.affine_from(layer.pre_node) == 1:
            z = network.upto(layer.pre_node).values(moved)[-1].flatten(1).double()
            change = (z[1:] - z[:1]).abs() > _SAME * (1 + z[:1].abs())
            for j in (change.sum(0) == 1).nonzero()[:, 0].tolist():
                i = int(change[:, j].nonzero())
                x0, width = float(middle[0, free[i]]), float(upper[0, free[i]] - middle[0, free[i]])
                at = layer.activation.jumps(float(2 * z[0, j] - z[1 + i, j]), float(z[1 + i, j]))
                jumps[i] += [
                    x0 + (jump - float(z[0, j])) / float(z[1 + i, j] - z[0, j]) * width for jump in at
                ]
    values = [
        _between(sorted(found), float(lower[0, i]), float(upper[0, i]))
        for found, i in zip(jumps, free.tolist(), strict=True)
    ]
    if math.prod(map(len, values)) > _CELLS:
        return middle[:0]
    grid = torch.cartesian_prod(*map(torch.tensor, values)).reshape(-1, len(free)).to(middle)
    points = middle.repeat(len(grid), 1)
    points[:, free] = grid
    return points


def _between(jumps: list[float], lower: float, upper: float) -> list[float]:
    """The middles between jumps inside of an interval."""
    ends = [lower, *(jump for jump in jumps if lower < jump < upper), upper]
    return [(a + b) / 2 for a, b in pairwise(ends) if b > a]
