"""Everything on a device that is not the CPU: no tensors of two devices meet, and all bounds and verdicts are the CPU's."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import (
    DOUBLE,
    KINDS,
    Draft,
    examples,
    label,
    loaded,
    property_text,
    random_box,
    random_layers,
    random_network,
    random_objective,
    random_splits,
    relu_model,
    row_text,
    samples,
)
from patience import PATIENCE
from pretend import DEVICE, Journal, pretended

import verify
from verify.attack import Attack
from verify.bab.activations import SplitActivations
from verify.bab.inputs import SplitInputs
from verify.bab.loop import BranchAndBound
from verify.bab.progress import Silent
from verify.bounders.ascent import Iterative
from verify.bounders.decoupled import Dvijotham, SupergradientAscent
from verify.bounders.ibp import interval, magnitudes
from verify.bounders.intermediate import IntermediateBounds
from verify.bounders.proximal import Proximal
from verify.bounders.restricted import Restricted
from verify.checker.checking import check
from verify.deadline import Deadline
from verify.errors import InputError
from verify.lagrangian.dual import DualProblem
from verify.network.activations import Activation, Relu, Sigmoid
from verify.network.graph import Network
from verify.problem import Problem, prepare
from verify.request import METHODS
from verify.settings import build_search, choose_device, preset
from verify.state import Objective

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a true device")
CPU = torch.device("cpu")
BOUNDERS: tuple[Iterative, ...] = (
    Restricted(4), Restricted(4, everywhere=True), SupergradientAscent(4), Proximal(3), Dvijotham(4),
)  # fmt: skip
NO_ATTACK = Attack(restarts=1, steps=0, seconds=0.0)


@pytest.fixture
def journal() -> Iterator[Journal]:
    with pretended() as found:
        yield found


def dual_problem(network: Network, seed: int) -> DualProblem:
    """Two objectives on each of two boxes, split three times."""
    box = random_box(network, 2, seed, 0.4)
    bounds, _ = interval(network, *(end[:, : network.inputs] for end in (box.lower, box.upper)))
    bounds = IntermediateBounds().tighten(network, bounds, Deadline())
    splits, _ = random_splits(network, bounds, 3, seed)
    return DualProblem(network, splits.apply(bounds), random_objective(network, 2, 2, 2, seed), splits)


def moved(problem: DualProblem) -> DualProblem:
    """The same problem there."""
    there = DEVICE, DOUBLE
    return DualProblem(
        problem.network.to(*there),
        problem.bounds.to(*there),
        problem.objective.to(*there),
        problem.splits.to(*there),
    )


@pytest.mark.parametrize("family", ["convolution", "tangle"])
@pytest.mark.parametrize(
    "method", BOUNDERS, ids=lambda method: type(method).__name__ + "+" * getattr(method, "everywhere", False)
)
def test_every_bounder(method: Iterative, family: str, journal: Journal) -> None:
    problem = dual_problem(random_network(3, family, [Relu(), Sigmoid()]), 3)
    here, there = method.ascend(problem, problem.initial()), moved(problem)
    found = method.ascend(there, there.initial())
    assert found.bound.device == found.minimiser.device == DEVICE
    assert journal.operations
    torch.testing.assert_close(found.bound.cpu(), here.bound, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("activation", [examples(kind)[0] for kind in KINDS], ids=label)
def test_every_activation(activation: Activation, journal: Journal) -> None:
    """Intervals, intermediate bounds, q with its rounding errors counted, and an ascent."""
    network = random_network(5, "chain", [activation, Relu()])
    box = random_box(network, 2, 5, 0.3)
    inputs = slice(0, network.inputs)
    found = []
    for place in (network, network.to(DEVICE, DOUBLE)):
        ends = (end[:, inputs].to(place.device) for end in (box.lower, box.upper))
        plain, _ = interval(place, *ends)
        bounds = IntermediateBounds().tighten(place, plain, Deadline())
        problem = DualProblem(place, bounds, first_output(place, len(bounds)))
        climbed = Restricted(2).ascend(problem, problem.initial())
        found.append((bounds, problem.evaluate(climbed.state, magnitudes(place, bounds)).bound))
    (here, bound), (there, other) = found
    torch.testing.assert_close(there.lower.cpu(), here.lower, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(there.upper.cpu(), here.upper, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(other.cpu(), bound, rtol=1e-3, atol=1e-3)


def first_output(network: Network, batch: int) -> Objective:
    """It and its negative, on every box."""
    like = torch.zeros(1, dtype=DOUBLE, device=network.device)
    return Objective.both_ends(
        torch.zeros(batch, 1, dtype=torch.int64, device=network.device), network.outputs, like
    )


@pytest.mark.parametrize("method", METHODS)
def test_bounds_of_clauses(method: str, journal: Journal) -> None:
    """Also the optimised intermediate bounds before them."""
    network = random_network(2, "wide_convolution", [Relu(), Relu()])
    box = random_box(network, 1, 2, 0.4)
    text = property_text(*ends_of(network, box), network.outputs, row_text([1.0] * network.outputs, 0.0))
    problem = prepare(loaded(network), text)  # type: ignore[arg-type]
    options: dict[str, Any] = {
        "method": method,
        "iterations": None if method == "lp" else 4,
        "intermediate": "optimised",
    }
    here, there = (verify.bounds(problem.model, text, device=device, **options) for device in ("cpu", "cuda"))  # type: ignore[arg-type]
    assert journal.operations
    np.testing.assert_allclose(there.bounds, here.bounds, rtol=1e-3, atol=1e-4)


def ends_of(network: Network, box: Any) -> tuple[list[float], list[float]]:
    return tuple(end[0, : network.inputs].tolist() for end in (box.lower, box.upper))  # type: ignore[return-value]


def image() -> Network:
    """A convolution with a dense end."""
    draft = Draft(torch.Generator().manual_seed(4), (1, 1, 3, 3))
    first = draft.activation(draft.convolution(0, 4), Relu())
    last = draft.activation(draft.dense(draft.flat(first), 12), Relu())
    draft.dense(draft.activation(draft.dense(last, 10), Relu()), 3)
    return Network(tuple(draft.nodes))


def dense() -> Network:
    """Three dense layers."""
    return verify.load(relu_model(random_layers(1, (4, 12, 12, 2)))).network.to(CPU, DOUBLE)


def residual() -> Network:
    return random_network(6, "residual", [Relu(), Relu()])


NETWORKS = {"dense": dense, "image": image, "residual": residual}
# so that there is something to split
WEAK = replace(
    preset("fast"),
    output_constrained=(),
    branched=None,
    root=Restricted(1),
    optimised=IntermediateBounds(),
    triable_inputs=0,
)


def close_problem(network: Network, share: float, radius: float = 1.0) -> Problem:
    """A row whose least value on some samples is so far above the threshold, as a share of how far the samples spread."""
    box = random_box(network, 1, 1, radius)
    lower, upper = box.lower[:, : network.inputs], box.upper[:, : network.inputs]
    row = (
        torch.randn(network.outputs, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
        .mul(100)
        .round()
        / 100
    )
    values = network.forward(samples(lower, upper, 5000)[0]) @ row
    threshold = round(float(values.min() - share * (values.max() - values.min())), 6)
    return prepare(
        loaded(network),
        property_text(
            lower[0].tolist(), upper[0].tolist(), network.outputs, row_text(row.tolist(), threshold)
        ),
    )  # type: ignore[arg-type]


def searched(
    problem: Problem, splits: str, device: torch.device, attacks: bool = True
) -> tuple[Any, BranchAndBound]:
    """What a search finds that splits activations or inputs."""
    settings = WEAK if problem.model.network.variables < 30 else replace(preset("fast"), triable_inputs=0)
    settings = replace(settings, splittable_inputs=10**6 if splits == "inputs" else 0)
    if not attacks:
        settings = replace(settings, first_attack=NO_ATTACK, second_attack=NO_ATTACK)
    search = build_search(problem, settings, device, 0, Silent())
    assert isinstance(search.strategy, SplitInputs if splits == "inputs" else SplitActivations)
    return search.run(Deadline.after(PATIENCE)), search


@pytest.mark.parametrize("splits", ["activations", "inputs"])
@pytest.mark.parametrize("name", NETWORKS)
def test_searches(name: str, splits: str, journal: Journal) -> None:
    """Of problems that want splits: refuted, and of others violated, by the search alone."""
    network = NETWORKS[name]()
    for share, expected in ((0.2 if name == "image" else 0.05, "unsat"), (-0.3, "sat")):
        outcome, search = searched(close_problem(network, share), splits, DEVICE, attacks=expected == "sat")
        assert outcome.verdict == expected, outcome.reason
        assert search.network.device == DEVICE
        assert expected == "sat" or name != "dense" or outcome.progress.depth


@pytest.mark.parametrize("name", NETWORKS)
def test_attacks(name: str, journal: Journal) -> None:
    network = NETWORKS[name]()
    problem = close_problem(network, -0.1)
    there = network.to(DEVICE, DOUBLE)
    found = Attack(8, 20).run(problem, there, [0], np.random.default_rng(0), Deadline())
    assert found is not None
    assert problem.specification.violated(found.inputs.ravel(), problem.model.evaluate(found.inputs.ravel()))


LAYERS = random_layers(11, (4, 9, 9, 2))


def least(layers: Any = LAYERS) -> tuple[str, str]:
    """Texts of a property that holds by little, and of one that does not."""
    import onnxruntime

    x = np.random.default_rng(0).uniform(-1, 1, (20000, 4)).astype(np.float32)
    session = onnxruntime.InferenceSession(
        relu_model(layers).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    y = np.concatenate([session.run(None, {"X": one[None]})[0] for one in x[:2000]])
    low, high = float(y[:, 0].min()), float(y[:, 0].max())
    return tuple(
        property_text([-1.0] * 4, [1.0] * 4, 2, f"(<= Y_0 {at!r})")
        for at in (low - 0.3 * (high - low), low + 0.1 * (high - low))
    )  # type: ignore[return-value]


@pytest.mark.parametrize("few", [True, False], ids=["inputs", "activations"])
def test_certificates(few: bool, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found there is proved here."""
    from verify import settings as module

    monkeypatch.setitem(
        module._PRESETS,
        "default",
        replace(preset("default"), splittable_inputs=16 if few else 0, triable_inputs=0),
    )
    holds, fails = least()
    model, proof = tmp_path / "net.onnx", tmp_path / "proof.cert"
    model.write_bytes(relu_model(LAYERS).SerializeToString())
    for number, (text, verdict) in enumerate(((holds, "unsat"), (fails, "sat"))):
        property_ = tmp_path / f"{number}.vnnlib"
        property_.write_text(text)
        found = verify.verify(model, property_, device="cuda", certificate=proof, timeout=PATIENCE)
        assert (found.verdict, found.reason) == (verdict, found.reason)
        assert found.certificate == proof
        assert check(proof, model, property_).verdict == verdict
    assert journal.operations


