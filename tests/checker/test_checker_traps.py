"""Problems that float arithmetic gets wrong: no `unsat` where the real network is unsafe, and then no certificate either.

Truth is rational arithmetic written here: tiny networks of one or two inputs, whose optimum is at a corner or a breakpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from make_data import Files, by_hand, numbers, placed
from nets import relu_model
from onnx import TensorProto, helper, numpy_helper

import verify
from verify.checker.checking import DEPLOYED

SHARED = Path(__file__).resolve().parents[3] / "shared" / "traps"
TIMEOUT = 1.5
Array = np.ndarray[Any, Any]
Layers = Sequence[tuple[Array, Array]]
DEFAULT = numbers("<i8", 1, 0) + numbers("<f4", 1.0)


def exactly(layers: Layers, x: Sequence[Any]) -> list[Fraction]:
    """The outputs over the reals."""
    values = [Fraction(value) for value in x]
    for i, (weight, bias) in enumerate(layers):
        values = [
            sum((Fraction(float(w)) * v for w, v in zip(row, values, strict=True)), Fraction(float(b)))
            for row, b in zip(weight, bias, strict=True)
        ]
        values = values if i == len(layers) - 1 else [max(value, Fraction(0)) for value in values]
    return values


def decimal(value: Any) -> str:
    """All digits of a float: its shortest decimal is another number."""
    return format(Decimal(float(value)), "f")


def property_text(lower: Sequence[Any], upper: Sequence[Any], outputs: int, unsafe: str) -> str:
    """VNN-LIB with all digits."""
    lines = [f"(declare-const X_{i} Real)" for i in range(len(lower))]
    lines += [f"(declare-const Y_{i} Real)" for i in range(outputs)]
    for i, (low, high) in enumerate(zip(lower, upper, strict=True)):
        lines += [f"(assert (>= X_{i} {decimal(low)}))", f"(assert (<= X_{i} {decimal(high)}))"]
    return "\n".join([*lines, f"(assert {unsafe})", ""])


def decided(folder: Path, model: onnx.ModelProto | bytes, text: str, seconds: float = TIMEOUT) -> tuple[str, Files]:  # fmt: skip
    """The verdict with a certificate, which is there for `sat` and `unsat` alone, and holds."""
    folder.mkdir(exist_ok=True)
    files = placed(folder, model, text)
    files.certificate.unlink(missing_ok=True)
    try:
        result = verify.verify(
            files.model, files.property, timeout=seconds, device="cpu", certificate=files.certificate
        )
    except verify.VerifyError as problem:
        if "was read wrongly" not in str(
            problem
        ):  # float64 and ONNX Runtime differ by too much for the loader
            raise
        assert not files.certificate.exists()
        return "error", files
    assert files.certificate.exists() == (result.certificate is not None)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        {files.model.name, files.property.name} | ({files.certificate.name} if result.certificate else set())
    )
    if result.verdict == "unsat":
        assert result.certificate is not None and files.check().proved
    if result.verdict not in ("sat", "unsat"):
        assert result.certificate is None
    return result.verdict, files


def deployed_verdict(files: Files) -> str:
    """Of the network in float32; an error where the loader finds that ONNX Runtime computes something else."""
    try:
        return verify.verify(
            files.model, files.property, timeout=TIMEOUT, device="cpu", semantics=DEPLOYED
        ).verdict
    except verify.VerifyError:
        return "error"


def forged(files: Files, semantics: str = "real", **options: Any) -> bool:
    """Whether CROWN's own bound is taken for a proof."""
    by_hand(files, [("leaves_default", DEFAULT)], semantics=semantics)
    accepted = files.accepted(semantics=semantics, **options)
    files.certificate.unlink()
    return accepted


@pytest.mark.parametrize("name", ["absorb_f32", "absorb_f64"])
def test_shared_traps(name: str, tmp_path: Path) -> None:
    model, text = SHARED / f"{name}.onnx", SHARED / f"{name}.vnnlib"
    if not model.exists():
        pytest.skip("the shared traps are not here")
    verdict, files = decided(tmp_path, model.read_bytes(), text.read_text())
    assert verdict != "unsat"
    for semantics in ("real", DEPLOYED):
        for exact in (False, True):
            assert not forged(files, semantics, exact=exact)


