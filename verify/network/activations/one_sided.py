"""An activation where an end of its interval is not known: too large to be held, or at a pole. Or where nothing else is.

Of `exp(z)` on [0, 720] float64 holds the lower end alone, of `log(z)` on [0, 1] there is only the upper one. There the lines are
constant, the interval's ends: what rests on the end that is known stays finite, and what rests on the other is
infinite, never NaN, so that it refutes nothing. All other neurons keep the lines that they have.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verify.network.activations.base import Activation, Hull, LinearRelaxation, spread


def times(t: Tensor, values: Tensor) -> Tensor:
    """Products in which 0 times infinity is 0."""
    return torch.where(t == 0, 0.0, t * values)


class OneSidedLine(LinearRelaxation):
    """Lines of which some have an infinite intercept. Points are carried on by 0 in its place: any point will do."""

    def apply(self, z: Tensor) -> Tensor:
        known = torch.where(self.intercept.isfinite(), self.intercept, 0.0)
        return known + self.along(z.nan_to_num(nan=0.0))

    def first(self) -> LinearRelaxation:
        one = super().first()
        return OneSidedLine(one.slope, one.intercept, one.minimiser, one.copies)


class OneSidedHull(Hull):
    """A hull of which some neurons' lines are constant.

    inner: the hull, with some other box for neurons whose own has an infinite end. constant, and by operand: which are.
    """

    def __init__(self, activation: Activation, lower: Tensor, upper: Tensor) -> None:
        self.activation, self.lower, self.upper = activation, lower, upper
        self.low, self.high = (end.nan_to_num(end_, torch.inf, -torch.inf) for end, end_ in zip(
            activation.interval(lower, upper), (-torch.inf, torch.inf), strict=True))  # fmt: skip
        self.copies = lower.shape[-1] // self.low.shape[-1]
        held = lower.isfinite() & upper.isfinite()
        self.constant = ~(self.low.isfinite() & self.high.isfinite())
        coarse = activation.coarse(lower, upper)
        held = held if coarse is None else held & ~coarse
        self.constant |= ~held.unflatten(-1, (self.copies, -1)).all(-2)
        self.by_operand = spread(self.constant, self.copies)
        inner_lower, inner_upper = (torch.where(self.by_operand, 1.0, end) for end in (lower, upper))
        self.inner = activation.hull(inner_lower, inner_upper)

    @property
    def span(self) -> Tensor | None:
        return self.inner.span

    def initial(self) -> Tensor:
        return self.inner.initial()

    @property
    def alpha_range(self) -> tuple[Tensor, Tensor]:
        return self.inner.alpha_range

    def line(self, t: Tensor, alpha: Tensor) -> LinearRelaxation:
        line = self.inner.line(t, alpha)
        minimiser = line.minimiser
        if isinstance(minimiser, Tensor):
            minimiser = torch.where(self.by_operand, 0.0, minimiser)
        return OneSidedLine(
            torch.where(self.by_operand, 0.0, line.slope),
            torch.where(self.constant, self._end(t), line.intercept),
            minimiser,
            line.copies,
        )

    def _end(self, t: Tensor) -> Tensor:
        """The end of the outputs' interval that matters for the sign of `t`."""
        return torch.where(t < 0, self.high, self.low)

    def value(self, t: Tensor, line: LinearRelaxation) -> Tensor:
        return times(t, line.intercept).sum(-1)

    def size(self, t: Tensor) -> Tensor | None:
        return self.inner.size(t)

    def gradient(self, t: Tensor, gap: Tensor, out: Tensor) -> None:
        self.inner.gradient(t, torch.where(self.by_operand, 0.0, gap), out)

    def minimum(self, t: Tensor, rho: Tensor, line: LinearRelaxation | None) -> tuple[Tensor, Tensor]:
        """As `minimum_on`; where lines are constant, outputs and pre-activations are taken to be free of one another."""
        z, x = self.activation.minimum_on(self.inner, t, rho, line)
        end = torch.where(rho > 0, self.upper, self.lower)
        z = torch.where(self.by_operand, torch.where(rho == 0, 0.0, end), z)
        return z, torch.where(self.constant, torch.where(t == 0, 0.0, self._end(t)), x)


def one_sided(activation: Activation, lower: Tensor, upper: Tensor, finite: bool = False) -> bool:
    """Whether some end on the box, of what goes in or of what comes out, is infinite or unknown. finite: what goes in is known to be."""
    if activation.mixes:
        return False
    if not finite and not bool((lower.sum() + upper.sum()).isfinite()):
        return True
    coarse = activation.coarse(lower, upper)
    if coarse is not None and bool(coarse.any()):
        return True
    if not activation.overflows:
        return False
    low, high = activation.interval(lower, upper)
    return not bool((low.sum() + high.sum()).isfinite())
