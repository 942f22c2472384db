"""Integers against ONNX Runtime: what is read, bounded or decided of random operators on all element types.

A model of integers is refused by name, or its network computes what ONNX Runtime does wherever that is known (comparison.py) and
all its bounds hold of what ONNX Runtime computes: so there is no `unsat` of a property that ONNX Runtime violates. Inputs
are float64 and their factors powers of two, so that nothing but integers can differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from patience import PATIENCE

from verify import verify
from verify.api import bounds
from verify.errors import ModelError, UnsupportedOperatorError
from verify.loading.comparison import integers_known
from verify.loading.loaded import LoadedModel
from verify.loading.onnx.graph import from_onnx
from verify.network.activations.integer import Integer

KINDS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
OFTEN = (1, 1, 3, 3, 2, 1, 1, 1)  # how many operators ONNX Runtime has for each
CODES = {
    kind: helper.np_dtype_to_tensor_dtype(np.dtype(kind)) for kind in (*KINDS, "bool", "float32", "float64")
}
SIZE = 3
SHIPPED = 80  # models, a few seconds' worth
METHODS = ("interval", "crown")

Session = onnxruntime.InferenceSession


@dataclass
class Draft:
    """A random model under construction: x, a cast of it to a type of integers, some operators, a cast back."""

    seed: int

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self.kind = str(self.random.choice(KINDS, p=np.array(OFTEN) / sum(OFTEN)))
        near = int(np.iinfo(self.kind).bits) - int(self.random.integers(-1, 4))
        factor = self.constant(np.float64(2.0 ** min(near, 52)))
        self.values = [self.node("Cast", [self.node("Mul", ["x", factor])], to=CODES[self.kind])]
        for _ in range(self.random.integers(1, 4)):
            self.operator()

    def node(self, operator: str, names: Sequence[str], **attributes: Any) -> str:
        """The result of a node."""
        output = f"v{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(operator, list(names), [output], name=f"the_{output}", **attributes)
        )
        return output

    def constant(self, value: Any) -> str:
        """The name of an initializer."""
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def numbers(self, *shape: int) -> str:
        """Constants of the type at hand: small, at its ends, or any."""
        info, most = np.iinfo(self.kind), 5
        low = max(int(info.min), -most)
        choices = [self.random.integers(low, most, shape, dtype=self.kind, endpoint=True)] * 3
        choices.append(self.random.choice(np.array([info.min, info.max], dtype=self.kind), shape))
        choices.append(self.random.integers(info.min, info.max, shape, dtype=self.kind, endpoint=True))
        return self.constant(choices[self.random.integers(len(choices))].astype(self.kind))

    def pick(self) -> str:
        """A value made before."""
        return str(self.random.choice(self.values))

    def operator(self) -> None:
        """One more node, or a few."""
        chosen = str(self.random.choice(list(OPERATORS)))
        self.values = [*self.values, OPERATORS[chosen](self)]
        if chosen in ("Cast", "Compare"):  # a new type: values of the old one are no operands any more
            self.values = self.values[-1:]

    def other(self) -> str:
        """A second operand."""
        return self.pick() if self.random.integers(2) else self.numbers(1, SIZE)

    def cast(self) -> str:
        """To another type of integers."""
        source, self.kind = self.pick(), str(self.random.choice(KINDS, p=np.array(OFTEN) / sum(OFTEN)))
        return self.node("Cast", [source], to=CODES[self.kind])

    def compared(self) -> str:
        """A comparison, and a cast of it."""
        operator = str(self.random.choice(["Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"]))
        found = self.node(operator, [self.pick(), self.other()])
        self.kind = str(self.random.choice(KINDS, p=np.array(OFTEN) / sum(OFTEN)))
        return self.node("Cast", [found], to=CODES[self.kind])

    def reduced(self) -> str:
        """A reduction that keeps its axis."""
        operator = str(
            self.random.choice(
                "Sum Prod Max Min L1 SumSquare Mean L2 LogSum".split(),
                p=[0.2, 0.2, *[0.1] * 4, *[0.2 / 3] * 3],
            )
        )
        axes = self.constant(np.array([1]))
        found = self.node(f"Reduce{operator}", [self.pick(), axes], keepdims=1)
        return self.node("Expand", [found, self.constant(np.array([1, SIZE]))])

    def chosen(self) -> str:
        """Where, with a condition of the input."""
        mask = self.node("Greater", ["x", self.constant(np.float64(0.25))])
        return self.node("Where", [mask, self.pick(), self.other()])

    def model(self) -> onnx.ModelProto:
        """The model, whose output is float64."""
        output = self.node("Cast", [self.values[-1]], to=CODES["float64"])
        return build(self.nodes, self.constants, output)


def build(nodes: Sequence[onnx.NodeProto], constants: dict[str, Any], output: str, kind: str = "float64",
          given: str = "float64") -> onnx.ModelProto:  # fmt: skip
    """A model from "x" [1, SIZE]."""
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        list(nodes), "integers", [helper.make_tensor_value_info("x", CODES[given], [1, SIZE])],
        [helper.make_tensor_value_info(output, CODES[kind], None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if name in used],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


OPERATORS: dict[str, Any] = {
    **{name: lambda draft, name=name: draft.node(name, [draft.pick(), draft.other()])
       for name in ("Add", "Sub", "Mul", "Max", "Min")},
    **{name: lambda draft, name=name: draft.node(name, [draft.pick()])
       for name in ("Neg", "Abs", "Sign", "Relu")},
    "Cast": Draft.cast,
    "Clip": lambda draft: draft.node("Clip", [draft.pick(), "", draft.numbers()]),
    "Compare": Draft.compared,
    "Concat": lambda draft: draft.node(
        "Slice", [draft.node("Concat", [draft.pick(), draft.numbers(1, 2)], axis=1), draft.constant(np.array([2])),
                  draft.constant(np.array([5])), draft.constant(np.array([1]))]),
    "CumSum": lambda draft: draft.node("CumSum", [draft.pick(), draft.constant(np.int64(1))]),
    "Einsum": lambda draft: draft.node("Einsum", [draft.pick(), draft.numbers(SIZE, SIZE)], equation="ij,jk->ik"),
    "MatMul": lambda draft: draft.node("MatMul", [draft.pick(), draft.numbers(SIZE, SIZE)]),
    "Pow": lambda draft: draft.node("Pow", [draft.pick(), draft.constant(np.array(2, dtype=draft.kind))]),
    "Reduce": Draft.reduced,
    "Square": lambda draft: draft.node("Mul", [draft.values[-1]] * 2),
    "Where": Draft.chosen,
}  # fmt: skip


def session_of(model: onnx.ModelProto) -> Session | None:
    """ONNX Runtime's session; None where it has no kernel for these types."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return Session(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # its exceptions share no base class
        return None