def test_studies(journal: Journal) -> None:
    """Certified accuracy, radii, ranges and closed loops."""
    model = verify.load(relu_model(random_layers(3, (4, 12, 3))))
    x = np.random.default_rng(1).random((4, 4)).astype(np.float32)
    y = (
        np.array([int(model.evaluate(one).argmax()) for one in x])
        if hasattr(model, "evaluate")
        else np.zeros(4, dtype=int)
    )
    here, there = (
        verify.certify(model, x, y, epsilon=[0.02], timeout=PATIENCE, device=device)
        for device in ("cpu", "cuda")
    )
    assert [row.verdict for row in here.rows] == [row.verdict for row in there.rows]
    for method in ("interval", "crown", "restricted"):
        ranges = [
            verify.output_range(model, (x[0] - 0.1, x[0] + 0.1), method=method, device=device)
            for device in ("cpu", "cuda")
        ]
        torch.testing.assert_close(ranges[0].lower, ranges[1].lower, rtol=1e-4, atol=1e-4)
    loop = verify.load(relu_model(random_layers(5, (2, 8, 2))))
    tubes = [
        verify.reach(loop, (np.zeros(2), np.full(2, 0.1)), 3, device=device) for device in ("cpu", "cuda")
    ]
    torch.testing.assert_close(tubes[0].lower, tubes[1].lower, rtol=1e-4, atol=1e-4)
    found = [
        verify.radius(model, x[0], int(y[0]), tolerance=0.01, timeout=PATIENCE, device=device)
        for device in ("cpu", "cuda")
    ]
    assert found[0].certified == pytest.approx(found[1].certified, abs=0.02)


