"""torch.nn.Module: the network against the module itself, and against the same module through ONNX."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from nets import property_text
from patience import PATIENCE
from test_load_operators import check_adjoints
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import verify
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


# -- what is no function of one tensor, or what torch.fx does not see


class Twice(nn.Module):
    """The identity with something done to it."""

    def __init__(self, after: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2, bias=False)
        nn.init.eye_(self.linear.weight)
        self.after = after

    def forward(self, x: Tensor) -> Any:
        return self.after(self.linear(x))


def changed_under_its_name(h: Tensor) -> Tensor:
    h.clamp_(max=0.95)
    return h


def changed_through_a_view(h: Tensor) -> Tensor:
    h[:, :1].clamp_(max=0.95)
    return h


def added_under_another_name(h: Tensor) -> Tensor:
    other = h.view(1, 2)
    h += F.relu(h - 0.95)
    return other


def changed_by_an_argument(h: Tensor) -> Tensor:
    F.hardtanh(h, -5, 0.95, inplace=True)
    return h


IN_PLACE = [changed_under_its_name, changed_through_a_view, added_under_another_name, changed_by_an_argument]


@pytest.mark.parametrize("after", IN_PLACE, ids=lambda f: f.__name__)
def test_values_changed_in_place_are_not_read_as_they_were(after: Callable[[Tensor], Tensor]) -> None:
    """Below 0.95, where the two readings agree, nothing else would tell them apart."""
    with pytest.raises(ModelError, match="in place"):
        load(Twice(after), torch.zeros(1, 2), (np.zeros(2), np.full(2, 0.9)))


def test_results_of_operations_in_place_are_read() -> None:
    def after(h: Tensor) -> Tensor:
        y = F.relu_(h)
        y += 1
        y *= 2
        return y.clamp_(max=3.5)

    loaded = load(Twice(after), torch.zeros(1, 2))
    assert loaded.network.forward(torch.tensor([[-1.0, 0.5]]).double()).tolist() == [[2.0, 3.0]]


def hooked(before: bool = False) -> nn.Module:
    module = Twice(lambda h: h)
    if before:
        module.linear.register_forward_pre_hook(lambda _, given: (given[0].clamp(max=0.95),))
    else:
        module.linear.register_forward_hook(lambda _, given, result: result.clamp(max=0.95))
    return module


def overridden() -> nn.Module:
    module: Any = nn.Sequential(nn.Linear(2, 2), nn.Identity())
    module[1].forward = lambda x: x.clamp(max=0.95)
    return module


class Called(nn.Linear):
    """A layer whose call does more."""

    def __call__(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().__call__(x).clamp(max=0.95)


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: nn.Module = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
        return module


def with_complex_weights() -> nn.Module:
    module = nn.Linear(2, 2)
    module.register_buffer("phase", torch.ones(2, dtype=torch.complex64))
    return module


class Stateful(nn.Module):
    """A module that counts."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class TwoInputs(nn.Module):
    """A module of two tensors."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Optional(nn.Module):
    """A module of one tensor and perhaps another."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return x if y is None else x + y


def asking(h: Tensor) -> Tensor:
    return h.clamp(max=0.95) if isinstance(h, Tensor) else h


def asking_torch(h: Tensor) -> Tensor:
    return h.clamp(max=0.95) if torch.is_tensor(h) else h


def asking_for_a_tracer(h: Tensor) -> Tensor:
    return h if isinstance(h, fx.Proxy) else h.clamp(max=0.95)


def failing(_: Tensor) -> Tensor:
    raise LookupError("nothing here")


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "hook": (hooked, "hooks"), "hook before": (lambda: hooked(before=True), "hooks"), "forward of its own": (overridden, "past the forward"),
    "call of its own": (lambda: Called(2, 2), "past the forward"), "TorchScript": (scripted, "TorchScript"),
    "compiled": (lambda: nn.Sequential(torch.compile(nn.Linear(2, 2))), "compiled"), "parallel": (lambda: nn.DataParallel(nn.Linear(2, 2)), "DataParallel"),
    "tuple": (lambda: Twice(lambda h: (h, h)), "returns a tuple"), "dict": (lambda: Twice(lambda h: {"a": h}), "returns a dict"),
    "None": (lambda: Twice(lambda h: None), "returns a NoneType"), "numbers": (lambda: Twice(lambda h: 1.0), "returns a float"),
    "a recurrent layer": (lambda: nn.LSTM(2, 2), "returns a tuple"), "booleans": (lambda: Twice(lambda h: h > 0), "torch.bool"),
    "random": (lambda: Twice(lambda h: h + 1e-6 * torch.rand(1, 2)), "two results"), "stateful": (Stateful, "two results"),
    "two inputs": (TwoInputs, "cannot be run"), "optional inputs": (Optional, "x, y"), "raising": (lambda: Twice(failing), "nothing here"),
    "asking": (lambda: Twice(asking), "whether its values are tensors"), "asking torch": (lambda: Twice(asking_torch), "whether its values"),
    "asking for a tracer": (lambda: Twice(asking_for_a_tracer), "something else than what torch.fx sees"),
    "half": (lambda: nn.Linear(2, 2).half(), "float16"), "mixed": (lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), "float32 and"),
    "complex weights": (with_complex_weights, "phase.*complex64"), "meta": (lambda: nn.Linear(2, 2, device="meta"), "copied to the CPU"),
    "lazy": (lambda: nn.LazyLinear(2), "no shape yet"), "a class": (lambda: nn.Linear, "the class Linear"), "a function": (lambda: F.relu, "function"),
    "nothing": (lambda: None, "the model is None"), "an array": (lambda: np.zeros(2), "ndarray"), "another size": (lambda: nn.Linear(3, 2), r"cannot be run.*\[1, 2\]"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_modules_that_are_refused(name: str) -> None:
    make, said = REFUSED[name]
    with pytest.raises(ModelError, match=said):
        load(make(), torch.zeros(1, 2), (np.zeros(2), np.full(2, 0.9)))


def test_hooks_on_all_modules_are_refused() -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda _, given, result: None)
    try:
        with pytest.raises(ModelError, match="hooks on all modules"):
            load(nn.Linear(2, 2), torch.zeros(1, 2))
    finally:
        handle.remove()