def read(model: onnx.ModelProto) -> LoadedModel | None:
    """The model as it is read, which nothing is compared with yet; None where it is refused by name."""
    try:
        return from_onnx(model, fold=True)
    except UnsupportedOperatorError as refusal:
        return named(refusal)


def named(refusal: UnsupportedOperatorError) -> None:
    """Of a refusal that names its node."""
    assert "the_" in str(refusal)


def incomparable(refusal: ModelError) -> None:
    """Of a refusal of what leaves its type wherever it is tried."""
    assert "so its reading cannot be checked" in str(refusal)


def sampled(lower: NDArray[Any], upper: NDArray[Any], seed: int) -> NDArray[Any]:
    """Corners, ends and points between, [count, SIZE]."""
    random = np.random.default_rng(seed)
    share = random.random((48, SIZE))
    share[:16] = share[:16].round()
    return lower + (upper - lower) * share


def box(seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """A box of the input, of numbers with few digits; often a small one."""
    random = np.random.default_rng(seed)
    centre = random.integers(-64, 65, SIZE) / 64
    return centre, centre + random.integers(0, 65, SIZE) / 64 / random.choice([1, 16, 2**20])


def text(lower: NDArray[Any], upper: NDArray[Any], unsafe: str, outputs: int = SIZE) -> str:
    """A property of a box."""
    declared = "".join(f"(declare-const X_{i} Real)" for i in range(SIZE))
    declared += "".join(f"(declare-const Y_{i} Real)" for i in range(outputs))
    ends = zip(lower.tolist(), upper.tolist(), strict=True)
    limits = "".join(
        f"(assert (>= X_{i} {a:.60f}))(assert (<= X_{i} {b:.60f}))" for i, (a, b) in enumerate(ends)
    )
    return f"{declared}{limits}(assert {unsafe})"


@pytest.mark.parametrize("start", range(0, SHIPPED, 10))
def test_operators_on_integers_are_as_they_are_run(start: int) -> None:
    for seed in range(start, start + 10):
        model = Draft(seed).model()
        session = session_of(model)
        loaded = None if session is None else read(model)
        if session is None or loaded is None:
            continue
        for part in range(3):
            lower, upper = box(100 * seed + part)
            points = sampled(lower, upper, seed)
            outputs = np.stack([session.run(None, {"x": point[None]})[0].ravel() for point in points])
            check_values(loaded, points, outputs, seed)
            check_bounds(loaded, lower, upper, outputs, seed)


def check_values(loaded: LoadedModel, points: NDArray[Any], outputs: NDArray[Any], seed: int) -> None:
    """The network's values are ONNX Runtime's, wherever they are known."""
    for point, output in zip(points, outputs, strict=True):
        values = loaded.network.values(torch.from_numpy(point[None]))
        if integers_known(loaded.network, values):
            assert np.allclose(values[-1].flatten().numpy(), output, rtol=1e-14, atol=0), (seed, point)


def check_bounds(
    loaded: LoadedModel, lower: NDArray[Any], upper: NDArray[Any], outputs: NDArray[Any], seed: int
) -> None:
    """No bound is beyond what ONNX Runtime computes."""
    rows = [(i, sign) for i in range(SIZE) for sign in (1, -1)]
    unsafe = " ".join(f"({'<=' if sign > 0 else '>='} Y_{i} 0.0)" for i, sign in rows)
    least = np.array([(sign * outputs[:, i]).min() for i, sign in rows])
    for method in METHODS:
        found = bounds(loaded, text(lower, upper, f"(or {unsafe})"), method=method, device="cpu")
        assert np.all(np.array(found.bounds) <= least + 1e-14 * np.abs(least)), (seed, method)


WRAPPING = [
    # the case that was found: c * 100000 of c up to 25000 is no int32
    ("int32", [("Mul", 100000)], 25000.0),
    ("int32", [("Add", 2**31 - 10)], 25.0),
    ("int32", [("Mul", 1000), ("Mul", 1000)], 5000.0),
    ("int8", [("Add", 100)], 40.0),
    ("uint8", [("Sub", 20)], 40.0),
    ("uint16", [("Mul", 300)], 300.0),
    ("int64", [("Mul", 2**40)], 2.0**24),
    ("uint32", [("Sub", 1), ("Mul", 3)], 10.0),
    ("uint8", [], 300.0),  # casts of what is too much
    ("int8", [], 300.0),
    ("int32", [], 1e10),
    ("int64", [], 1e20),
]


@pytest.mark.parametrize(("kind", "steps", "most"), WRAPPING)
def test_what_wraps_is_not_proved(
    kind: str, steps: list[tuple[str, int]], most: float, tmp_path: Path
) -> None:
    """Bug found: integers were read as real numbers, and `unsat` said of what ONNX Runtime violates."""
    constants: dict[str, Any] = {"k": np.float64(most)}
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["m"]),
        helper.make_node("Cast", ["m"], ["i0"], to=CODES[kind]),
    ]
    for place, (operator, number) in enumerate(steps):
        constants[f"n{place}"] = np.array(number, dtype=kind)
        nodes.append(
            helper.make_node(operator, [f"i{place}", f"n{place}"], [f"i{place + 1}"], name=f"the_step{place}")
        )
    nodes.append(helper.make_node("Cast", [f"i{len(steps)}"], ["y"], to=CODES["float64"]))
    model = build(nodes, constants, "y")
    session = session_of(model)
    assert session is not None
    lower, upper = np.zeros(SIZE), np.ones(SIZE)
    points = np.linspace(lower, upper, 1001)
    outputs = np.stack([session.run(None, {"x": point[None]})[0].ravel() for point in points])
    steps_up = np.diff(outputs[:, 0])
    assert steps_up.min() < 0 < steps_up.max()  # it does wrap, or stop
    for sign, relation in ((1, "<="), (-1, ">=")):
        worst = float((sign * outputs[:, 0]).min() * sign)
        spec = tmp_path / "p.vnnlib"
        spec.write_text(text(lower, upper, f"({relation} Y_0 {worst:.1f})"))
        assert verify(model, spec, timeout=2, device="cpu").verdict != "unsat"
    beyond = 2.0 * max(abs(outputs.min()), outputs.max()) + 2 * float(np.iinfo(kind).max)
    spec.write_text(text(lower, upper, f"(>= Y_0 {beyond:.1f})"))  # but the type's range is known
    assert verify(model, spec, timeout=PATIENCE, device="cpu").verdict == "unsat"


