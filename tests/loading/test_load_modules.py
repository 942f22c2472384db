"""torch.nn.Module: the network against the module itself, and against the same module through ONNX."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from test_load_operators import check_adjoints
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from verify.errors import ModelError, UnsupportedOperatorError
from verify.loading import load

SHAPE = (1, 3, 6, 6)


class Function(nn.Module):
    """A module that is one function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Residual(nn.Module):
    """Convolutions with batch normalisation, a shortcut and a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, stride=2), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Linear(4, 5)
        norms: list[Any] = [self.first[1], self.norm]
        for norm in norms:
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.norm(self.second(x))
        y += x
        result: Tensor = self.last(F.adaptive_avg_pool2d(F.relu(y), 1).view(y.size(0), -1))
        return result


class Functional(nn.Module):
    """Functions of parameters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kernel = nn.Parameter(torch.randn(3, 3, 2, 2) / 4)
        self.matrix = nn.Parameter(torch.randn(6, 6) / 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv_transpose2d(
            F.conv2d(x, self.kernel, padding=(1, 0)), self.kernel, stride=1, padding=(1, 0)
        )
        x = F.dropout(x, 0.5, training=self.training)
        return F.linear(x @ self.matrix + torch.matmul(self.matrix, x), self.matrix) @ x


MODULES: dict[str, nn.Module] = {
    "functional": Functional(),
    "residual": Residual(),
    "dense": nn.Sequential(
        nn.Flatten(), nn.Linear(108, 7), nn.Tanh(), nn.Dropout(), nn.Linear(7, 2), nn.Sigmoid()
    ),
    "pools": nn.Sequential(nn.MaxPool2d(3, 2, padding=1), nn.LeakyReLU(0.1), nn.AvgPool2d(2, 1, padding=1)),
    "ceil": nn.Sequential(nn.AvgPool2d(4, 3, ceil_mode=True, count_include_pad=False), nn.ReLU6()),
    "same": nn.Sequential(nn.Conv2d(3, 2, 2, padding="same"), nn.PReLU(2, init=0.3), nn.Hardtanh(-0.5, 0.5)),
    "deconvolution": nn.Sequential(nn.ConvTranspose2d(3, 2, 3, 2, output_padding=1), nn.Hardsigmoid()),
    "padding": nn.Sequential(nn.ZeroPad2d((1, 0, 2, 1)), nn.ReflectionPad2d(1), nn.ConstantPad2d(1, 0.5)),
    "pixels": nn.Sequential(nn.Conv2d(3, 4, 1), nn.PixelShuffle(2), nn.Unflatten(1, (1, 1))),
}
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "arithmetic": lambda x: 2 - (x * 3 + 1) / 4 - x,
    "cat and stack": lambda x: torch.stack([torch.cat([x, -x], dim=1), torch.cat([x, x], 1)], dim=-1),
    "chunks": lambda x: x.chunk(2, dim=2)[1] + x[:, :, :3],
    "indexing": lambda x: x[:, 1, ..., ::2].flip(2),
    "means": lambda x: x.mean(dim=(2, 3)) + x.sum(-1, keepdim=True).sum((2, 3)),
    "maxima": lambda x: (
        torch.maximum(x, x.mean()) + torch.minimum(x, torch.tensor(0.2)) + x.amax((2, 3), keepdim=True)
    ),
    "products": lambda x: x * x.transpose(2, 3) + x**2 + x.square(),
    "shapes": lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, 3).unsqueeze(0).expand(2, -1, -1, -1),
    "clamps": lambda x: x.clamp(min=0).clamp(max=1) + torch.clamp(x, -1, 1) + x.abs() + x.relu(),
    "pools": lambda x: F.max_pool2d(x, 2) + F.avg_pool2d(x, 2, stride=2),
    "pad": lambda x: F.pad(F.pad(x, (1, 2)), (1, 0, 1, 0), mode="replicate"),
}


def agree(module: nn.Module) -> None:
    loaded = load(module, example_input=torch.zeros(SHAPE))
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = torch.stack([module.eval()(sample).flatten() for sample in x]).numpy()
    np.testing.assert_allclose(loaded.evaluate(x.flatten(1).numpy()), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(loaded.network.forward(x.double()).numpy(), expected, rtol=1e-4, atol=1e-4)
    check_adjoints(loaded)


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize("name", MODULES)
def test_module(name: str) -> None:
    agree(MODULES[name])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name: str) -> None:
    agree(Function(FUNCTIONS[name]))


