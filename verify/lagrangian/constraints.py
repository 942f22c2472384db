"""Weights of a clause's constraints `C y + E x <= d`: what is bounded is their weighted sum.

Weights w >= 0 of sum 1 bound the clause: unsafe is where all constraints hold, so where the least weighted sum is above 0 no point
is unsafe. Beside an objective on an earlier node the weights are free multipliers w >= 0, and q is a bound of that objective over
the points where the constraints hold (INVPROP: Kotha et al. 2023, "Provably Bounding Neural Network Preimages").
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from verify.lagrangian.domain import Domain
from verify.lagrangian.terms import Part, Sweep, Term
from verify.lagrangian.value import RoundingError, dot
from verify.network.ball import Ball
from verify.network.graph import Layer
from verify.state import Objective

# By node, [batch, objectives, size].
Cotangents = dict[int, Tensor]


def first_weights(objective: Objective, ball: Ball) -> Float[Tensor, "batch objectives rows"]:
    """Weights to begin with: the same for all rows but the ball's own, which bounds do without."""
    of_ball = (objective.coefficients[..., ball.outputs :] != 0).any(3)
    others = (~of_ball).sum(2, keepdim=True)
    even = torch.full_like(objective.thresholds, 1 / objective.thresholds.shape[2])
    return torch.where(others > 0, (~of_ball).to(even) / others.clamp(min=1), even)


class Simplex(Term):
    """Weights w >= 0 of sum 1."""

    name = "constraint_weights"

    def __init__(self, domain: Domain, objective: Objective) -> None:
        super().__init__(domain)
        self.objective = objective
        self.count = objective.thresholds.shape[2]

    def select(self, index: Tensor, domain: Domain) -> Simplex:
        return type(self)(domain, self.objective.select(index))

    def acts_on(self, layer: Layer) -> bool:
        return False

    def init(self, objectives: int) -> Part:
        shape = self.domain.batch, objectives, self.count
        ball = self.domain.network.ball
        if ball is None or self.domain.node != len(self.domain.network.nodes) - 1:
            return self.domain.like.new_full(shape, 1 / self.count)
        return first_weights(self.objective, ball).to(self.domain.like).expand(shape)

    def project(self, part: Part) -> Part:
        weights = part.clamp(min=0)
        total = weights.sum(-1, keepdim=True)
        return torch.where(total > 0, weights / total, 1 / self.count)

    def direction(self, part: Part, gradient: Part) -> Part:
        """The supergradient of weights that are divided by their sum: constraints of the optimum's face agree there."""
        return gradient - (part * gradient).sum(2, keepdim=True)

    def cotangents(self, part: Part) -> Cotangents:
        """Where a sweep begins: the weighted objective's coefficients, on the node's values and on the input where there are any."""
        weights, inputs = part[..., None], self.objective.input_coefficients
        found = {self.domain.node: (weights * self.objective.coefficients).sum(2)}
        if inputs.shape[3]:
            found[0] = (weights * inputs).sum(2)
        return found

    def sizes(self, part: Part) -> Cotangents:
        """The sizes of the terms of the cotangents on the node's values."""
        return {self.domain.node: (part[..., None] * self.objective.coefficients.abs()).sum(2)}

    def constant(self, part: Part, cotangents: Cotangents) -> Float[Tensor, "batch objectives"]:
        """The part of q that no minimum changes."""
        value = dot(cotangents[self.domain.node], self.domain.offsets[self.domain.node])
        return value - (part * self.objective.thresholds).sum(2)

    def charge(self, part: Part, rounding: RoundingError) -> None:
        """Counts the rounding of the weighted objective itself and of its thresholds."""
        sizes = self.objective.thresholds.abs()
        sizes = sizes + self.objective.coefficients.abs() @ rounding.magnitudes[self.domain.node]
        self._charge(part, sizes, rounding)

    def _charge(self, part: Part, sizes: Tensor, rounding: RoundingError) -> None:
        """sizes: of each constraint's coefficients and threshold."""
        if self.objective.input_coefficients.shape[3]:
            sizes = sizes + self.objective.input_coefficients.abs() @ rounding.magnitudes[0]
        rounding.add_size((1 + self.count / 64) * (part * sizes).sum(2))

    def values(self, output: Tensor, x: Float[Tensor, "batch objectives inputs"]) -> Part:
        """`C y + E x - d` of every constraint: the supergradient of the weights."""
        output = output.reshape(self.domain.batch, x.shape[1], 1, -1)
        values = (self.objective.coefficients * output).sum(3) - self.objective.thresholds
        if self.objective.input_coefficients.shape[3]:
            values = values + (self.objective.input_coefficients * x[:, :, None, :]).sum(3)
        return values

    def lagrangian(
        self, part: Part, gradient: Part, values: dict[int, Tensor]
    ) -> Float[Tensor, "batch objectives"]:
        """The objective at the primal point, `values` by node."""
        return (part * gradient).sum(2)


class Single(Simplex):
    """One constraint, whose weight is 1."""

    moves = False

    def project(self, part: Part) -> Part:
        return torch.ones_like(part)

    def cotangents(self, part: Part) -> Cotangents:
        found = {self.domain.node: self.objective.coefficients[:, :, 0]}
        if self.objective.input_coefficients.shape[3]:
            found[0] = self.objective.input_coefficients[:, :, 0]
        return found

    def charge(self, part: Part, rounding: RoundingError) -> None:
        rounding.add(self.objective.coefficients[:, :, 0], self.domain.node)
        self._charge(part, self.objective.thresholds.abs(), rounding)


class OutputConstrained(Simplex):
    """Free weights w >= 0, beside an objective `coefficients . z` on the values z of an earlier node."""

    def __init__(
        self,
        domain: Domain,
        objective: Objective,
        node: int,
        coefficients: Float[Tensor, "batch objectives size"],
    ) -> None:
        super().__init__(domain, objective)
        self.node, self.coefficients = node, coefficients

    def select(self, index: Tensor, domain: Domain) -> OutputConstrained:
        objective, coefficients = self.objective.select(index), self.coefficients[index]
        return OutputConstrained(domain, objective, self.node, coefficients)

    def project(self, part: Part) -> Part:
        return part.clamp(min=0)

    def unit(self, part: Part, sweep: Sweep) -> Tensor:
        """What they are together when an ascent begins."""
        return torch.ones_like(part).mul_(part.sum(2, keepdim=True))

    def direction(self, part: Part, gradient: Part) -> Part:
        return gradient

    def cotangents(self, part: Part) -> Cotangents:
        found = super().cotangents(part)
        known = found.get(self.node)
        found[self.node] = self.coefficients if known is None else known + self.coefficients
        return found

    def constant(self, part: Part, cotangents: Cotangents) -> Tensor:
        value = dot(
            (part[..., None] * self.objective.coefficients).sum(2), self.domain.offsets[self.domain.node]
        )
        value = value + self.coefficients @ self.domain.network.offsets[self.node]
        return value - (part * self.objective.thresholds).sum(2)

    def charge(self, part: Part, rounding: RoundingError) -> None:
        rounding.add(self.coefficients, self.node)
        super().charge(part, rounding)

    def lagrangian(self, part: Part, gradient: Part, values: dict[int, Tensor]) -> Tensor:
        value = values[self.node].reshape(*self.coefficients.shape)
        return (part * gradient).sum(2) + (self.coefficients * value).sum(2)


def constraints(domain: Domain, objective: Objective) -> Simplex:
    """The term of an objective's weights."""
    return (Single if objective.thresholds.shape[2] == 1 else Simplex)(domain, objective)