@pytest.mark.parametrize("seed", range(3000, 3012))
def test_planted_violations_are_not_refuted(seed: int) -> None:
    """Of a point that ONNX Runtime has run nobody proves that there is none; of what no type here holds everybody does."""
    model = Draft(seed).model()
    session = session_of(model)
    if session is None or read(model) is None:
        return
    lower, upper = box(seed)
    outputs = np.stack(
        [session.run(None, {"x": point[None]})[0].ravel() for point in sampled(lower, upper, seed)]
    )
    place, sign = seed % SIZE, 1 if seed % 2 else -1
    relation, worst = "<=" if sign > 0 else ">=", float(sign * (sign * outputs[:, place]).min())
    for limit, never in ((worst, "unsat"), (worst - sign * 2.0**70, "sat")):
        spec = text(lower, upper, f"({relation} Y_{place} {limit:.1f})")
        try:
            assert verify(model, spec, timeout=1, device="cpu").verdict != never
        except ModelError as refusal:
            incomparable(refusal)


ONE = ("Neg Abs Sign Relu BitwiseNot CumSum ReduceSum ReduceProd ReduceL1 ReduceSumSquare ReduceMean ReduceL2 ReduceLogSum "
       "ReduceMax ReduceMin ArgMax Cast").split()  # fmt: skip
