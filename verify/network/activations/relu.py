"""ReLU. The operator that most of the time goes to, so its lines are written out by hand.

On an unstable interval the lower lines are `s z` with s in [0, 1] (the one free parameter), the upper line is the chord
`u (z - l) / (u - l)`. Split or stable neurons are linear: slope 0 or 1, no freedom. (Bunel et al. 2020, Planet
relaxation; De Palma et al. 2021, equation for the restricted dual domain.)

`split_scores` is the SR score of smart branching (Bunel et al. 2020b): with `t` fixed, deciding the neuron moves its
slope from s to 1 or to 0, which moves the bound by the bias times that change, and frees it of the intercept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verify.network.activations.base import Activation, Hull, Line, strictly_inside


class ReluHull(Hull):
    """ReLU on a box."""

    def __init__(self, lower: Tensor, upper: Tensor) -> None:
        self.lower, self.upper = lower, upper
        unstable = ~((lower >= 0) | (upper <= 0))  # so that NaN counts as unstable, and its lines are NaN
        active = (lower >= 0).to(lower.dtype)
        self.chord = torch.where(unstable, upper / torch.where(unstable, upper - lower, 1.0), active)
        self.intercept = torch.where(unstable, -self.chord * lower, 0.0)
        self.lowest = torch.where(unstable, 0.0, active)
        self.highest = torch.where(unstable, 1.0, active)

    def initial(self) -> Tensor:
        return torch.where(self.upper > -self.lower, self.highest, self.lowest)

    def clamp(self, parameters: Tensor) -> Tensor:
        return parameters.clamp(self.lowest, self.highest)

    def line(self, t: Tensor, parameters: Tensor) -> Line:
        falling = t < 0
        slope = torch.where(falling, self.chord, parameters)
        return Line(slope, lambda: torch.where(falling, self.intercept, 0.0), 0.0)

    def value(self, t: Tensor, line: Line) -> Tensor:
        return (t.clamp(max=0) @ self.intercept.mT)[..., 0]

    def gradient(self, t: Tensor, gap: Tensor) -> Tensor:
        return t.clamp(min=0).mul_(gap)


class Relu(Activation):
    """max(z, 0)."""

    name = "Relu"
    parameters_per_neuron = 1
    unit_parameters = True
    curved = False

    def forward(self, z: Tensor) -> Tensor:
        return z.relu()

    def hull(self, lower: Tensor, upper: Tensor) -> Hull:
        return ReluHull(lower, upper)

    def minimise(self, t: Tensor, rho: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        points = torch.stack(torch.broadcast_tensors(lower, upper, torch.zeros_like(t).clamp(lower, upper)))
        values = t * points.relu() - rho * points
        return points.gather(0, values.argmin(dim=0, keepdim=True)).squeeze(0)

    def split_point(self, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.where(strictly_inside(0.0, lower, upper), 0.0, torch.nan)

    def split_scores(
        self, t: Tensor, line: Line, z: Tensor, bias: Tensor, lower: Tensor, upper: Tensor
    ) -> Tensor:
        freed = -t * line.intercept
        active, inactive = bias * t * (1 - line.slope), -bias * t * line.slope
        score = torch.maximum(active, inactive) + freed
        return torch.where(strictly_inside(0.0, lower, upper), score.abs(), -torch.inf)
