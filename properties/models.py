"""The networks, small enough for an exact solver, and their training: seeds fixed, one thread, CPU.

Image networks are trained on adversarial points (projected gradient steps, Madry et al., ICLR 2018), so
that the radius at which a verdict turns lies well away from zero; the controller is fitted to a formula
with weight decay.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

RADIUS = 0.06
"""The L-infinity radius of adversarial training."""

TRAINING_IMAGES = 1400


class Residual(nn.Module):
    """``main(x) + skip(x)``; an absent skip is the identity."""

    def __init__(self, main: nn.Sequential, skip: nn.Sequential | None = None) -> None:
        super().__init__()
        self.main, self.skip = main, skip or nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        """Both branches, added."""
        total: Tensor = self.main(x) + self.skip(x)
        return total


def dense(sizes: list[int], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """A fully connected network."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers[:-1])


def convolution(channels: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
    """A convolution with its BatchNormalization."""
    padding = kernel // 2
    return [nn.Conv2d(channels, outputs, kernel, stride, padding, bias=False), nn.BatchNorm2d(outputs)]


def digits_fc() -> nn.Sequential:
    """64-40-40-32-10, ReLU."""
    return nn.Sequential(nn.Flatten(), *dense([64, 40, 40, 32, 10], nn.ReLU))


def digits_sigmoid() -> nn.Sequential:
    """64-24-16-10, sigmoid."""
    return nn.Sequential(nn.Flatten(), *dense([64, 24, 16, 10], nn.Sigmoid))


def digits_conv() -> nn.Sequential:
    """Two strided convolutions and two dense layers, ReLU."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        *dense([32, 32, 10], nn.ReLU),
    )


def digits_resnet() -> nn.Sequential:
    """A stem, blocks with a strided 1x1 skip and an identity skip, a dense layer; with BatchNormalization."""
    down = Residual(
        nn.Sequential(*convolution(4, 6, 3, 2), nn.ReLU(), *convolution(6, 6, 3, 1)),
        nn.Sequential(*convolution(4, 6, 1, 2)),
    )
    same = Residual(nn.Sequential(*convolution(6, 6, 3, 1), nn.ReLU(), *convolution(6, 6, 3, 1)))
    return nn.Sequential(
        *convolution(1, 4, 3, 2), nn.ReLU(), down, nn.ReLU(), same, nn.ReLU(), nn.Flatten(), nn.Linear(24, 10)
    )


def controller() -> nn.Sequential:
    """4-24-24-4, ReLU."""
    return dense([4, 24, 24, 4], nn.ReLU)


def docking_rule(state: Tensor) -> Tensor:
    """The controller's formula: state (p_x, p_y, v_x, v_y) to (thrust_x, thrust_y, speed limit, speed).

    The thrust is a proportional-derivative law with saturation; the limit grows with the distance.
    """
    position, velocity = state[:, :2], state[:, 2:]
    thrust = (-1.2 * position - 1.6 * velocity).clamp(-1.0, 1.0)
    limit = 0.2 + 0.6 * position.norm(dim=1, keepdim=True)
    return torch.cat([thrust, limit, velocity.norm(dim=1, keepdim=True)], dim=1)


def digits() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Shuffled scikit-learn digits, grey levels 0..16 as [n, 1, 8, 8], and labels."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return images[order].astype(np.int64).reshape(-1, 1, 8, 8), labels[order].astype(np.int64)


def adversarial(model: nn.Module, images: Tensor, labels: Tensor, steps: int = 5) -> Tensor:
    """Points of the ball around `images` that raise the loss."""
    moved = (images + RADIUS * (2 * torch.rand_like(images) - 1)).clamp(0, 1)
    for _ in range(steps):
        moved.requires_grad_(True)
        (slope,) = torch.autograd.grad(functional.cross_entropy(model(moved), labels), moved)
        moved = moved.detach() + RADIUS / 3 * slope.sign()
        moved = torch.minimum(torch.maximum(moved, images - RADIUS), images + RADIUS).clamp(0, 1)
    return moved


def train_digits(model: nn.Module, epochs: int) -> float:
    """Adversarial training; returns the accuracy on clean test images."""
    pixels, targets = digits()
    images, labels = torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(targets)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(TRAINING_IMAGES), 100):
            loss = functional.cross_entropy(
                model(adversarial(model, images[batch], labels[batch])), labels[batch]
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        guess = model(images[TRAINING_IMAGES:]).argmax(dim=1)
    return float((guess == labels[TRAINING_IMAGES:]).double().mean())


def train_controller(model: nn.Module, steps: int = 4000) -> float:
    """Regression on uniform states; returns the root of the mean squared error."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        state = 2 * torch.rand(256, 4) - 1
        loss = functional.mse_loss(model(state), docking_rule(state))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return float(loss.detach().sqrt())
