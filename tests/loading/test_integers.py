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

from verify import verify
from verify.api import bounds
from verify.errors import UnsupportedOperatorError
from verify.loading.comparison import integers_known
from verify.loading.loaded import LoadedModel
from verify.loading.pipeline import from_onnx

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
    assert verify(model, spec, timeout=10, device="cpu").verdict == "unsat"
