"""Properties in a few words: each is decided as its sentence says, witnesses are of the very region, and text is standard."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from nets import random_layers, relu_model
from torch import nn

import verify
from verify import x, y
from verify.checker.checking import check
from verify.errors import InputError
from verify.formats.vnnlib2 import Query, parse

BOX = ([0.0] * 4, [1.0] * 4)
CENTRE = torch.full((1, 4), 0.5)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


MODEL = network()
LOADED = verify.load(MODEL, CENTRE)
LABEL = int(MODEL(CENTRE).argmax())
MODEL_OF_ONE = network(1)


def decide(specification: Any, model: Any = LOADED) -> verify.Result:
    return verify.verify(model, specification, timeout=60)


def of_sum(threshold: float) -> nn.Module:
    """Label 0 where the inputs add up to less than 2 + threshold, else label 1."""
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0] * 4, [1.0] * 4]))
        layer.bias.copy_(torch.tensor([2 + threshold, 0.0]))
    return layer


# within 0.25 of the middle the sum grows by at most 0.25, 0.5 and 1
@pytest.mark.parametrize(("kind", "reach"), [("L1Ball", 0.25), ("L2Ball", 0.5), ("LinfBall", 1.0)])
def test_the_very_ball_is_decided(kind: str, reach: float) -> None:
    """None of them is answered for the box around it."""
    ball = getattr(verify, kind)
    for threshold, verdict in ((reach + 1e-3, "unsat"), (reach - 1e-3, "sat")):
        model = verify.load(of_sum(threshold), CENTRE)
        result = decide(ball(CENTRE, 0.25, 0), model)
        assert result.verdict == verdict
        if result.witness is not None:
            away = np.abs(result.witness.inputs.astype(np.float64) - 0.5)
            size = {"L1Ball": away.sum(), "L2Ball": np.sqrt((away**2).sum()), "LinfBall": away.max()}[kind]
            assert size <= 0.25 and result.witness.inputs.shape == (1, 4)


@pytest.mark.parametrize("kind", ["L1Ball", "L2Ball", "LinfBall"])
def test_clip_cuts_balls(kind: str) -> None:
    """Where inputs cannot grow, a ball of any radius is safe."""
    made = getattr(verify, kind)(CENTRE, 5.0, 0, clip=(0.0, 0.5))
    assert decide(made, verify.load(of_sum(0.01), CENTRE)).verdict == "unsat"


class Normalised(nn.Module):
    def __init__(self, model: nn.Module, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.model, self.mean, self.std = model, mean, std

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        return self.model((data - self.mean) / self.std)


@pytest.mark.parametrize("kind", ["L1Ball", "L2Ball", "LinfBall"])
def test_radii_are_of_the_data(kind: str) -> None:
    """`mean` and `std` of a ball are a layer before the model."""
    mean, std = torch.tensor([0.25, 0.5, 0.25, 0.0]), torch.tensor([0.5, 2.0, 1.0, 0.25])
    model = network(1)
    whole = Normalised(model, mean, std)
    label = int(whole(CENTRE).argmax())
    found = set()
    for epsilon in (0.02, 0.5, 2.0):
        inside = getattr(verify, kind)(CENTRE[0], epsilon, label, mean=mean, std=std)
        around = getattr(verify, kind)(CENTRE, epsilon, label)
        verdicts = (
            decide(inside, verify.load(model, CENTRE)).verdict,
            decide(around, verify.load(whole, CENTRE)).verdict,
        )
        assert verdicts[0] == verdicts[1]
        found.add(verdicts[0])
    assert found == {"sat", "unsat"}


@pytest.mark.parametrize("kind", ["L1Ball", "L2Ball", "LinfBall"])
def test_normalisation_by_any_numbers(kind: str) -> None:
    """Numbers whose products no float64 holds; counterexamples lie in the ball of the data, as far as their own rounding lets them."""
    mean, std = np.array([0.123, 0.456, 0.789, 0.1]), np.array([0.3, 0.7, 1.1, 0.9])
    model, x = verify.load(network(1), CENTRE), np.array([0.1, 0.7, 0.3, 0.9])
    label = int(MODEL_OF_ONE((torch.from_numpy((x - mean) / std)[None]).float()).argmax())
    verdicts = set()
    for epsilon in (0.01, 2.0):
        result = decide(getattr(verify, kind)(x, epsilon, label, mean=mean, std=std), model)
        verdicts.add(result.verdict)
        if result.witness is not None:
            away = np.abs(result.witness.inputs.ravel().astype(float) * std + mean - x)
            assert {"L1Ball": away.sum(), "L2Ball": np.sqrt((away**2).sum()), "LinfBall": away.max()}[
                kind
            ] <= epsilon * (1 + 1e-9)
    assert verdicts == {"sat", "unsat"}


def test_normalisation_of_channels() -> None:
    image = np.full((2, 3, 3), 0.5)
    ball = verify.LinfBall(image, 0.25, 0, mean=[0.5, 0.25], std=[0.5, 0.25], clip=(0.0, 0.625))
    lower, upper = ball.ends()
    np.testing.assert_array_equal(lower, np.stack([np.full((3, 3), -0.5), np.full((3, 3), 0.0)]))
    np.testing.assert_array_equal(upper, np.stack([np.full((3, 3), 0.25), np.full((3, 3), 1.5)]))


def test_radii_of_entries() -> None:
    lower, upper = verify.LinfBall([0.5, 0.5], [0.25, 0.0], 0).ends()
    np.testing.assert_array_equal([lower, upper], [[0.25, 0.5], [0.75, 0.5]])


@pytest.mark.parametrize("clip", [(0.0, 1.0), None])
def test_brightness_is_one_number_for_all_entries(clip: Any) -> None:
    """The sum of four entries of 0.5 c + b, each cut to the data's range."""
    room = {"brightness": 0.125, "contrast": (1.0, 1.5)}
    for threshold, verdict in ((1.5 + 1e-3, "unsat"), (1.5 - 1e-3, "sat")):
        made = verify.Brightness(CENTRE, 0, clip=clip, **room)
        result = decide(made, verify.load(of_sum(threshold), CENTRE))
        assert result.verdict == verdict
        if result.witness is not None:
            b, c = result.witness.inputs
            np.testing.assert_allclose(
                result.witness.variables["image"], np.full((1, 4), 0.5 * c + b), atol=1e-6
            )
    made = verify.Brightness(CENTRE, 0, brightness=(0.0, 0.75), clip=(0.0, 0.625))
    assert decide(made, verify.load(of_sum(0.5 + 1e-3), CENTRE)).verdict == "unsat"
    fixed = verify.Brightness(CENTRE, 0, brightness=(0.25, 0.25))
    assert decide(fixed, verify.load(of_sum(0.9), CENTRE)).verdict == "sat"


