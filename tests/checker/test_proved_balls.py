"""Minima over a ball: never above what any point of it has, close to the best, and of rows alone that say that all unsafe points are in one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
from make_data import Parts
from onnx import TensorProto, helper, numpy_helper
from test_certified_queries import Case, changed, put_right

import verify
from verify.checker.ball import Ball, ball_of
from verify.checker.dual import Dual, Linear
from verify.checker.maps import Identity
from verify.checker.multipliers import Arithmetic
from verify.checker.network import Affine, Input, Network
from verify.checker.question import Question
from verify.request import Request
from verify.run import run

INPUTS = 20
X = np.linspace(0.1, 0.9, INPUTS).round(2)[None] // 0.015625 * 0.015625  # of few digits


def ball(random: np.random.Generator, squares: bool, size: int) -> Ball:
    """A ball about a point, some inputs of which count for nothing."""
    a = random.choice([0.0, 0.5, 1.0, 2.25], size=size)
    e = random.normal(size=size).round(3)
    b = np.where(a > 0, random.normal(size=size).round(3), 0.0) if squares else np.zeros(size)
    middle = np.where(a > 0, -e - b / np.where(a > 0, 2 * a, 1.0), 0.0)
    least = (a * (middle + e) ** 2 + b * middle).sum() if squares else 0.0
    return Ball(squares, a, e, b, Fraction(float(least + random.choice([0.0, 0.01, 0.3, 2.0]))))


def value(found: Ball, x: np.ndarray) -> np.ndarray:
    """The row's left side less its right side."""
    y = x + found.e
    each = found.a * (y**2 if found.squares else np.abs(y)) + found.b * x
    return each.sum(-1) - float(found.d)


@pytest.mark.parametrize("squares", [True, False])
def test_minima_are_below_all_points(squares: bool) -> None:
    random, size, near = np.random.default_rng(0), 4, 0
    identity = Network((Input(size, (size,)), Affine(((Identity(size), 0),), np.zeros(size), (size,))))
    tiers = [Dual(identity, Arithmetic(exact)) for exact in (False, True)]
    for _ in range(150):
        found = ball(random, squares, size)
        middle = -found.e + random.normal(size=size) * random.choice([0.0, 0.1, 1.0])
        half = np.abs(random.normal(size=size)) * random.choice([0.05, 0.5, 5.0])
        lower, upper = (middle - half)[None, None], (middle + half)[None, None]
        c = random.normal(size=(1, 3, size)) * random.choice([0.0, 1e-9, 1.0, 1e6], size=(1, 3, 1))
        x = random.uniform(lower[0], upper[0], size=(4000, size))
        # towards the middle of the ball, so that enough are inside
        x = np.clip(x + random.uniform(size=(4000, 1)) * (-found.e - x), lower[0], upper[0])
        inside = x[value(found, x) <= 0]
        bounds = []
        for dual in tiers:
            part, low, high = (dual.arithmetic.array(one) for one in (c, lower, upper))
            zero = dual.arithmetic.array(np.zeros((1, 3)))
            least, _ = found.least(dual, Linear(part, zero, zero), low, high)
            bounds.append(least[0].astype(np.float64))
        assert (bounds[0] <= bounds[1] + 1e-9 * np.abs(bounds[1])).all()
        if len(inside):
            best = (inside @ c[0].T).min(0)
            assert (bounds[1] <= best + 1e-12 * np.abs(best)).all()
            near += int((best - bounds[1] <= 0.25 * (np.abs(c[0]) @ half) + 1e-15).sum())
    assert near > 100


# -- which rows, in proofs


def model(path: Path) -> Path:
    """A network of more inputs than are split."""
    random = np.random.default_rng(3)
    tensors = {"w": random.normal(size=(8, INPUTS)) / 4, "b": random.normal(size=8) / 4}
    tensors |= {"v": random.normal(size=(2, 8)), "c": np.zeros(2)}
    y = tensors["v"] @ np.maximum(tensors["w"] @ X.ravel() + tensors["b"], 0)
    tensors["c"] = np.array([y[1] - y[0] + 0.5, 0.0])
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["z"], transB=1),
            helper.make_node("Relu", ["z"], ["a"]),
            helper.make_node("Gemm", ["a", "v", "c"], ["y"], transB=1),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


SPECS = {
    "L2": verify.L2Ball(X, 0.15625, 0),
    "L1": verify.L1Ball(X, 0.3125, 0),
    "L2 with weights": verify.L2Ball(X, 0.5, 0, std=np.where(np.arange(INPUTS) % 2, 1.0, 0.5)[None]),
}


