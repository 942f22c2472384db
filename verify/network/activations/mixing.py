"""Activations whose outputs each depend on many of their variables: products of matrices, softmax.

Made of elementary operators, a product of an m x k and a k x n matrix has m k n products of two variables, and a softmax of n
values n (n - 1) exponentials. Here the m k + k n, or n, values themselves are the variables, with bounds and splits of their own,
and lines are matrices. There is one line for each sign of an output's cotangent: nothing is free.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from verify.network.activations.base import Activation, Hull, LinearRelaxation


class MixingHull(Hull):
    """The lines of a mixing activation on a box, which a `MixedLine` applies. Without parameters unless a subclass has some."""

    def initial(self) -> Tensor:
        return self.lower[..., :0]

    @property
    def alpha_range(self) -> tuple[Tensor, Tensor]:
        return self.lower[..., :0], self.lower[..., :0]

    def line(self, t: Tensor, alpha: Tensor) -> LinearRelaxation:
        return MixedLine(self, t)

    def gradient(self, t: Tensor, gap: Tensor, out: Tensor) -> None:
        """No parameters."""

    @abstractmethod
    def first(self) -> MixingHull:
        """The same without the axis of objectives."""

    @abstractmethod
    def vjp(
        self, t: Float[Tensor, "*batch post"], shifts: Float[Tensor, "*batch pre"] | None
    ) -> Float[Tensor, "*batch pre"]:
        """The outputs' cotangent carried back along the lines of its signs, that are shifted where there is something to shift."""

    @abstractmethod
    def along(
        self, t: Float[Tensor, "*batch post"], z: Float[Tensor, "*batch pre"], shifts: Tensor | None
    ) -> Float[Tensor, "*batch post"]:
        """The linear parts at `z` of the lines for t's signs."""

    @abstractmethod
    def intercept(
        self, t: Float[Tensor, "*batch post"], shifts: Tensor | None
    ) -> Float[Tensor, "*batch post"]:
        """The constants of the lines for t's signs; what rounding they do not hold is charged by `size`."""

    def apply(self, t: Tensor, z: Tensor, shifts: Tensor | None) -> Tensor:
        """The lines' values at `z`."""
        return self.intercept(t, shifts) + self.along(t, z, shifts)


class MixedLine(LinearRelaxation):
    """The lines of a mixing activation for cotangents `t`: matrices, so that `slope` means nothing here."""

    def __init__(self, hull: MixingHull, t: Tensor, shifts: Tensor | None = None) -> None:
        super().__init__(t, lambda: hull.intercept(t, shifts), 0.0)
        self.hull, self.t, self.shifts = hull, t, shifts

    def vjp(self, t: Tensor) -> Tensor:
        return self.hull.vjp(t, self.shifts)

    def along(self, z: Tensor) -> Tensor:
        return self.hull.along(self.t, z, self.shifts)

    def apply(self, z: Tensor) -> Tensor:
        return self.hull.apply(self.t, z, self.shifts)

    def first(self) -> LinearRelaxation:
        return MixedLine(self.hull.first(), self.t[:, 0], None if self.shifts is None else self.shifts[:, 0])


class Mixing(Activation):
    """An activation that relaxes by a `MixingHull`.

    Its minimum over a box is that of its lines: a bound of the true one, which only corners without number would tell.
    """

    alphas_per_neuron = 0
    unit_alpha = True
    curved = False  # no one split among many helps much
    joins = True
    mixes = True
    listed = False

    def minimum_on(
        self, hull: Hull, t: Tensor, rho: Tensor, line: LinearRelaxation | None = None
    ) -> tuple[Tensor, Tensor]:
        assert isinstance(hull, MixingHull)
        line = MixedLine(hull, t, line.shifts if isinstance(line, MixedLine) else None)
        minimiser = torch.where(line.vjp(t) > rho, hull.lower, hull.upper)
        return minimiser, line.apply(minimiser)

    def minimise(self, t: Tensor, rho: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        return self.minimum_on(self.hull(lower, upper), t, rho)[0]

    def beside(self, t: Tensor, pre_size: int) -> Tensor:
        return t.mean(-1, keepdim=True).expand(*t.shape[:-1], pre_size)