TWO = "Add Sub Mul Div Mod Pow Max Min BitwiseAnd BitShift MatMul Equal Less PRelu".split()


def constants_of(operator: str, kind: str, random: np.random.Generator) -> dict[str, Any]:
    """Operands of an operator; none divides by 0, which ends the process that does it."""
    draft = Draft(int(random.integers(2**31)))
    draft.kind = kind
    shapes = [(1, SIZE), (SIZE, SIZE) if operator == "MatMul" else (1, SIZE)]
    given = {name: draft.constants[draft.numbers(*shape)] for name, shape in zip("ab", shapes, strict=True)}
    if operator in ONE:
        given["b"] = np.array(1) if operator == "CumSum" else np.array([1])
        if operator not in ("CumSum", *(name for name in ONE if name.startswith("Reduce"))):
            del given["b"]
    if operator in ("BitShift", "Div", "Mod"):
        given["b"] = random.integers(1, 7, (1, SIZE)).astype(kind)
    return given


@pytest.mark.parametrize("operator", [*ONE, *TWO])
def test_constants_are_folded_as_they_are_run(operator: str) -> None:
    """Constants wrap by their type, or are refused: reductions, for one, are computed in float64 there, and end at the type's ends."""
    random = np.random.default_rng(5)
    for kind in KINDS * 3:
        constants = constants_of(operator, kind, random)
        attributes: dict[str, Any] = {"BitShift": {"direction": "LEFT"}, "Cast": {"to": CODES["int16"]}}.get(
            operator, {}
        )
        nodes = [
            helper.make_node(operator, list(constants), ["v"], name="the_operator", **attributes),
            helper.make_node("Cast", ["v"], ["w"], to=CODES["int64"], name="the_cast"),
            helper.make_node("Cast", ["w"], ["d"], to=CODES["float64"]),
            helper.make_node("Add", ["x", "d"], ["y"]),
        ]
        model = build(nodes, constants, "y")
        session = session_of(model)
        loaded = None if session is None else read(model)
        if session is not None and loaded is not None:
            zeros = np.zeros((1, SIZE))
            expected = session.run(None, {"x": zeros})[0].ravel()
            assert np.array_equal(loaded.network.forward(torch.from_numpy(zeros)).numpy().ravel(), expected)


