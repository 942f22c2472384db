"""Modules that torch.fx cannot trace: read by torch.export where their Python code asks for shapes alone, else refused."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verify.errors import ModelError, UnsupportedOperatorError
from verify.loading import load


class Looping(nn.Module):
    """As many rounds as there are inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 3:
            raise ValueError(x.shape)
        for place in range(x.shape[1]):
            x = torch.relu(self.linear(x)) + x[:, place : place + 1]
        return x


class Unpacking(nn.Module):
    """Python's own containers."""

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = x.split(1, 1)
        parts = {"positive": torch.relu(x), "rest": torch.cat(rest, 1)}
        return torch.cat([*parts.values(), first], 1)


class Attention(nn.Module):
    """Heads, of sizes that are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.keys, self.values = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, size = x.shape
        assert size == 4
        maps = (self.queries, self.keys, self.values)
        q, k, v = (f(x).view(batch, length, 2, 2).transpose(1, 2) for f in maps)
        weights = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(k.size(-1)), -1)
        return (weights @ v).transpose(1, 2).reshape(batch, length, size)


class InPlace(nn.Module):
    """Operations in place whose results are used."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        count = len(x)
        h = self.norm(self.convolution(x)).relu_()
        return F.interpolate(h, scale_factor=2).flatten(1).mean(1, keepdim=True) if count == 1 else h


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(Looping, (1, 3)), (Unpacking, (1, 3)), (Attention, (1, 3, 4)), (InPlace, (1, 2, 4, 4))],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_modules_that_ask_for_shapes(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    module = kind()
    loaded = load(module, torch.zeros(shape))
    x = torch.randn(8, *shape)
    with torch.no_grad():
        expected = torch.stack([module.eval()(one).flatten() for one in x])
    found = loaded.network.forward(x.flatten(1).double()).flatten(1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert module.train().training  # it is as it was


class Function(nn.Module):
    """A module that is one function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def trying(x: Tensor) -> Tensor:
    """What is not done with values where nobody looks."""
    try:
        return x + len(x) if float(x[0, 0]) > -9 else -x
    except Exception:
        return x * 2


def changed(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = torch.relu(x[:, 1])
    return y * len(y)


DEPEND: dict[str, Callable[[Tensor], Tensor]] = {
    "a branch": lambda x: x if x.sum() > 0 else -x,
    "a number": lambda x: x * 2 if x.abs().max().item() > -1 else x,
    "a cast": lambda x: x + int(x[0, 0] > 0),
    "numpy": lambda x: x + float(np.abs(x.detach().numpy()).max()),
    "always true": lambda x: x if torch.all(x == x) else -x,
    "a choice of entries": lambda x: x[x > 0][: len(x)].sum()[None],
    "a try": trying,
    "changed in place": changed,
}


@pytest.mark.parametrize("name", DEPEND)
def test_modules_that_depend_on_values(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Never read as if the path that an example takes were the only one; and nothing is printed."""
    with pytest.raises(ModelError, match=r"torch.fx cannot trace|something else than what torch.fx sees"):
        load(Function(DEPEND[name]), torch.full((1, 3), 0.5), (np.zeros(3), np.ones(3)))
    assert capfd.readouterr() == ("", "")


def test_operators_without_a_rule_are_named() -> None:
    with pytest.raises(UnsupportedOperatorError, match="Acos"):
        load(Function(lambda x: torch.acos(x) * len(x)), torch.zeros(1, 3))