@pytest.mark.parametrize("clip", [(0.0, 1.0), None])
def test_bias_fields(clip: Any) -> None:
    """Of the sum of 2 by 2 entries of 0.5, what goes up and down over the image counts for nothing, but where it is cut; the image is the polynomials'."""
    image, far = CENTRE.reshape(1, 1, 2, 2), np.array([[0.25, 0.5], [0.5, 0.25]])
    for threshold, verdict in ((1.0 + 1e-3, "unsat"), (1.0 - 1e-3, "sat")):
        made = verify.BiasField(image, 0, order=1, contrast=far, brightness=[[0.125, 0], [0, 0]], clip=clip)
        result = decide(made, verify.load(of_sum(threshold), CENTRE))
        assert result.verdict == verdict and len(made.varied) == 5
        if result.witness is not None:
            (c, cv, cu, cuv), b = result.witness.inputs[:4], result.witness.inputs[4]
            u, v = np.array([[-1, -1], [1, 1]]), np.array([[-1, 1], [-1, 1]])
            expected = 0.5 * (c + cv * v + cu * u + cuv * u * v) + b
            if clip is not None:
                expected = expected.clip(*clip)
            np.testing.assert_allclose(result.witness.variables["image"].ravel(), expected.ravel(), atol=1e-6)