@pytest.mark.parametrize(
    ("operator", "limit"), [("ReduceSum", 2.0**53), ("ReduceProd", 2.0**62)], ids=["sum", "product"]
)
def test_reductions_are_computed_in_floats(operator: str, limit: float) -> None:
    """Bug found: ONNX Runtime adds int64 in float64, so that 2^53 + 1 - 2^53 is 0; products of many overflow on the way to 0."""
    size = 40 if operator == "ReduceProd" else SIZE
    nodes = [
        helper.make_node("Mul", ["x", "f"], ["m"]), helper.make_node("Cast", ["m"], ["i"], to=CODES["int64"]),
        helper.make_node("Tile", ["i", "t"], ["j"]), helper.make_node("Mul", ["j", "k"], ["p"]),
        helper.make_node(operator, ["p", "a"], ["s"], keepdims=1, name="the_reduction"),
        helper.make_node("Cast", ["s"], ["y"], to=CODES["float64"]),
    ]  # fmt: skip
    factors = np.array([1, -1, 0] if operator == "ReduceSum" else [1] * (3 * size - 1) + [0], dtype=np.int64)
    times = [1, 1] if operator == "ReduceSum" else [1, size]
    constants = {"f": np.array([[limit, limit, 1.0]]), "t": np.array(times), "k": factors, "a": np.array([1])}
    model = build(nodes, constants, "y")
    if operator == "ReduceProd":
        assert read(model) is None
        return
    # between 2^53 - 64 and 2^53 the sum of the first two is no more than known to be an int64
    spec = text(np.full(SIZE, 0.5), np.ones(SIZE), "(>= Y_0 9007199254740992.0)", 1)
    assert bounds(from_onnx(model, fold=True), spec, method="crown", device="cpu").bounds[0] < 0


def test_an_integer_on_a_box() -> None:
    """The lines hold wherever the value may be, and so do the minima; in float32 the end of int32 is not taken for one more."""
    random = torch.Generator().manual_seed(0)
    for activation in (
        Integer(-128, 127, 8),
        Integer(0, 255, 8, wraps=False),
        Integer(-(2**31), 2**31 - 1, 32),
    ):
        ends = activation.maximum * (torch.rand(2, 200, 1, generator=random).double() * 5 - 2.5)
        lower, upper = ends.amin(0).floor(), ends.amax(0).ceil()
        hull, fits = activation.hull(lower, upper), activation.holds(lower, upper)
        assert bool(fits.any()) and not bool(fits.all())
        low, high = activation.interval(lower, upper)
        for share in torch.linspace(0, 1, 9):
            z = (lower + (upper - lower) * share).round()
            values = [torch.where(fits, z, float(end)) for end in (activation.minimum, activation.maximum)]
            for value in (*values, torch.where(fits, z, activation.forward(z))):
                assert bool(((low <= value) & (value <= high)).all())
                for sign in (1.0, -1.0):
                    t = torch.full_like(z, sign)
                    for slope in (0.0, 0.5, 1.0, 2.0):
                        line = hull.line(t, torch.full((200, 2), slope, dtype=torch.float64))
                        size = 1e-12 * activation.maximum
                        assert bool((sign * (value - line.slope * z - line.intercept) >= -size).all())
                        at, best = activation.minimum_on(hull, t, t * slope)
                        assert bool((t * best - t * slope * at <= t * value - t * slope * z + size).all())
    end = torch.tensor([2.0**31])
    assert not bool(Integer(-(2**31), 2**31 - 1, 32).holds(end, end))
    assert bool(Integer(-(2**31), 2**31 - 1, 32).holds(end.double() - 1, end.double() - 1))


class Module(torch.nn.Module):
    """Integers in torch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = (x * 25000).to(torch.int32)
        return (whole * 100000).to(torch.float32)


def test_integers_of_torch_wrap_too() -> None:
    spec = text(np.zeros(SIZE), np.ones(SIZE), "(<= Y_0 -1.0)")
    found = verify(Module(), spec, timeout=PATIENCE, device="cpu", example_input=torch.zeros(1, SIZE))
    assert found.verdict == "sat"


def test_the_greatest_number_is_one_more_in_float32() -> None:
    """Bug found: a sum of squares of int32 ends at 2^31 - 1, which a cast to float32 makes 2^31."""
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=CODES["int32"]),
        helper.make_node("ReduceSumSquare", ["i", "a"], ["s"]),
        helper.make_node("Cast", ["s"], ["y"], to=CODES["float32"]),
    ]
    model = build(nodes, {"a": np.array([1])}, "y", "float32", "float32")
    spec = text(np.zeros(SIZE), np.full(SIZE, 70000.0), "(>= Y_0 2147483648.0)", 1)
    assert verify(model, spec, timeout=2, device="cpu").verdict != "unsat"