def absorbing(dtype: Any, huge: float, depth: int = 1, sign: float = 1.0) -> list[tuple[Array, Array]]:
    """x -> x + M - M in layers, once or twice, then - 1.5."""
    one = np.ones((1, 1), dtype)
    layers = [(one, np.array([step * huge], dtype)) for _ in range(depth) for step in (1.0, -1.0)]
    return [*layers, (np.full((1, 1), sign, dtype), np.array([-1.5], dtype))]


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("huge", [1e8, 1e17, 1e30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_absorption(dtype: Any, huge: float, depth: int, tmp_path: Path) -> None:
    """Over the reals x - 1.5 on [0.1, 1], in floats a constant."""
    layers = absorbing(dtype, huge, depth)
    for number, (unsafe, violated) in enumerate((("(>= Y_0 -0.75)", True), ("(>= Y_0 -0.4)", False), ("(<= Y_0 -1.25)", True))):  # fmt: skip
        verdict, files = decided(tmp_path / str(number), relu_model(layers), property_text([0.1], [1.0], 1, unsafe), 0.8)  # fmt: skip
        assert verdict != ("unsat" if violated else "sat")
        if violated:
            for exact in (False, True):
                assert not forged(files, exact=exact)
        # what float32 computes is 0 - 1.5 or so, up to the spacing of its numbers near M
        assert not forged(files, DEPLOYED)


@pytest.mark.parametrize("huge", [1e8, 1e17, 1e30])
def test_absorption_in_batch_normalisation(huge: float, tmp_path: Path) -> None:
    """x - M + M in one operation."""
    constants = {"s": 1.0, "b": huge, "m": huge, "v": 1.0}
    tensors = [numpy_helper.from_array(np.array([value], np.float32), name) for name, value in constants.items()]  # fmt: skip
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in ("X", "Y")]
    nodes = [
        helper.make_node("BatchNormalization", ["X", *constants], ["z"], epsilon=0.0),
        helper.make_node("Relu", ["z"], ["Y"]),
    ]
    graph = helper.make_graph(nodes, "test", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    for number, (unsafe, violated) in enumerate((("(>= Y_0 0.75)", True), ("(<= Y_0 0.25)", False))):
        verdict, files = decided(tmp_path / str(number), model, property_text([0.5], [1.0], 1, unsafe), 0.8)
        assert not (violated and verdict == "unsat")
        assert not (violated and forged(files))
        assert not forged(files, DEPLOYED)


def test_folded_constants(tmp_path: Path) -> None:
    """Bug found: float32 computes (1e8 + 1) - 1e8 = 0 where the checker folds it to 1, without a charge."""
    values = {"a": 1e8, "b": 1.0, "d": 1e8}
    tensors = [numpy_helper.from_array(np.array([value], np.float32), name) for name, value in values.items()]  # fmt: skip
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in ("X", "Y")]
    nodes = [
        helper.make_node("Add", ["a", "b"], ["c"]), helper.make_node("Sub", ["c", "d"], ["e"]),
        helper.make_node("Add", ["X", "e"], ["z"]), helper.make_node("Relu", ["z"], ["Y"]),
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "test", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    files = placed(tmp_path, model, property_text([0.0], [0.25], 1, "(<= Y_0 0.5)"))
    assert deployed_verdict(files) != "unsat", "ONNX Runtime says 0 at x = 0"
    assert not forged(files, DEPLOYED)


def test_float32_overflow(tmp_path: Path) -> None:
    """Bug found: 1e30 * 1e30 * 1e-30 is 1e30 over the reals and infinite in float32."""
    none = np.zeros(1, np.float32)
    layers = [(np.array([[value]], np.float32), none) for value in (1e30, 1e30, 1e-30)]
    files = placed(tmp_path, relu_model(layers), property_text([1.0], [2.0], 1, "(>= Y_0 1e35)"))
    assert deployed_verdict(files) != "unsat", "ONNX Runtime says infinity"
    assert not forged(files, DEPLOYED)


# -- cancellation, tiny numbers


def test_cancellation(tmp_path: Path) -> None:
    """Large equal terms with a small difference: a (x + y) - a x - a y + y / 8 over two neurons that never switch."""
    for big in (1e6, 1e12, 1e17):
        first = (np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), np.array([2.0, 2.0, 2.0]))
        last = (np.array([[big, -big, -big + 0.125]]), np.array([2 * big]))
        # over the reals: big (x + y + 2) - big (x + 2) - (big - 1/8) (y + 2) + 2 big = y / 8 + 1/4 if big - 1/8 is exact
        layers = [first, last]
        corner = [exactly(layers, x)[0] for x in ((-1, -1), (-1, 1), (1, -1), (1, 1))]
        for number, slack in enumerate((Fraction(0), Fraction(1, 2**20))):
            threshold = min(corner) + slack
            if Fraction(float(threshold)) != threshold:
                continue
            text = property_text([-1.0] * 2, [1.0] * 2, 1, f"(<= Y_0 {decimal(threshold)})")
            verdict, files = decided(tmp_path / f"{big}{number}", relu_model(layers), text)
            assert verdict != "unsat", (big, slack)
            assert not forged(files)
            assert not forged(files, exact=True)


def multiplied(*factors: float, dtype: Any = np.float64) -> list[tuple[Array, Array]]:
    """One neuron a layer."""
    return [(np.array([[factor]], dtype), np.zeros(1, dtype)) for factor in factors]


@pytest.mark.parametrize("rho", ["default", "zero"])
def test_underflow(rho: str, tmp_path: Path) -> None:
    """Bug found: 1e-225 * 1e-100 is 0 in float64, and 1e300 times that is 1e-25 over the reals.

    The other example has float32 weights and the box [0, 1].
    """
    cases = (
        (multiplied(1e-225, 1e150, 1e150), 1e-100, 1e-26),
        (multiplied(*[1e-38] * 9, *[1e38] * 9, dtype=np.float32), 1.0, 0.001),
    )
    for number, (layers, upper, threshold) in enumerate(cases):
        assert exactly(layers, [upper])[0] >= Fraction(threshold)
        folder = tmp_path / str(number)
        verdict, files = decided(folder, relu_model(layers), property_text([0.0], [upper], 1, f"(>= Y_0 {decimal(threshold)})"))  # fmt: skip
        assert verdict != "unsat"
        block = ("leaves_default", DEFAULT)
        if rho == "zero":
            block = ("leaves_rho", numbers("<i8", 1, 0) + numbers("<f8", 1.0, *[0.0] * (len(layers) - 1)))
        for exact in (False, True):
            by_hand(files, [block])
            assert not files.accepted(exact=exact), (number, exact)
            files.certificate.unlink()


def test_denormals(tmp_path: Path) -> None:
    """Weights that are float32's smallest number, and inputs that float64's are."""
    tiny32, tiny64 = float(np.float32(1e-45)), 5e-324
    for number, (layers, upper) in enumerate((
        (multiplied(tiny32, 1.0, dtype=np.float32), 1.0), (multiplied(tiny32, 2.0**126, dtype=np.float32), 1.0),
        (multiplied(1.0, 1.0), tiny64), (multiplied(0.5, 2.0), tiny64), (multiplied(tiny64, 1e300), 1.0),
    )):  # fmt: skip
        most = exactly(layers, [upper])[0]
        if Fraction(float(most)) != most:
            continue
        text = property_text([0.0], [upper], 1, f"(>= Y_0 {decimal(most)})")
        verdict, files = decided(tmp_path / str(number), relu_model(layers), text)
        assert verdict != "unsat", number
        for exact in (False, True):
            assert not forged(files, exact=exact), number
            by_hand(files, [("leaves_rho", numbers("<i8", 1, 0) + numbers("<f8", 1.0, 0.0))])
            assert not files.accepted(exact=exact), number
            files.certificate.unlink()


def test_tails_of_sigmoids(tmp_path: Path) -> None:
    """Bug found: 1e38 sigmoid(x) - x / 100 is 0.94 at x = -92, where the checker says it is at least 1.99."""
    for dtype, element in ((np.float32, TensorProto.FLOAT), (np.float64, TensorProto.DOUBLE)):
        tensors = [numpy_helper.from_array(np.array([value], dtype), name) for name, value in {"a": 1e38, "b": -0.01}.items()]  # fmt: skip
        ends = [helper.make_tensor_value_info(name, element, [1, 1]) for name in ("X", "Y")]
        nodes = [
            helper.make_node("Sigmoid", ["X"], ["s"]), helper.make_node("Mul", ["s", "a"], ["u"]),
            helper.make_node("Mul", ["X", "b"], ["v"]), helper.make_node("Add", ["u", "v"], ["Y"]),
        ]  # fmt: skip
        graph = helper.make_graph(nodes, "test", ends[:1], ends[1:], tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        files = placed(tmp_path, model, property_text([-200.0], [-71.0], 1, "(<= Y_0 1.0)"))
        assert not forged(files)


# -- thresholds at the optimum


def corner_network(seed: int, dtype: Any) -> list[tuple[Array, Array]]:
    """Positive weights: the outputs grow with the inputs, so the least value is at the lower corner."""
    random = np.random.default_rng(seed)
    sizes = [2, *random.integers(1, 5, 1 + seed % 2).tolist(), 1]
    return [
        (random.random((after, before)).astype(dtype) + dtype(0.1), random.random(after).astype(dtype))
        for before, after in pairwise(sizes)
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_thresholds_at_a_corner(dtype: Any, tmp_path: Path) -> None:
    """What floats compute there, the nearest number to the exact value, and one unit either side of each.

    The property is violated exactly where the threshold is not below the exact value.
    """
    held = 0
    for seed in range(4):
        layers = corner_network(seed, dtype)
        corner = np.random.default_rng(seed).random(2).astype(dtype)
        least = exactly(layers, corner.tolist())[0]
        computed = corner
        for weight, bias in layers:
            computed = (weight @ computed + bias).astype(dtype)
        for base in {float(computed[0]), float(least)}:
            for step in (-np.inf, 0, np.inf):
                threshold = float(np.nextafter(base, step)) if step else base
                text = property_text(
                    corner.tolist(), (corner + dtype(0.5)).tolist(), 1, f"(<= Y_0 {decimal(threshold)})"
                )
                folder = tmp_path / f"{seed}{threshold!r}"
                violated = least <= Fraction(threshold)
                verdict, files = decided(folder, relu_model(layers), text, 0.6)
                if violated:
                    assert verdict != "unsat", (seed, threshold)
                    assert not forged(files)
                    assert not forged(files, exact=True)
                else:
                    held += forged(files, exact=True)
                    # a float32 library may compute a little less than the exact value
                    assert not forged(files, DEPLOYED)
    assert held, "rationals tell one unit from none"


def test_thresholds_beside_a_kink(tmp_path: Path) -> None:
    """|x - c| + c' by two ReLUs has its least value inside the box: one unit below it there is nothing."""
    for seed in range(4):
        random = np.random.default_rng(seed)
        c, up = (float(np.float32(value)) for value in random.random(2))
        layers = [
            (np.array([[1.0], [-1.0]], np.float32), np.array([-c, c], np.float32)),
            (np.ones((1, 2), np.float32), np.array([up], np.float32)),
        ]
        least = exactly(layers, [c])[0]
        assert least == Fraction(up)
        for step, violated in ((-1, False), (0, True), (1, True)):
            threshold = up if not step else float(np.nextafter(up, step * np.inf))
            text = property_text([c - 0.5], [c + 0.5], 1, f"(<= Y_0 {decimal(threshold)})")
            verdict, files = decided(tmp_path / f"{seed}{step}", relu_model(layers), text, 0.8)
            assert verdict != ("unsat" if violated else "sat"), (seed, step, verdict)
            if violated:
                assert not forged(files, exact=True)


def test_decimals_are_not_rounded(tmp_path: Path) -> None:
    """A box or a threshold between two float64 numbers: what is decided is what the text says."""
    one = multiplied(1.0, 1.0)
    tenth = Fraction(0.1)  # above 1/10
    exact_text = str(tenth.numerator * 10**60 // tenth.denominator)
    above, below = int(exact_text), int(exact_text) - 1
    for number, (low, limit, violated) in enumerate((
        ("0.1", "0.1", True), (f"0.{above:060d}", "0.1", False), ("0.1", f"0.{above:060d}", True),
        ("0.1", "0.0999999999999999999999999999999999", False), (f"0.{below:060d}", f"0.{below:060d}", True),
    )):  # fmt: skip
        text = property_text([0.0], [1.0], 1, f"(<= Y_0 {limit})").replace(">= X_0 0)", f">= X_0 {low})")
        verdict, files = decided(tmp_path / str(number), relu_model(one), text, 0.8)
        assert verdict != ("unsat" if violated else "sat"), number
        if violated:
            assert not forged(files, exact=True), number