def test_a_field_of_order_0_is_one_number() -> None:
    image = np.random.default_rng(0).random((3, 4, 5))
    light = {"contrast": 0.25, "brightness": 0.125, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    field, even = verify.BiasField(image, 0, order=0, **light), verify.Brightness(image, 0, **light)
    np.testing.assert_array_equal(field.front.weight[:, ::-1], even.front.weight)
    np.testing.assert_array_equal(field.front.offset, even.front.offset)
    still = verify.BiasField(image, 0)
    assert still.varied == [(1.0, 1.0)] and str(still).startswith("Every image x, cut")
    np.testing.assert_allclose(still.ends(), [image, image], atol=1e-9)


def test_patches() -> None:
    """One pixel of 2 by 2 adds at most 0.5 to the sum, a row 1; a pixel at a given place is that pixel."""
    image = CENTRE.reshape(2, 2)
    for size, reach in (((1, 1), 0.5), ((1, 2), 1.0), ((2, 2), 2.0)):
        for threshold, verdict in ((reach + 1e-3, "unsat"), (reach - 1e-3, "sat")):
            result = decide(verify.Patch(image, 0, size), verify.load(of_sum(threshold), CENTRE))
            assert result.verdict == verdict
            if result.witness is not None:
                assert (result.witness.inputs != 0.5).sum() <= size[0] * size[1]
    placed = decide(verify.Patch(image, 0, at=(1, 0)), verify.load(of_sum(0.1), CENTRE)).witness
    assert placed is not None and np.flatnonzero(placed.inputs.ravel() != 0.5).tolist() == [2]


def sampled(
    pairs: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]], unsafe: Callable[..., Any]
) -> bool:
    """Whether some of many random pairs of inputs are unsafe."""
    one = np.random.default_rng(0).random((20_000, 4), dtype=np.float32)
    other = pairs(one)
    with torch.no_grad():
        outputs = [MODEL(torch.from_numpy(some)).numpy() for some in (one, other)]
    return bool(unsafe(one, other, *outputs).any())


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("feature", range(4))
def test_monotone(feature: int, up: bool) -> None:
    result = decide(verify.Monotone(BOX, feature, up, output=1, tolerance=0.05))

    def raised(one: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        other = one.copy()
        other[:, feature] = 1
        return other

    sign = 1 if up else -1
    assert not (result.verdict == "unsat" and sampled(raised, lambda a, b, y, w: sign * (y - w)[:, 1] > 0.06))
    if result.witness is not None:
        found = {name: value.ravel().astype(np.float64) for name, value in result.witness.variables.items()}
        assert (np.delete(found["X"], feature) == np.delete(found["U"], feature)).all()
        assert found["U"][feature] >= found["X"][feature] and sign * (found["Y"] - found["W"])[1] > 0.05
    assert result.verdict in ("sat", "unsat")


def test_fair() -> None:
    assert decide(verify.Fair(BOX, [3], margin=0.25)).verdict == "unsat"
    result = decide(verify.Fair(BOX, {3: [0.0, 1.0], 1: (0, 0.5)}))
    assert result.witness is not None
    found = {name: value.ravel() for name, value in result.witness.variables.items()}
    assert found["Y"].argmax() != found["W"].argmax()
    assert {*found["X"][[3]], *found["U"][[3]]} <= {0.0, 1.0} and {*found["X"][[1]], *found["U"][[1]]} <= {
        0.0,
        0.5,
    }
    assert (found["X"][[0, 2]] == found["U"][[0, 2]]).all()
    score = nn.Sequential(MODEL, nn.Linear(3, 1, bias=False))  # of which the sign counts
    assert decide(verify.Fair(BOX, [0, 1, 2, 3], margin=100), verify.load(score, CENTRE)).verdict == "unsat"


def test_lipschitz() -> None:
    """The sum of four inputs has the constant 4."""
    model = verify.load(of_sum(0.0), CENTRE)
    assert decide(verify.Lipschitz(BOX, 4.0, slack=0.01), model).verdict == "unsat"
    assert decide(verify.Lipschitz(BOX, 3.9, slack=0.01), model).verdict == "sat"


def test_output_range() -> None:
    model = verify.load(of_sum(0.0), CENTRE)  # outputs 2 and from 0 to 4
    assert decide(verify.OutputRange(BOX, -0.01, 4.01), model).verdict == "unsat"
    assert decide(verify.OutputRange(BOX, [2, -np.inf], [2, 3.99]), model).verdict == "sat"
    assert decide(verify.OutputRange(BOX, lower=[-10, 0.01]), model).verdict == "sat"


EXPRESSIONS: dict[str, tuple[Callable[[], Any], bool]] = {  # of y = (2, the sum of x), and whether they hold everywhere
    "above": (lambda: y[1] + 1e-3 >= x[0] + x[1] + x[2] + x[3], True), "below": (lambda: 2 * x[0] - 1e-3 < y[1] + x[0], True),
    "or": (lambda: (y[1] <= 2.5) | (x[0, 0] > 0.25) | (x[0, 1] + x[2] >= 0.5), True), "and": (lambda: (y[1] <= 2) & (y[0] >= 1), False),
    "not": (lambda: ~(y[1] > 4.01), True), "product": (lambda: y[1] * y[1] <= 16.1, True), "mixed": (lambda: -(x[0] * y[1]) + 3 >= 0, False),
    "unequal": (lambda: (y[1] != 5) & ~(y[1] == 6), True), "numbers": (lambda: np.float64(2) * y[0, 0] - np.float32(1) <= torch.tensor(3.5), True),
}  # fmt: skip


@pytest.mark.parametrize("kind", EXPRESSIONS)
def test_expressions(kind: str) -> None:
    make, holds = EXPRESSIONS[kind]
    condition, model = make(), verify.load(of_sum(0.0), CENTRE)
    assert decide(verify.Always(condition, BOX), model).verdict == ("unsat" if holds else "sat")
    assert decide(verify.Never(~condition, BOX), model).verdict == ("unsat" if holds else "sat")


SENTENCES: dict[str, tuple[Callable[[], Any], str]] = {
    "linf": (lambda: verify.LinfBall(CENTRE, 0.1, 0), "Every input whose entries are all within 0.1 of x, cut to [0, 1], is given label 0: output 0 is above all others."),
    "l2": (lambda: verify.L2Ball(CENTRE, 0.1, 1, clip=None), "Every input within Euclidean distance 0.1 of x is given label 1: output 1 is above all others."),
    "l1": (lambda: verify.L1Ball(CENTRE, 0.1, 0, std=2), "Every input whose entries' differences add up to at most 0.1 from those of x, cut to [0, 1], before the model is given (x - mean) / std, is given label 0: output 0 is above all others."),
    "monotone": (lambda: verify.Monotone(BOX, 2, up=False), "For all inputs x and x' in the box (4 inputs), raising input 2 alone never raises output 0."),
    "fair": (lambda: verify.Fair(BOX, {3: [0, 1]}, 0.5), "For all inputs x and x' in the box (4 inputs) that differ in the protected input 3 (one of 0, 1) alone, no two get different classes, at least not both by more than 0.5."),
    "range": (lambda: verify.OutputRange(BOX, -1, [1, 2, 3]), "For every input in the box (4 inputs), every output lies in [-1, 3] at most (each entry has its own)."),
    "always": (lambda: verify.Always((y[0] - 2 * y[1] <= 0) | (x[0, 2] > 0.5) & ~(y[2] == 1), BOX), "For every input x in the box (4 inputs), with output y: y[0] - 2 y[1] <= 0 or (x[0, 2] > 0.5 and y[2] != 1)."),
    "specification": (lambda: verify.Specification(BOX, [[([1, 0, 0], 0.5)], [([0, 1, -2], 1)]]), "For no input in the box (4 inputs), with output y: y[0] <= 0.5 or y[1] - 2 y[2] <= 1."),
    "conjunction": (lambda: verify.Specification(BOX, [[([1, 0, 0], 0.5), ([-1, 0, 0], 0)]]), "For no input in the box (4 inputs), with output y: y[0] <= 0.5 and -y[0] <= 0."),
    "numbers": (lambda: verify.Never(100 * y[0] >= 1e12 * x[0] + 1.02 + 1e-9 * x[1], BOX), "For no input x in the box (4 inputs), with output y: 100 y[0] >= 1e+12 x[0] + 1.02 + 1e-9 x[1]."),
    "brightness": (lambda: verify.Brightness(CENTRE, 0, brightness=0.25, clip=None), "Every image x + b with one b from -0.25 to 0.25 for all its 4 entries is given label 0: output 0 is above all others."),
    "contrast": (lambda: verify.Brightness(CENTRE, 0, brightness=(0.1, 0.1), contrast=(0.5, 1)), "Every image c x + 0.1 with one c from 0.5 to 1 for all its 4 entries, cut to [0, 1], is given label 0: output 0 is above all others."),
    "field": (lambda: verify.BiasField(np.full((2, 2), 0.5), 0, contrast=[[0.1, 0.2, 0.2], [0, 0, 0], [0, 0, 0]], brightness=0.05), "Every image c x + b with c and b polynomials of u and v, which go from -1 to 1 down and across the image, with exponents up to 2: of c the constant within 0.1 of 1 and the others within 0.2 of 0 at most (each has its own); of b the constant within 0.05 of 0 and the others within 0.05 of 0, cut to [0, 1], is given label 0: output 0 is above all others."),
    "patch": (lambda: verify.Patch(np.full((2, 2), 0.5), 0, at=(0, 1)), "Every image that is x but for a patch of 1 by 1 pixels at row 0 and column 1, of any content, cut to [0, 1], is given label 0: output 0 is above all others."),
}  # fmt: skip


@pytest.mark.parametrize("kind", SENTENCES)
def test_sentences(kind: str) -> None:
    make, sentence = SENTENCES[kind]
    assert str(make()) == sentence


QUERIES: dict[str, Callable[[], Any]] = {
    "l2": lambda: verify.L2Ball(CENTRE, 0.1, 1, std=0.3), "l1": lambda: verify.L1Ball(CENTRE, 0.1, 1), "monotone": lambda: verify.Monotone(BOX, 2),
    "fair": lambda: verify.Fair(BOX, {3: [0, 1]}, 0.5), "lipschitz": lambda: verify.Lipschitz(BOX, 1, 0.1), "product": lambda: verify.Never(y[0] * x[1] >= 1, BOX),
}  # fmt: skip


@pytest.mark.parametrize("kind", QUERIES)
def test_queries_are_standard(kind: str) -> None:
    """The standard's own parser takes them."""
    text = QUERIES[kind]().text_for((1, 4), (1, 3))
    assert isinstance(parse(text), Query)
    standard = pytest.importorskip("vnnlib")
    assert standard.parse_query_string(text) is not None


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "negative L2": (lambda: verify.L2Ball(CENTRE, -1, 0), "epsilon.*-1"), "radii of L2": (lambda: verify.L2Ball(CENTRE, [0.1] * 4, 0), "one radius"),
    "zero std": (lambda: verify.LinfBall(CENTRE, 0.1, 0, std=[1, 0, 1, 1]), "std"), "std of 0": (lambda: verify.LinfBall(CENTRE, 0.1, 0, std=0), r"std, entry \[0\].*above 0"),
    "NaN mean": (lambda: verify.LinfBall(CENTRE, 0.1, 0, mean=float("nan")), "mean.*nan"), "normalised": (lambda: verify.LinfBall(CENTRE - 1, 0.1, 0), "mean and std"),
    "overflow": (lambda: verify.LinfBall(CENTRE, 0.1, 0, std=1e-320), "finite"), "patch size": (lambda: verify.Patch(np.zeros((2, 2)), 0, (3, 1)), "size.*3"),
    "patch place": (lambda: verify.Patch(np.zeros((2, 2)), 0, (2, 1), (1, 0)), "at.*1"), "patch of a vector": (lambda: verify.Patch([0.0, 1.0], 0), "image"),
    "patch without range": (lambda: verify.Patch(np.zeros((2, 2)), 0, clip=None), "clip"), "infinite clip": (lambda: verify.Brightness(CENTRE, 0, clip=(0, np.inf)), "infinite"),
    "patch pair": (lambda: verify.Patch(np.zeros((2, 2)), 0, 2), "pair"), "brightness": (lambda: verify.Brightness(CENTRE, 0, brightness=-0.1), "from 0 on"),
    "flat field": (lambda: verify.BiasField(np.zeros(4), 0), "image"), "field shape": (lambda: verify.BiasField(np.zeros((2, 2)), 0, contrast=[0.1, 0.2]), r"contrast has shape \[2\].*\[3, 3\]"),
    "negative field": (lambda: verify.BiasField(np.zeros((2, 2)), 0, brightness=-1), "from 0 on"), "order": (lambda: verify.BiasField(np.zeros((2, 2)), 0, 9), "order"),
    "reversed brightness": (lambda: verify.Brightness(CENTRE, 0, brightness=(0.2, 0.1)), "reversed"), "NaN contrast": (lambda: verify.Brightness(CENTRE, 0, contrast=float("nan")), "contrast.*nan"),
    "feature": (lambda: verify.Monotone(BOX, 4), "feature.*4"), "no flag": (lambda: verify.Monotone(BOX, 0, "up"), "up"), "tolerance": (lambda: verify.Monotone(BOX, 0, tolerance=-1), "tolerance"),
    "output": (lambda: verify.Monotone(BOX, 0, output=3).text_for((1, 4), (1, 3)), "output.*3"), "no protected": (lambda: verify.Fair(BOX, []), "protected"),
    "twice protected": (lambda: verify.Fair(BOX, [1, 1]), "each once"), "protected place": (lambda: verify.Fair(BOX, [9]), "protected.*9"),
    "protected values": (lambda: verify.Fair(BOX, {1: [0, 2]}), "leave the box"), "text protected": (lambda: verify.Fair(BOX, "age"), "protected"),
    "constant": (lambda: verify.Lipschitz(BOX, -1), "constant"), "no box": (lambda: verify.Lipschitz(None, 1), "box.*None"), "reversed box": (lambda: verify.Monotone((BOX[1], BOX[0]), 0), "reversed"),
    "range": (lambda: verify.OutputRange(BOX), "no end"), "reversed range": (lambda: verify.OutputRange(BOX, 1, 0), "reversed"), "NaN range": (lambda: verify.OutputRange(BOX, float("nan")), "nan"),
    "range of outputs": (lambda: verify.OutputRange(BOX, [0, 0]).text_for((1, 4), (1, 3)), "2 entries"), "beyond": (lambda: verify.OutputRange(BOX, np.inf, np.inf), "no end"),
    "chained": (lambda: 0 <= y[0] <= 1, "&"), "and": (lambda: (y[0] <= 1) and (y[1] <= 1), "&"), "iterated": (lambda: y[-1] <= 1, "index"), "all of y": (lambda: verify.Always(y <= 1, BOX), "y"),
    "text": (lambda: y[0] <= "1", "number"), "NaN": (lambda: y[0] <= float("nan"), "nan"), "constant condition": (lambda: y[0] - y[0] <= 1, "no variable"), "true": (lambda: verify.Always(True, BOX), "condition"),
    "number joined": (lambda: (y[0] <= 1) & 1, "condition"), "term joined": (lambda: verify.Always(y[0], BOX), "condition"), "no element": (lambda: verify.Always(y[3] <= 1, BOX).text_for((1, 4), (1, 3)), r"y\[3\]"),
    "no axes": (lambda: verify.Always(x[0, 0, 0] <= 1, BOX).text_for((1, 4), (1, 3)), "no element"), "other shape": (lambda: verify.Never(y[0] <= 1, BOX).text_for((1, 5), (1, 3)), "shape"),
    "float index": (lambda: y[0.5] <= 1, "index"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused(kind: str) -> None:
    make, said = REFUSED[kind]
    with pytest.raises(InputError, match=said):
        make()


def test_terms_are_not_iterated() -> None:
    for thing in (x, y[0], y[0] <= 1):
        with pytest.raises(TypeError):
            list(thing)
        with pytest.raises(TypeError):
            hash(thing)


def test_what_was_loaded_for_a_query_is_refused() -> None:
    from verify.problem import prepare

    joint = prepare(LOADED, verify.Monotone(BOX, 0)).model
    with pytest.raises(InputError, match="query"):
        decide(verify.LinfBall(CENTRE, 0.1, LABEL), joint)


CERTIFIED: dict[str, Callable[[], Any]] = {
    "ball": lambda: verify.LinfBall(CENTRE, 0.001, LABEL_OF_FILE), "range": lambda: verify.OutputRange(BOX, -100, 100),
    "never": lambda: verify.Never((y[0] >= 50) & (x[1] <= y[1]), BOX), "patch": lambda: verify.Patch(CENTRE.reshape(2, 2), LABEL_OF_FILE, clip=(0.499, 0.501)),
    "sat": lambda: verify.OutputRange(BOX, 100, 101),
}  # fmt: skip
FILE = relu_model(random_layers(7, (4, 6, 3)))
LABEL_OF_FILE = int(verify.load(FILE).evaluate(CENTRE.numpy().ravel()).argmax())


@pytest.mark.parametrize("kind", CERTIFIED)
def test_what_is_linear_is_certified(kind: str, tmp_path: Path) -> None:
    """The property's text is beside its certificate, and both are what the checker reads."""
    model, certificate = tmp_path / "model.onnx", tmp_path / "proof.cert"
    onnx.save(FILE, model)
    result = verify.verify(model, CERTIFIED[kind](), certificate=certificate, timeout=60)
    assert result.verdict == ("sat" if kind == "sat" else "unsat") and result.certificate == certificate
    assert check(certificate, model, tmp_path / "proof.cert.vnnlib").proved
    assert (
        result.account is not None
        and result.account.specification == f"{certificate}.vnnlib"
        and "proof.cert.vnnlib" in verify.report(result)
    )


def test_what_is_not_certified_takes_no_property_away(tmp_path: Path) -> None:
    """Where no certificate comes, the file beside it is what it was: the property of an earlier one, or somebody's own."""
    model, certificate = tmp_path / "model.onnx", tmp_path / "proof.cert"
    beside = tmp_path / "proof.cert.vnnlib"
    onnx.save(FILE, model)
    verify.verify(model, CERTIFIED["ball"](), certificate=certificate, timeout=60)
    before = beside.read_bytes()
    assert (
        verify.verify(model, CERTIFIED["range"](), certificate=certificate, timeout=1e-9).certificate is None
    )
    assert beside.read_bytes() == before and check(certificate, model, beside).proved
    certificate.unlink()
    assert (
        verify.verify(model, CERTIFIED["range"](), certificate=certificate, timeout=1e-9).certificate is None
    )
    assert beside.read_bytes() == before
    beside.unlink()
    assert (
        verify.verify(model, CERTIFIED["range"](), certificate=certificate, timeout=1e-9).certificate is None
    )
    assert not beside.exists()


@pytest.mark.parametrize("kind", ["L2Ball", "Brightness", "Monotone"])
def test_what_is_not_of_the_model_alone_is_certified(kind: str, tmp_path: Path) -> None:
    """With the property's files beside it, of which tests/checker/test_certified_queries.py says more."""
    model, certificate = tmp_path / "model.onnx", tmp_path / "proof.cert"
    onnx.save(FILE, model)
    asked = {
        "L2Ball": lambda: verify.L2Ball(CENTRE, 0.001, LABEL_OF_FILE),
        "Brightness": lambda: verify.Brightness(CENTRE, LABEL_OF_FILE, brightness=0.001),
        "Monotone": lambda: verify.Monotone(BOX, 0),
    }
    result = verify.verify(model, asked[kind](), certificate=certificate, timeout=60)
    assert result.verdict in ("sat", "unsat") and result.certificate == certificate
    assert {"model.onnx", "proof.cert", "proof.cert.vnnlib"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("kind", ["L1Ball", "L2Ball"])
def test_boxes_cut_nothing_off_balls(kind: str) -> None:
    """What lies farthest from the centre along one entry is in the box, whatever rounds."""
    random = np.random.default_rng(0)
    x, mean, std = random.random(200), random.random(200) * 1e3, random.random(200) + 0.1
    for epsilon in (1e-9, 0.1, 3.7):
        ball = getattr(verify, kind)(x, epsilon, 0, clip=None, mean=mean, std=std)
        lower, upper = ball.ends()
        for low, high, centre, weight in zip(lower, upper, ball.centre, std, strict=True):
            reach = Fraction(epsilon) / Fraction(weight)
            assert Fraction(low) <= Fraction(centre) - reach and Fraction(high) >= Fraction(centre) + reach
