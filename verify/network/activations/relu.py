"""ReLU. The operator that most of the time goes to, so its lines are written out by hand.

On an unstable interval the lower lines are `s z` with s in [0, 1] (the one free parameter), the upper line is the chord
`u (z - l) / (u - l)`. Split or stable neurons are linear: slope 0 or 1, no freedom. (Bunel et al. 2020, Planet
relaxation; De Palma et al. 2021, equation for the restricted dual domain.)

`split_scores` is the SR score of smart branching (Bunel et al. 2020b): with `t` fixed, deciding the neuron moves its
slope from s to 1 or to 0, which moves the bound by the bias times that change, and frees it of the intercept.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from verify.network.activations.base import (
    Activation,
    Hull,
    LinearRelaxation,
    is_negative,
    is_positive,
    strictly_inside,
)

# ends as far from 0 as each other get slope 0, whatever rounding did to them: the checker chooses alike
TIES = 1 + 2.0**-20


def _unless_unstable(lower: Tensor, upper: Tensor) -> Tensor:
    """0 where `lower < 0 < upper`, else -inf."""
    return is_negative(lower).mul_(is_positive(upper)).reciprocal_().sub_(1).neg_()


class ReluHull(Hull):
    """ReLU on a box."""

    def __init__(self, lower: Tensor, upper: Tensor) -> None:
        self.lower, self.upper = lower, upper
        self.lowest = torch.ge(lower, 0, out=torch.empty_like(lower))
        self.highest = is_positive(upper)
        low, high = lower.clamp(max=0), upper.clamp(min=0)
        # Through (u, u), so a chord that is too flat (the clamp's) still lies above ReLU; rounding is charged with the sweep.
        self.chord = high / (high - low).clamp_(min=torch.finfo(low.dtype).tiny)
        self.intercept = torch.addcmul(high, high, self.chord, value=-1)
        # which changes nothing else, so that elsewhere nobody has to wait for the answer
        if lower.device.type != "cpu" or not bool((lower.sum() + upper.sum()).isfinite()):
            self._mend(low)

    def _mend(self, low: Tensor) -> None:
        """Infinite ends: slope 1 above a half-line that rises; over the whole real line there is nothing above: NaN."""
        rising = (self.upper == torch.inf) & (self.lower > -torch.inf)
        self.chord = torch.where(rising, 1.0, self.chord)
        self.intercept = torch.where(rising, -low, self.intercept)

    def initial(self) -> Tensor:
        return is_negative(-self.lower * TIES - self.upper).clamp(self.lowest, self.highest)

    @property
    def alpha_range(self) -> tuple[Tensor, Tensor]:
        return self.lowest, self.highest

    def line(self, t: Tensor, alpha: Tensor) -> LinearRelaxation:
        falling = is_negative(t)
        slope = torch.lerp(alpha, self.chord, falling)
        return LinearRelaxation(slope, lambda: falling * self.intercept, 0.0)

    def value(self, t: Tensor, line: LinearRelaxation) -> Tensor:
        return (t.clamp(max=0) @ self.intercept.mT)[..., 0]

    def gradient(self, t: Tensor, gap: Tensor, out: Tensor) -> None:
        torch.mul(t.clamp(min=0), gap, out=out)


class Relu(Activation):
    """max(z, 0)."""

    name = "Relu"
    spellings = (nn.ReLU, nn.functional.relu, nn.functional.relu_, torch.relu, torch.relu_)
    alphas_per_neuron = 1
    unit_alpha = True
    curved = False

    def forward(self, z: Tensor) -> Tensor:
        return z.relu()

    def hull(self, lower: Tensor, upper: Tensor) -> Hull:
        return ReluHull(lower, upper)

    def minimise(self, t: Tensor, rho: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        best = torch.zeros_like(lower).clamp(lower, upper)  # first, so that ties stay at the kink
        least = t * best.relu() - rho * best
        for point in (lower, upper):
            value = t * point.relu() - rho * point
            gain = is_negative(value - least)
            best, least = torch.lerp(best, point, gain), torch.minimum(value, least)
        return best

    def split_point(self, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.where(strictly_inside(0.0, lower, upper), 0.0, torch.nan)

    def split_scores(
        self, t: Tensor, line: LinearRelaxation, z: Tensor, bias: Tensor, lower: Tensor, upper: Tensor
    ) -> Tensor:
        inactive = bias * t * line.slope  # what the bound loses
        active = bias * t - inactive
        score = torch.maximum(active, -inactive).sub_(t * line.intercept)
        return score.abs_().add_(_unless_unstable(lower, upper))

    def relaxation_loss(
        self, t: Tensor, line: LinearRelaxation, z: Tensor, lower: Tensor, upper: Tensor
    ) -> Tensor:
        gap = t * (z.relu() - line.slope * z - line.intercept)
        return gap.clamp_(min=0).add_(_unless_unstable(lower, upper))
