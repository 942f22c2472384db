"""The operator oracle: all that bounding, branching and checking know of an activation.

For cotangents `t` (of the outputs) and `rho` (of the inputs) the Lagrangian of method.md part 2 asks for

    m(t, rho; l, u) = min_{l <= z <= u}  t sigma(z) - rho z ,

and for `rho = s t` that minimum is `t * intercept`, with the line `s z + intercept` supporting `sigma` on `[l, u]` from
below where t > 0, from above where t < 0. An activation restricted to a box of pre-activations is a `Hull`; it turns
free slope parameters into such lines. Any slope gives a sound line, because the intercept is computed from it.

Everything here works on the last, flattened axis; leading axes broadcast (subproblems x rows).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class LinearRelaxation:
    """Supporting lines `slope * z + intercept`, and where they touch the activation.

    slope, touch: [*batch, pre] (touch may be one number); intercept: [*batch, post], worked out when first asked for. An output
    of `copies` operands has its first operand in the first part of the axis of pre-activations, and so on.
    """

    def __init__(
        self,
        slope: Tensor,
        intercept: Tensor | Callable[[], Tensor],
        minimiser: Tensor | float,
        copies: int = 1,
    ) -> None:
        self.slope, self._intercept, self.minimiser, self.copies = slope, intercept, minimiser, copies

    @property
    def intercept(self) -> Tensor:
        if not isinstance(self._intercept, Tensor):
            self._intercept = self._intercept()
        return self._intercept

    def vjp(self, t: Float[Tensor, "*batch post"]) -> Float[Tensor, "*batch pre"]:
        """The outputs' cotangent carried back to the pre-activations."""
        return self.slope * spread(t, self.copies)

    def along(self, z: Float[Tensor, "*batch pre"]) -> Float[Tensor, "*batch post"]:
        """`slope * z`, added up over each output's operands."""
        moved = self.slope * z
        return moved if self.copies == 1 else moved.unflatten(-1, (self.copies, -1)).sum(dim=-2)

    def apply(self, z: Float[Tensor, "*batch pre"]) -> Float[Tensor, "*batch post"]:
        """The lines' values at pre-activations `z`."""
        if self.copies == 1:
            return torch.addcmul(self.intercept, self.slope, z)
        return self.intercept + self.along(z)

    def first(self) -> LinearRelaxation:
        """The lines of the first objective: [batch, objectives, size] becomes [batch, size]."""
        minimiser = self.minimiser[:, 0] if isinstance(self.minimiser, Tensor) else self.minimiser
        return LinearRelaxation(self.slope[:, 0], self.intercept[:, 0], minimiser, self.copies)


class Hull(ABC):
    """An activation on a box of pre-activations: what relaxes it there."""

    lower: Float[Tensor, "*batch pre"]
    upper: Float[Tensor, "*batch pre"]

    @property
    def span(self) -> Float[Tensor, "*batch parameters"] | None:
        """How far each parameter ranges, the unit of its steps; None where all range over [0, 1]."""
        return None

    @abstractmethod
    def initial(self) -> Float[Tensor, "*batch parameters"]:
        """CROWN's slopes: those of the lines closest to the activation in the middle of the box."""

    @property
    @abstractmethod
    def alpha_range(self) -> tuple[Float[Tensor, "*batch parameters"], Float[Tensor, "*batch parameters"]]:
        """The least and the greatest valid parameters; `line` takes only such."""

    def clamp(self, alpha: Float[Tensor, "*batch parameters"]) -> Float[Tensor, "*batch parameters"]:
        """The nearest valid parameters."""
        return alpha.clamp(*self.alpha_range)

    @abstractmethod
    def line(
        self, t: Float[Tensor, "*batch post"], alpha: Float[Tensor, "*batch parameters"]
    ) -> LinearRelaxation:
        """The supporting line that matters for the sign of `t`: `t sigma(z) >= t (slope z + intercept)` on the box."""

    def value(self, t: Float[Tensor, "*batch post"], line: LinearRelaxation) -> Float[Tensor, "*batch"]:
        """`sum t * intercept` over the layer."""
        return (t * line.intercept).sum(-1)

    def size(self, t: Float[Tensor, "*batch post"]) -> Float[Tensor, "*batch"] | None:
        """The sizes of the terms of a line's own sums, to charge their rounding by; None where it sums nothing up."""
        return None

    @abstractmethod
    def gradient(
        self,
        t: Float[Tensor, "*batch post"],
        gap: Float[Tensor, "*batch pre"],
        out: Float[Tensor, "*batch parameters"],
    ) -> None:
        """Writes the supergradient with respect to the parameters, given `gap = A(y) + bias - touch` (method.md 3.3)."""