@pytest.mark.parametrize("name", ["residual", "dense", "pools"])
def test_the_same_through_onnx(name: str) -> None:
    module = MODULES[name].eval()
    file: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.zeros(SHAPE),), file, dynamo=False, opset_version=17)
    through_onnx, direct = load(file.getvalue()), load(module, torch.zeros(SHAPE))
    x = torch.randn(4, *SHAPE, dtype=torch.float64)
    torch.testing.assert_close(
        through_onnx.network.forward(x), direct.network.forward(x), rtol=1e-6, atol=1e-6
    )
    assert len(through_onnx.network.layers) == len(direct.network.layers)
    assert through_onnx.network.variables == direct.network.variables


def test_the_module_is_left_alone() -> None:
    module: Any = nn.Sequential(nn.Flatten(), nn.Linear(108, 2)).train()
    loaded = load(module, torch.zeros(SHAPE))
    before = loaded.evaluate(np.ones(108, dtype=np.float32))
    assert module.training and module[1].weight.dtype == torch.float32
    nn.init.zeros_(module[1].weight)
    np.testing.assert_array_equal(loaded.evaluate(np.ones(108, dtype=np.float32)), before)


def test_complaints() -> None:
    with pytest.raises(ModelError, match="example_input"):
        load(nn.Linear(2, 2))
    with pytest.raises(UnsupportedOperatorError, match="sinh"):
        load(Function(torch.sinh), torch.zeros(1, 3))
    broken = nn.Linear(2, 2)
    nn.init.constant_(broken.bias, float("nan"))
    with pytest.raises(ModelError, match="bias"):
        load(broken, torch.zeros(1, 2))
    with pytest.raises(ModelError, match="float16"):
        load(nn.Linear(2, 2).half(), torch.zeros(1, 2))

    def branching(x: Any) -> Any:
        return x if x.sum() > 0 else -x

    with pytest.raises(ModelError, match="trace"):
        load(Function(branching), torch.zeros(1, 2))


class Attending(nn.Module):
    """Attention of a sequence to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        attended: Tensor = self.inner(x, x, x, need_weights=False)[0]
        return attended


class Remembering(nn.Module):
    """The last state of a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LSTM(6, 3, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.inner(x)[0]
        return states[:, -1]


EXPORTED: dict[str, Callable[[], nn.Module]] = {
    "attention": Attending, "recurrent": Remembering, "encoder": lambda: nn.TransformerEncoderLayer(6, 2, 8, batch_first=True),
    "interpolation": lambda: nn.Sequential(Function(lambda x: F.interpolate(x, scale_factor=2, mode="linear"))),
    "parametrised": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 4)), nn.GLU(), nn.CELU()),
    "norm": lambda: Function(lambda x: F.normalize(x, dim=2) + x.norm(dim=1, keepdim=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPORTED)
def test_exported_module(name: str) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(EXPORTED[name]()).eval()
    shape = (1, 4, 6)
    loaded = load(module, example_input=torch.zeros(shape), box=(np.full(24, 0.1), np.full(24, 2.0)))
    x = 0.1 + 1.9 * torch.rand(3, *shape)
    with torch.no_grad():
        expected = torch.cat([module(sample).flatten(1) for sample in x]).numpy()
    np.testing.assert_allclose(loaded.network.forward(x.double()).numpy(), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(loaded.evaluate(x.flatten(1).numpy()), expected, rtol=1e-5, atol=1e-5)


def test_a_value_that_the_exporter_would_fix_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    def fixing(x: Tensor) -> Tensor:
        return x * float(x.sum()) if torch.jit.is_tracing() else F.glu(x)

    with pytest.raises(UnsupportedOperatorError, match="glu"):
        load(Function(fixing), example_input=torch.zeros(1, 4))
    with pytest.raises(UnsupportedOperatorError, match="glu"):  # which would drop as well
        load(Function(lambda x: F.dropout(F.glu(x), 1e-6)), example_input=torch.zeros(1, 4))
    with pytest.raises(UnsupportedOperatorError, match="training"):
        load(Function(lambda x: F.dropout(x, 1e-6)), example_input=torch.zeros(1, 4))
    with pytest.raises(UnsupportedOperatorError, match="Threshold"):
        load(nn.Sequential(nn.Threshold(0.1, 0.0)), example_input=torch.zeros(1, 4))
    assert not "".join(capfd.readouterr())
