"""Networks of steps of one input, against all values that they take, found in exact arithmetic: at every jump and between."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import numpy as np
import onnx
import pytest
from nets import property_text
from onnx import TensorProto, helper, numpy_helper

import verify

Numbers = list[Fraction]
Layer = tuple[list[Numbers], Numbers]


def _round_half_even(z: Fraction) -> Fraction:
    return Fraction(round(z))


def _sign(z: Fraction) -> Fraction:
    return Fraction((z > 0) - (z < 0))


# Of every kind: its nodes from "z" to "a", its value, and where it jumps: at whole numbers plus this, or at 0 alone.
KINDS: dict[str, tuple[list[tuple[str, list[str]]], Callable[[Fraction], Fraction], Fraction | None]] = {
    "Sign": ([("Sign", ["z"])], _sign, None),
    "Floor": ([("Floor", ["z"])], lambda z: Fraction(math.floor(z)), Fraction(0)),
    "Ceil": ([("Ceil", ["z"])], lambda z: Fraction(math.ceil(z)), Fraction(0)),
    "Round": ([("Round", ["z"])], _round_half_even, Fraction(1, 2)),
    "Cast": ([("Cast:7", ["z"]), ("Cast:1", [])], lambda z: Fraction(math.trunc(z)), Fraction(0)),
    "Greater": (
        [("Greater", ["z", "zero"]), ("Where", ["two", "less"])],
        lambda z: Fraction(2 if z > 0 else -1),
        None,
    ),
    "LessOrEqual": ([("LessOrEqual", ["z", "zero"]), ("Cast:1", [])], lambda z: Fraction(z <= 0), None),
}


def layers(seed: int, sizes: list[int]) -> list[Layer]:
    """Weights and biases in quarters, which float32 has exactly; an eighth more keeps sums of such off the later jumps."""
    random = np.random.default_rng(seed)

    def numbers(count: int) -> Numbers:
        return [Fraction(int(number), 4) for number in random.integers(-9, 10, count)]

    found = [([numbers(before) for _ in range(after)], numbers(after)) for before, after in pairwise(sizes)]
    return [found[0], *((weight, [b + Fraction(1, 8) for b in bias]) for weight, bias in found[1:])]


def model(kind: str, parts: list[Layer]) -> onnx.ModelProto:
    """Dense layers with the steps between them."""
    constants = {"zero": np.float32(0), "two": np.float32(2), "less": np.float32(-1)}
    nodes, value = [], "X"
    for i, (weight, bias) in enumerate(parts):
        constants[f"W{i}"], constants[f"b{i}"] = (np.array(p, dtype=np.float32) for p in (weight, bias))
        last = i == len(parts) - 1
        nodes.append(
            helper.make_node("Gemm", [value, f"W{i}", f"b{i}"], ["Y" if last else f"z{i}"], transB=1)
        )
        value = f"z{i}"
        for j, (spelling, operands) in enumerate([] if last else KINDS[kind][0]):
            operator, _, to = spelling.partition(":")
            own = [value if name == "z" else name for name in operands]
            own = own if "z" in operands else [value, *own]
            settings = {"to": int(to)} if to else {}
            nodes.append(helper.make_node(operator, own, [f"a{i}_{j}"], **settings))
            value = f"a{i}_{j}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in "XY"]
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, kind, ends[:1], ends[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)


def value_at(kind: str, parts: list[Layer], x: Fraction) -> Fraction:
    """The output, exactly."""
    values = [x]
    for i, (weight, bias) in enumerate(parts):
        sums = [
            sum((w * v for w, v in zip(row, values, strict=True)), b)
            for row, b in zip(weight, bias, strict=True)
        ]
        values = sums if i == len(parts) - 1 else [KINDS[kind][1](z) for z in sums]
    return values[0]


def jumps_of(kind: str, parts: list[Layer], low: int, high: int) -> list[Fraction]:
    """Where the first layer jumps on an interval, once for each neuron."""
    offset, found = KINDS[kind][2], []
    for (w,), b in zip(*parts[0], strict=True):
        if w == 0:
            continue
        first, last = sorted((w * low + b, w * high + b))
        at = [Fraction(0)]
        if offset is not None:
            at = [offset + k for k in range(math.floor(first) - 1, math.ceil(last) + 1)]
        found += [(z - b) / w for z in at if first <= z <= last]
    return sorted(found)


def drawn(kind: str, seed: int) -> list[Layer]:
    """A network whose neurons do not jump at one place: float32 would round some of them before others there."""
    for number in range(seed * 1000, seed * 1000 + 1000):
        parts = layers(number, [1, 3, 2, 1])
        jumps = jumps_of(kind, parts, -3, 3)
        if all(w for (w,) in parts[0][0]) and all(b - a > Fraction(1, 500) for a, b in pairwise(jumps)):
            return parts
    raise AssertionError("no such network")


def all_values(kind: str, parts: list[Layer], low: int, high: int) -> tuple[set[Fraction], set[Fraction]]:
    """All values on an interval, and those between jumps, which float32 inputs have for certain."""
    ordered = sorted({Fraction(low), Fraction(high), *jumps_of(kind, parts, low, high)})
    between = {value_at(kind, parts, (a + b) / 2) for a, b in pairwise(ordered)}
    return between | {value_at(kind, parts, x) for x in ordered}, between


def verdict(network: onnx.ModelProto, low: Fraction, high: Fraction) -> str:
    """Whether the output gets between two numbers."""
    text = property_text([-3], [3], 1, f"(and (>= Y_0 {float(low)!r}) (<= Y_0 {float(high)!r}))")
    return verify.verify(network, text, timeout=60).verdict


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_values_and_gaps(kind: str, seed: int) -> None:
    """No value in the widest gap, none beyond the ends, and one where there is one."""
    parts = drawn(kind, seed)
    network = model(kind, parts)
    values, between = all_values(kind, parts, -3, 3)
    ordered = sorted(values)
    if len(ordered) > 1:
        low, high = max(pairwise(ordered), key=lambda pair: pair[1] - pair[0])
        assert verdict(network, low + (high - low) / 8, high - (high - low) / 8) == "unsat"
    assert verdict(network, ordered[-1] + Fraction(1, 8), ordered[-1] + 1000) == "unsat"
    one = sorted(between)[len(between) // 2]
    assert verdict(network, one - Fraction(1, 16), one + Fraction(1, 16)) == "sat"


def test_a_value_at_a_single_number_is_not_refuted() -> None:
    """The sign is 0 at 0 alone, which is a number of float32: no proof may pass it over."""
    parts: list[Layer] = [([[Fraction(1)]], [Fraction(0)]), ([[Fraction(1)]], [Fraction(0)])]
    assert verdict(model("Sign", parts), Fraction(-1, 4), Fraction(1, 4)) != "unsat"
    # a half is rounded to the even number, above or below
    rounded = model("Round", parts)
    for low, high, expected in ((0.25, 0.75, "unsat"), (1.25, 1.75, "unsat"), (1.9, 2.1, "sat")):
        assert verdict(rounded, Fraction(low), Fraction(high)) == expected