class Activation(ABC):
    """An activation as an oracle. Subclasses are final; one file each."""

    name: ClassVar[str]
    # how models spell it where it has no settings: ONNX's operator by name, torch's functions and modules
    spellings: ClassVar[tuple[Any, ...]] = ()
    listed: ClassVar[bool] = True  # whether it is among ACTIVATIONS, which share one contract
    alphas_per_neuron: ClassVar[int] = 2
    unit_alpha: ClassVar[bool] = False  # whether they all range within [0, 1]
    curved: ClassVar[bool] = True  # whether splits can go on helping for ever (False: piecewise linear)
    flat: ClassVar[bool] = False  # whether its derivative is 0 wherever it has one
    joins: ClassVar[bool] = False  # whether an output has several operands
    mixes: ClassVar[bool] = False  # whether outputs depend on many variables each (see mixing.py)
    # into how many groups the outputs fall that add up to 1 each, one group after the other; 0: they do not
    sums_to_one: int = 0
    # whether values at numbers may be no numbers, or larger than all numbers of their precision
    overflows: ClassVar[bool] = False
    # whether it matters much on which side of 0 arguments are
    sided: ClassVar[bool] = False
    # where the function is defined; a pole at an end counts as inside
    domain: ClassVar[tuple[float, float]] = (-math.inf, math.inf)

    def post_size(self, pre_size: int) -> int:
        """How many outputs there are for `pre_size` inputs."""
        return pre_size

    @abstractmethod
    def forward(self, z: Float[Tensor, "*batch pre"]) -> Float[Tensor, "*batch post"]:
        """sigma(z)."""

    def surrogate_slope(self, z: Float[Tensor, "batch pre"]) -> Float[Tensor, "batch pre"] | None:
        """A derivative for descents through steps, of an activation with an output for each variable; None for its own."""
        return None

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of the outputs, rounded outward; by default those of a non-decreasing function computed exactly."""
        return self.forward(lower), self.forward(upper)

    def coarse(self, lower: Tensor, upper: Tensor) -> Bool[Tensor, "*batch pre"] | None:
        """Where on a box nothing but the outputs' interval is known; None: nowhere, on any."""
        return None

    def undefined(self, lower: Tensor, upper: Tensor) -> Bool[Tensor, "*batch pre"]:
        """Where the function is defined nowhere on an interval."""
        least, most = self.domain
        return (upper < least) | (lower > most)

    @abstractmethod
    def hull(self, lower: Float[Tensor, "*batch pre"], upper: Float[Tensor, "*batch pre"]) -> Hull:
        """The activation restricted to `[lower, upper]`."""

    @abstractmethod
    def minimise(self, t: Tensor, rho: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """A minimiser z* of `t sigma(z) - rho z` over the box."""

    def minimum_on(
        self, hull: Hull, t: Tensor, rho: Tensor, line: LinearRelaxation | None = None
    ) -> tuple[Tensor, Tensor]:
        """z* and x* on the hull's box whose `t x* - rho z*` is the minimum (or no more than it): `minimise`, and sigma there.

        `line`: the slopes in play beside `rho`, for activations that go by them.
        """
        lower, upper, _ = torch.broadcast_tensors(hull.lower, hull.upper, rho)
        minimiser = self.minimise(t, rho, lower, upper)
        return minimiser, self.forward(minimiser)

    def beside(self, t: Float[Tensor, "*batch post"], pre_size: int) -> Float[Tensor, "*batch pre"]:
        """The outputs' cotangents, or their sizes, beside each output's operands."""
        return spread(t, pre_size // t.shape[-1])

    @abstractmethod
    def split_point(self, lower: Float[Tensor, "*batch pre"], upper: Float[Tensor, "*batch pre"]) -> Tensor:
        """Where to split each variable so that both sides relax better; NaN where a split gains nothing."""

    def jumps(self, lower: float, upper: float, most: int = 1024) -> list[float]:
        """Where its value jumps between two numbers, in either order; none where that is more than `most` times."""
        return []

    def split_ends(self, value: Float[Tensor, "*batch"]) -> tuple[Tensor, Tensor]:
        """Where the lower side of a split at `value` ends and the upper one begins, in float64, whose numbers none is lost of."""
        return value, value

    def relaxation_loss(
        self, t: Tensor, line: LinearRelaxation, z: Tensor, lower: Tensor, upper: Tensor
    ) -> Float[Tensor, "*batch pre"]:
        """What each variable's line loses against sigma at the primal point `z`; -inf where no split helps.

        A primal point knows nothing of splits: what is nearest to it of each interval counts.
        """
        z = z.clamp(lower, upper)
        gap = t * (self.forward(z) - line.slope * z - line.intercept)
        return torch.where(self.split_point(lower, upper).isnan(), -torch.inf, gap.clamp(min=0))

    def split_scores(
        self, t: Tensor, line: LinearRelaxation, z: Tensor, bias: Tensor, lower: Tensor, upper: Tensor
    ) -> Float[Tensor, "*batch pre"]:
        """An estimate of what cutting each variable gains, in the bound's units; -inf where no split helps."""
        return self.relaxation_loss(t, line, z, lower, upper)


class ElementwiseHull(Hull):
    """A hull from `minimise` alone: two slopes a neuron, for positive and for negative `t`, in that order.

    `candidates` are slopes of sensible lines; the initial one of each sign is the candidate whose line is closest to
    the activation at the middle of the box.
    """

    def __init__(self, activation: Elementwise, lower: Tensor, upper: Tensor) -> None:
        self.activation, self.lower, self.upper = activation, lower, upper
        # any slope is sound, and where one is too steep to be held, a level line will do
        self.candidates = activation.slopes(lower, upper).nan_to_num(0.0, 0.0, 0.0)
        low, high = self.candidates.amin(dim=0), self.candidates.amax(dim=0)
        self.lowest, self.highest = torch.cat([low, low], dim=-1), torch.cat([high, high], dim=-1)

    @property
    def span(self) -> Tensor:
        return self.highest - self.lowest

    def _split(self, alpha: Tensor) -> tuple[Tensor, Tensor]:
        first, second = alpha.chunk(2, dim=-1)
        return first, second

    def _intercept(self, sign: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        minimiser = self.activation.minimise(sign, sign * slope, self.lower, self.upper)
        return self.activation.forward(minimiser) - slope * minimiser, minimiser

    def initial(self) -> Tensor:
        slopes, best = self.candidates, []
        middle = (self.lower + self.upper) / 2
        for sign in (1.0, -1.0):
            signs = torch.full_like(slopes, sign)
            intercept, _ = self._intercept(signs, slopes)
            choice = (sign * (intercept + slopes * middle)).argmax(dim=0, keepdim=True)
            best.append(slopes.gather(0, choice).squeeze(0))
        return torch.cat(best, dim=-1)

    @property
    def alpha_range(self) -> tuple[Tensor, Tensor]:
        return self.lowest, self.highest

    def line(self, t: Tensor, alpha: Tensor) -> LinearRelaxation:
        positive, negative = self._split(alpha)
        slope = torch.where(t < 0, negative, positive)  # either may be infinite
        sign = 1 - 2 * is_negative(t)
        intercept, minimiser = self._intercept(sign, slope)
        return LinearRelaxation(slope, intercept, minimiser)

    def gradient(self, t: Tensor, gap: Tensor, out: Tensor) -> None:
        positive, negative = self._split(out)
        torch.mul(t.clamp(min=0), gap, out=positive)
        torch.mul(t.clamp(max=0), gap, out=negative)


class Elementwise(Activation):
    """An activation that acts on each variable alone and relaxes by `ElementwiseHull`."""

    @abstractmethod
    def slopes(self, lower: Tensor, upper: Tensor) -> Float[Tensor, "candidates *batch pre"]:
        """Slopes of sensible supporting lines; the extreme ones limit the search."""

    def hull(self, lower: Tensor, upper: Tensor) -> Hull:
        return ElementwiseHull(self, lower, upper)

    def split_point(self, lower: Tensor, upper: Tensor) -> Tensor:
        """The middle, unless the interval is too narrow for that to mean anything."""
        return torch.where(wide(lower, upper), (lower + upper) / 2, torch.nan)

    def least(self, t: Tensor, rho: Tensor, candidates: Iterable[Tensor]) -> Tensor:
        """The candidate at which `t sigma(z) - rho z` is least, for each neuron; the first of equals."""
        first, *others = candidates
        best, least = first, t * self.forward(first) - rho * first
        for candidate in others:
            value = t * self.forward(candidate) - rho * candidate
            best = torch.where(value < least, candidate, best)
            least = torch.minimum(value, least)
        return best

    def chord_and_tangents(
        self, lower: Tensor, upper: Tensor, derivative: Callable[[Tensor], Tensor], count: int = 5
    ) -> Float[Tensor, "candidates *batch pre"]:
        """The slopes of the chord and of tangents at `count` points from end to end: usual `slopes`."""
        shares = (i / (count - 1) for i in range(count))
        tangents = [derivative(lower + (upper - lower) * share) for share in shares]
        return torch.stack([chord(lower, upper, self.forward(lower), self.forward(upper)), *tangents])


def spread(t: Tensor, copies: int) -> Tensor:
    """As many copies of the last axis, side by side."""
    return t if copies == 1 else t.repeat(*(1 for _ in t.shape[1:]), copies)


def ratio(rho: Tensor, t: Tensor) -> Tensor:
    """rho / t, the slope at which `t sigma(z) - rho z` is stationary; where t is 0 the ends alone matter."""
    return rho / torch.where(t == 0, 1.0, t)


def is_negative(values: Tensor) -> Tensor:
    """1 where values < 0, else 0.

    As a number, not a mask: on a CPU a pass of `torch.where` over unpredictable masks costs as much as twenty multiplications.
    """
    return torch.lt(values, 0, out=torch.empty_like(values))


def is_positive(values: Tensor) -> Tensor:
    """1 where values > 0, else 0."""
    return torch.gt(values, 0, out=torch.empty_like(values))


def chord(left: Tensor, right: Tensor, at_left: Tensor, at_right: Tensor) -> Tensor:
    """The slope of the chord between two points of a graph, 0 where they coincide."""
    width = right - left
    return torch.where(width > 0, (at_right - at_left) / torch.where(width > 0, width, 1.0), 0.0)


def strictly_inside(point: Tensor | float, lower: Tensor, upper: Tensor) -> Bool[Tensor, "*batch pre"]:
    """Whether `lower < point < upper`."""
    return (lower < point) & (upper > point)


def wide(lower: Tensor, upper: Tensor) -> Bool[Tensor, "*batch pre"]:
    """Whether an interval is wide enough, beside its numbers, for a split in the middle to mean anything."""
    return upper - lower > 1e-7 * torch.maximum(lower.abs(), upper.abs())