# devices


def test_names_of_devices() -> None:
    assert choose_device("cpu") == choose_device(CPU) == choose_device("auto") == CPU
    with pytest.raises(
        InputError, match="--device cuda: torch sees no CUDA devices; use --device cpu or auto"
    ):
        choose_device("cuda")
    with pretended(devices=2):
        assert choose_device("auto") == choose_device("cuda") == choose_device("cuda:0") == DEVICE
        assert choose_device("cuda:1") == choose_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
        with pytest.raises(InputError, match="--device cuda:9: torch sees 2 CUDA devices"):
            choose_device("cuda:9")
        for other in ("mps", "xpu", "meta", "hip", "cuda:", "cuda:-1", "cpu:1", "gpu", ""):
            with pytest.raises(
                InputError, match=re.escape("use auto, cpu, cuda, or cuda:N for one of several")
            ):
                choose_device(other)


def test_a_device_that_does_not_work_is_none() -> None:
    """Said with what the driver says; `auto` goes on without it."""

    def broken(operation: Any, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(
            "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might be"
        )

    with pretended(broken):
        with pytest.raises(
            InputError,
            match="--device cuda: CUDA error: no kernel image is available for execution on the device; use --device cpu",
        ):
            choose_device("cuda")
        assert choose_device("auto") == CPU


@pytest.mark.parametrize(("value", "works"), [("1", False), ("0", True), ("", True)])
def test_doubles_made_of_shorter_formats_are_refused(
    value: str, works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "CUBLAS_EMULATE_DOUBLE_PRECISION", value)
    with pretended():
        assert choose_device("auto") == (DEVICE if works else CPU)
        if not works:
            with pytest.raises(InputError, match="--device cuda: CUBLAS_EMULATE_DOUBLE_PRECISION is set"):
                choose_device("cuda")