def proof(folder: Path, name: str) -> Case:
    """A proof of one of `SPECS`, which rests on its ball."""
    files, certificate = model(folder / "model.onnx"), folder / "proof.cert"
    result = run(Request(files, SPECS[name], timeout=60, certificate=certificate))
    assert (result.verdict, result.certificate) == ("unsat", certificate), result.reason
    beside = folder / "proof.cert.distance.onnx"
    models = {"f": files, "distance": beside} if beside.exists() else files
    return Case(certificate, models, folder / "proof.cert.vnnlib")


@pytest.mark.parametrize("name", SPECS)
def test_balls_take_part_in_proofs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = proof(tmp_path, name)
    question = Question.read(found.models, found.property)
    own = ball_of(question.network, question.query)
    assert own is not None and own.squares == (name != "L1") and (own.a > 0).all()
    row = question.query.clauses.shared_rows[0]
    x = np.random.default_rng(0).normal(size=(9, INPUTS))
    left = sum(float(factor) * question.network.values(x)[-1][:, k] for k, factor in row.outputs.items())
    left = left + sum(float(factor) * x[:, k] for k, factor in row.inputs.items())
    np.testing.assert_allclose(left - float(row.threshold), value(own, x), atol=1e-9)
    assert found.accepted() and found.accepted(exact=True)
    monkeypatch.setattr("verify.checker.proof.ball_of", lambda *_: None)
    assert not found.accepted()


# what is no ball any more, or a larger one: what is put in the place of what, in the row and behind it
LARGER = {
    "a larger radius": ("0.0) 0.0244140625)", "0.0) 25.0)"),
    "one square turned": ("(- X[0,7] ", "(- 0.0 X[0,7] "),
    "one square of other inputs": ("(- X[0,7] ", "(- X[0,8] "),
    "no such row": ("(assert (<= (+", "(assert (<= (* 0.0"),
    "only in an alternative": ("(assert (<= (+", "(assert (or (<= X[0,0] 9.0) (<= (+"),
    "the other way": ("(assert (<= (+", "(assert (>= (+"),
    "with an output": ("0.0) 0.0244140625)", "Y[0,1]) 25.0)"),
}


def test_other_rows_are_not_used(tmp_path: Path) -> None:
    """The box alone has counterexamples."""
    found = proof(tmp_path, "L2")
    text = found.property.read_text()
    at = text.index("(assert (<= (+")
    for name, (old, new) in LARGER.items():
        assert old in text[at:], (name, text[at:])
        forged = text[:at] + text[at:].replace(old, new, 1)
        if "or" in new:
            forged = forged.replace(" 0.0244140625))", " 0.0244140625)))")
        other = put_right(found, found.models, forged)
        Question.read(other.models, other.property)
        assert run(Request(other.models, other.property, timeout=20)).verdict == "sat", name
        assert not other.accepted() and not other.accepted(exact=True), name
    assert put_right(found, found.models, text).accepted()


def test_distances_that_are_none_are_not_used(tmp_path: Path) -> None:
    """A network called `distance` that computes something else."""
    found = proof(tmp_path, "L1")
    models = dict(found.models)

    def nothing(graph: onnx.GraphProto) -> None:
        graph.node[1].op_type = "Mul"

    def one_side(graph: onnx.GraphProto) -> None:
        graph.node[2].op_type = "Relu"

    for change in (nothing, one_side):
        other = {**models, "distance": changed(models["distance"], change)}
        question = Question.read(other, found.property)
        assert ball_of(question.network, question.query) is None
        assert not put_right(found, other, found.property.read_text()).accepted()


def in_float32(graph: onnx.GraphProto) -> None:
    """Distances that a library rounds."""
    (centre,) = graph.initializer
    centre.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(centre).astype(np.float32), "centre"))
    del graph.node[0]
    graph.node[0].input[0] = "U"
    graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT


def test_balls_of_rounded_distances_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a library computes of a distance may be less than it is: such a ball says nothing of the deployed network's inputs."""
    found = proof(tmp_path, "L1")
    models = {**dict(found.models), "distance": changed(dict(found.models)["distance"], in_float32)}
    real = put_right(found, models, found.property.read_text())
    assert real.accepted()
    parts = Parts.read(real.certificate)
    parts.metadata["semantics"] = "ieee32-any-order"
    parts.write(real.certificate)
    monkeypatch.setattr("verify.checker.proof.ball_of", lambda *_: pytest.fail("a ball is asked for"))
    assert not real.accepted(semantics="ieee32-any-order")


@pytest.mark.parametrize("epsilon", [0.03125, 0.125])
def test_small_balls_are_proved_at_once(epsilon: float, tmp_path: Path) -> None:
    """Bug found: what refuted a root by CROWN alone was told with the weights of another bound."""
    files, certificate = model(tmp_path / "model.onnx"), tmp_path / "proof.cert"
    result = run(Request(files, verify.L1Ball(X, epsilon, 0), timeout=60, certificate=certificate))
    assert (result.verdict, result.certificate) == ("unsat", certificate), result.reason