def weight_normed() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(nn.Linear(6, 4))


def pruned() -> nn.Module:
    return nn.utils.prune.random_unstructured(nn.Linear(6, 4), "weight", 0.5)  # type: ignore[no-untyped-call, no-any-return]


WEIGHTS_OF_OTHERS: dict[str, Callable[[], nn.Module]] = {
    "weight norm": weight_normed, "pruning": pruned, "spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(6, 4)),
    "parametrised weight norm": lambda: parametrizations.weight_norm(nn.Linear(6, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTS_OF_OTHERS)
def test_weights_that_are_computed_of_others(name: str) -> None:
    """Also where they are not up to date: the module's own run computes them anew."""
    torch.manual_seed(0)
    module = nn.Sequential(WEIGHTS_OF_OTHERS[name](), nn.ReLU()).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    loaded = load(module, torch.zeros(1, 6))
    x = torch.randn(5, 6)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.network.forward(x.double()).float(), module(x), rtol=1e-4, atol=1e-5
        )


EXAMPLES: dict[str, Callable[[], Any]] = {
    "tensor": lambda: torch.zeros(1, 2), "gradients": lambda: torch.zeros(1, 2, requires_grad=True), "float64": lambda: torch.zeros(1, 2).double(),
    "integers": lambda: torch.zeros(1, 2, dtype=torch.int64), "bfloat16": lambda: torch.zeros(1, 2).bfloat16(), "array": lambda: np.zeros((1, 2)),
    "meta": lambda: torch.zeros(1, 2, device="meta"), "uninitialised": lambda: torch.full((1, 2), float("nan")),
}  # fmt: skip


@pytest.mark.parametrize("kind", EXAMPLES)
def test_examples_give_the_shape(kind: str) -> None:
    loaded = load(nn.Linear(2, 3), EXAMPLES[kind]())
    assert (loaded.input_shape, loaded.output_shape, loaded.element_type) == ((1, 2), (1, 3), "float32")


NO_EXAMPLES: dict[str, tuple[Callable[[], Any], str]] = {
    "none": (lambda: None, "needs an example_input"), "tuple": (lambda: (torch.zeros(1, 2),), "is a tuple"), "list": (lambda: [[0.0, 0.0]], "is a list"),
    "scalar": (lambda: torch.tensor(1.0), "batch"), "empty": (lambda: torch.zeros(1, 0), "batch"), "complex": (lambda: torch.zeros(1, 2) * 1j, "complex64"),
    "booleans": (lambda: torch.zeros(1, 2) > 0, "bool"), "text": (lambda: "x", "'x'"), "objects": (lambda: np.array([[None]]), "object"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_EXAMPLES)
def test_examples_that_are_refused(kind: str) -> None:
    make, said = NO_EXAMPLES[kind]
    with pytest.raises(ModelError, match=said):
        load(nn.Linear(2, 2), make())


def test_a_module_without_weights_has_its_examples_type() -> None:
    for dtype in (torch.float32, torch.float64):
        assert load(nn.ReLU(), torch.zeros(1, 2, dtype=dtype)).element_type == str(dtype).removeprefix(
            "torch."
        )
    assert load(nn.ReLU(), np.zeros((1, 2), np.float32)).element_type == "float32"  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="int64"):
        load(nn.ReLU(), torch.zeros(1, 2, dtype=torch.int64))


def test_nothing_of_the_module_changes() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.BatchNorm1d(3)).train()
    module[1].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    load(module, torch.zeros(1, 2))
    assert torch.equal(torch.rand(1), drawn)
    assert [part.training for part in module] == [True, False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())


def test_the_property_has_the_shape() -> None:
    """Without an example a module is read for inputs of the property's shape; where that is not its own, the message says what to give."""
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).double()
    x = np.full((1, 1, 3, 3), 0.5)
    found = [
        verify.verify(model, verify.LinfBall(x, 1e-6, 0), timeout=PATIENCE, **given).verdict
        for given in ({}, {"example_input": x})
    ]
    assert found[0] == found[1] and found[0] in ("sat", "unsat")
    with pytest.raises(ModelError, match=r"taken to be \[1, 9\].*give example_input"):
        verify.verify(model, verify.LinfBall(x.ravel(), 1e-6, 0))
    flat = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    patch = verify.Patch(np.full((2, 3), 0.5), 0)  # of images, which the module takes as rows of numbers
    assert verify.verify(flat, patch, timeout=PATIENCE).verdict in ("sat", "unsat")
    text = property_text([0.0, 0.0], [1.0, 1.0], 2, "(>= Y_0 100)")
    assert verify.verify(nn.Linear(2, 2), text, timeout=PATIENCE).verdict == "unsat"
