"""Certificates of VNN-LIB 2.0 queries: of relations, balls, hidden variables and several models; and forgeries of them.

Each forgery is of a query that is violated (the search finds the counterexample), with a certificate of one that holds, its hashes put right.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from make_data import Parts
from onnx import TensorProto, helper, numpy_helper

import verify
from verify.checker.checking import check
from verify.checker.errors import Refused
from verify.checker.joint import read_joint
from verify.checker.onnx_reader import read_model
from verify.checker.query2 import read_query2
from verify.checker.question import Question, digest
from verify.problem import prepare
from verify.request import Request
from verify.run import run

BOX = np.zeros((1, 3)), np.ones((1, 3))
X = np.full((1, 3), 0.5)


def weights(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of a network of 3 inputs, 5 neurons and 2 outputs, of which the first is a little higher at X."""
    random = np.random.default_rng(seed)
    (w, b), (v, c) = (
        (random.normal(size=(m, n)) / 2, random.normal(size=m) / 4) for n, m in ((3, 5), (5, 2))
    )
    y = v @ np.maximum(w @ X.ravel() + b, 0) + c
    c[0] += y[1] - y[0] + 0.1
    return [(w, b), (v, c)]


def model(path: Path, seed: int, change: float = 0.0, kind: int = TensorProto.FLOAT) -> Path:
    """A network of ReLUs as a file; `change` is added to a weight of the first layer."""
    (w, b), (v, c) = weights(seed)
    w[0, 0] += change
    numpy_type = np.float32 if kind == TensorProto.FLOAT else np.float64
    tensors = {"w": w, "b": b, "v": v, "c": c}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["z"], name="first", transB=1),
            helper.make_node("Relu", ["z"], ["a"], name="relu"),
            helper.make_node("Gemm", ["a", "v", "c"], ["y"], name="last", transB=1),
        ],
        "graph",
        [helper.make_tensor_value_info("x", kind, [1, 3])],
        [helper.make_tensor_value_info("y", kind, [1, 2])],
        [numpy_helper.from_array(values.astype(numpy_type), name) for name, values in tensors.items()],
    )
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(whole, path)
    return path


@dataclass(frozen=True)
class Case:
    """A proof: its files, and the models by their networks' names."""

    certificate: Path
    models: Path | Mapping[str, Path]
    property: Path

    def accepted(self, **options: Any) -> bool:
        """Whether the checker proves it; only Refused is an excuse for no answer."""
        try:
            return check(self.certificate, self.models, self.property, **options).proved
        except Refused:
            return False


def case(folder: Path, spec: Any, models: Any = None, text: str = "") -> Case:
    """A proof that the search has made, of a property built in Python or a text."""
    models = model(folder / "model.onnx", 1) if models is None else models
    certificate, path = folder / "proof.cert", folder / "proof.cert.vnnlib"
    if text:
        path = folder / "query.vnnlib"
        path.write_text(text)
    result = run(Request(models, path if text else spec, timeout=60, certificate=certificate))
    assert result.certificate == certificate, (result.verdict, result.reason)
    beside = folder / "proof.cert.distance.onnx"
    return Case(certificate, {"f": models, "distance": beside} if beside.exists() else models, path)


QUERIES: dict[str, Any] = {
    "monotone": verify.Monotone(BOX, 1, tolerance=0.0625),
    "fair": verify.Fair(BOX, [0], margin=0.125),
    "lipschitz": verify.Lipschitz(BOX, 0.875, slack=0.0625),
    "L1": verify.L1Ball(X, 0.15625, 0),
    "L2": verify.L2Ball(X, 0.140625, 0),
    "L2 with weights": verify.L2Ball(X, 0.125, 0, mean=0.125, std=[[0.5, 1.0, 2.0]]),
}


@pytest.mark.parametrize("name", QUERIES)
def test_properties_built_in_python_are_certified(name: str, tmp_path: Path) -> None:
    found = case(tmp_path, QUERIES[name])
    assert found.accepted() and found.accepted(exact=True)


def test_a_relation_of_the_deployed_network_is_certified(tmp_path: Path) -> None:
    """Both runs may round in ways of their own."""
    files = model(tmp_path / "model.onnx", 1)
    asked = Request(
        files, QUERIES["monotone"], 60, certificate=tmp_path / "proof.cert", semantics="ieee32-any-order"
    )
    assert run(asked).verdict == "unsat"
    found = Case(tmp_path / "proof.cert", files, tmp_path / "proof.cert.vnnlib")
    assert found.accepted(semantics="ieee32-any-order")


# -- queries as texts

SEVERAL = """(vnnlib-version <2.0>)
(declare-network f (declare-input X float32 [1,3]) (declare-hidden A float32 [5] "relu") (declare-output Y float32 [1,2]))
(declare-network g (isomorphic-to f) (declare-input U float32 [1,3]) (declare-hidden Z float32 [5] "z") (declare-output W float32 [1,2]))
(assert (and (>= X[0,0] 0.0) (<= X[0,0] 1.0) (>= X[0,1] 0.0) (<= X[0,1] 1.0) (>= X[0,2] 0.0) (<= X[0,2] 1.0)))
(assert (and (== U[0,0] X[0,0]) (>= U[0,1] X[0,1]) (<= U[0,1] X[0,1])))
(assert (and (>= U[0,2] 0.25) (<= U[0,2] 0.75) (>= U[0,1] 0.0) (<= U[0,1] 2.0)))
(assert (or (> (- Y[0,0] W[0,0]) 5.0) (and (>= (* A[1] W[0,1]) 4.0) (> (* X[0,0] X[0,0] Y[0,1]) Z[3]) (> Y[0,0] 1.5)) (< A[0] -0.5)))
"""


def several(folder: Path) -> dict[str, Path]:
    """The models of `SEVERAL`."""
    return {"f": model(folder / "f.onnx", 1), "g": model(folder / "g.onnx", 2)}


def test_several_models_hidden_variables_and_products(tmp_path: Path) -> None:
    found = case(tmp_path, None, several(tmp_path), SEVERAL)
    assert found.accepted() and found.accepted(exact=True)
    # the first one needs no name
    assert Case(found.certificate, {"": found.models["f"], "g": found.models["g"]}, found.property).accepted()
    assert not Case(
        found.certificate, {"f": found.models["g"], "g": found.models["f"]}, found.property
    ).accepted()
    assert not Case(found.certificate, {"f": found.models["f"]}, found.property).accepted()
    assert not Case(found.certificate, {**found.models, "h": found.models["f"]}, found.property).accepted()
    assert not Case(found.certificate, found.models["f"], found.property).accepted()


def test_the_joint_network_is_that_of_the_search(tmp_path: Path) -> None:
    """The same values of all outputs and variables, at joint inputs."""
    files = several(tmp_path)
    query = read_query2(SEVERAL)
    mine = read_joint(query.interface, {name: path.read_bytes() for name, path in files.items()})
    problem = prepare(files, SEVERAL)
    search = problem.model.network
    assert [layer.variables.stop for layer in mine.layers] == np.cumsum(
        [search.inputs + search.layers[0].size, *(layer.size for layer in search.layers[1:])]
    ).tolist()
    x = np.random.default_rng(0).uniform(size=(20, mine.inputs)).astype(np.float32)
    import torch

    theirs = search.values(torch.from_numpy(x).to(search.dtype))[-1].reshape(20, -1).double().numpy()
    order = [theirs[:, place] for place in range(query.computed)]
    by_factors = {
        factors: theirs[:, query.computed + k] for k, factors in enumerate(problem.model.query.products)
    }
    wanted = np.stack([*order, *(by_factors[factors] for factors in query.interface.products)], 1)
    np.testing.assert_allclose(mine.values(x.astype(np.float64))[-1], wanted, atol=1e-5)


def test_witnesses_of_several_models(tmp_path: Path) -> None:
    """Replayed by the checker in sessions of its own, hidden variables too."""
    text = SEVERAL.replace("5.0)", "-5.0)").replace("(or (> (-", "(or (> (- 0.0 A[1]) 100.0) (> (-")
    found = case(tmp_path, None, several(tmp_path), text)
    told = check(found.certificate, found.models, found.property)
    assert told.proved and told.verdict == "sat" and "ONNX Runtime: confirmed" in told.sentence
    parts = Parts.read(found.certificate)
    parts.metadata["inputs"] = parts.metadata["inputs"].replace("0x1", "0x1.8", 1)
    parts.write(found.certificate)
    assert Question.read(found.models, found.property).query.inputs == 4
    assert not found.accepted() or found.accepted(exact=True)


MISFITS = {
    "another name of a hidden variable": ('"relu"', '"rel"'),
    "a tensor of another shape": ('"relu"', '"y"'),
    "a constant": ('"relu"', '"b"'),
    "another size": ("A float32 [5]", "A float32 [4]"),
    "another order of axes": ("X float32 [1,3]", "X float32 [3,2]"),
    "one input more": ("(declare-hidden A", "(declare-input V float32 [1]) (declare-hidden A"),
    "another type": ("float32", "float64"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_models_that_do_not_fit_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "query.vnnlib").write_text(SEVERAL)
    Question.read(several(tmp_path), tmp_path / "query.vnnlib")
    (tmp_path / "query.vnnlib").write_text(SEVERAL.replace(*MISFITS[name]))
    with pytest.raises(Refused):
        Question.read(several(tmp_path), tmp_path / "query.vnnlib")


def test_a_name_of_two_tensors_is_refused(tmp_path: Path) -> None:
    """A tensor and another node of one name."""
    files = several(tmp_path)
    (tmp_path / "query.vnnlib").write_text(SEVERAL)
    proto = onnx.load(files["f"])
    proto.graph.node[2].name = "a"
    onnx.save(proto, files["f"])
    Question.read(files, tmp_path / "query.vnnlib")
    (tmp_path / "query.vnnlib").write_text(SEVERAL.replace('"relu"', '"a"'))
    with pytest.raises(Refused, match="more than one"):
        Question.read(files, tmp_path / "query.vnnlib")


# -- forgeries


def put_right(found: Case, models: Any, text: str) -> Case:
    """The same certificate of another question, whose hashes it says that it is of."""
    found.property.write_text(text)
    parts = Parts.read(found.certificate)
    files = list(models.values()) if isinstance(models, Mapping) else [models]
    parts.metadata["onnx_sha256"] = " ".join(digest(path.read_bytes()) for path in files)
    parts.metadata["vnnlib_sha256"] = digest(text.encode())
    parts.write(found.certificate)
    return Case(found.certificate, models, found.property)


# of the query with a proof: what is put in the place of what
FORGERIES: dict[str, tuple[str, str, str]] = {
    "monotone by less": ("monotone", "0.0625)", "-0.5)"),
    "monotone the other way": ("monotone", "(>= U[0,1] X[0,1])", "(<= U[0,1] X[0,1])"),
    "monotone in more": ("monotone", "(assert (== U[0,0] X[0,0]))", ""),
    "monotone, other inputs equal": ("monotone", "(== U[0,2] X[0,2])", "(== U[0,2] 0.0)"),
    "of the other output": ("monotone", "(> Y[0,0] (+ W[0,0]", "(> Y[0,1] (+ W[0,1]"),
    "fair by less": ("fair", "0.125", "0.0"),
    "lipschitz by less": ("lipschitz", "0.875", "0.25"),
    "lipschitz, one row less": ("lipschitz", "(> (- Y[0,0] W[0,0]) (+ (* 0.875 (- X[0,0] U[0,0])) 0.0625))", "(> Y[0,0] -9.0)"),
    "a larger ball": ("L1", "0.0) 0.15625)", "0.0) 0.5)"),
    "no ball": ("L1", "0.0) 0.15625)", "-9.0) 0.15625)"),
    "a ball of one side": ("L1", "(+ (* 1.0 D[0,0])", "(+ (* 0.0 D[0,0])"),
    "a ball of other inputs": ("L1", "(== U[0,0] X[0,0])", "(== U[0,0] 0.5)"),
    "a larger Euclidean ball": ("L2", "0.019775390625)", "1.0)"),
    "one square turned": ("L2", "(* (- X[0,0] 0.5) (- X[0,0] 0.5))", "(* (- X[0,0] 0.5) (- 0.5 X[0,0]))"),
    "another label": ("L2", "(>= Y[0,1] Y[0,0])", "(>= Y[0,0] Y[0,1])"),
}  # fmt: skip


@pytest.mark.parametrize("made", sorted({made for made, _, _ in FORGERIES.values()}))
def test_another_query_is_not_proved(made: str, tmp_path: Path) -> None:
    found = case(tmp_path, QUERIES[made])
    text = found.property.read_text()
    for name in [name for name, forgery in FORGERIES.items() if forgery[0] == made]:
        _, old, new = FORGERIES[name]
        assert old in text, (name, text)
        forged = put_right(found, found.models, text.replace(old, new))
        assert run(Request(forged.models, forged.property, timeout=20)).verdict == "sat", name
        assert not forged.accepted() and not forged.accepted(exact=True), name
    assert put_right(found, found.models, text).accepted()


def test_one_alternative_more_is_not_proved(tmp_path: Path) -> None:
    found = case(tmp_path, None, several(tmp_path), SEVERAL)
    for old, new in (("(< A[0]", "(> A[0] -0.5) (< A[0]"), ("(or (>", "(or (> Y[0,0] -9.0) (>")):
        forged = put_right(found, found.models, SEVERAL.replace(old, new))
        assert run(Request(forged.models, forged.property, timeout=20)).verdict == "sat"
        assert not forged.accepted()


def changed(path: Path, change: Callable[[onnx.GraphProto], Any]) -> Path:
    """A model in which something is changed, beside it."""
    proto = onnx.load(path)
    change(proto.graph)
    onnx.save(proto, path.with_name(f"changed {path.name}"))
    return path.with_name(f"changed {path.name}")


def higher(graph: onnx.GraphProto) -> None:
    """The second class wins everywhere."""
    last = next(tensor for tensor in graph.initializer if tensor.name == "c")
    last.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(last) + np.float32([0, 9]), "c"))


def lower(graph: onnx.GraphProto) -> None:
    """Both outputs are lower everywhere."""
    last = next(tensor for tensor in graph.initializer if tensor.name == "c")
    last.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(last) - np.float32(9), "c"))


def one_sided(graph: onnx.GraphProto) -> None:
    """Distances of one side alone."""
    graph.node[2].op_type = "Relu"


@pytest.mark.parametrize(("name", "change"), [("f", higher), ("distance", one_sided)])
def test_other_models_are_not_proved(
    name: str, change: Callable[[onnx.GraphProto], Any], tmp_path: Path
) -> None:
    found = case(tmp_path, QUERIES["L1"])
    models = {**dict(found.models), name: changed(dict(found.models)[name], change)}
    forged = put_right(found, models, found.property.read_text())
    assert run(Request(models, forged.property, timeout=20)).verdict == "sat"
    assert not forged.accepted() and not forged.accepted(exact=True)


def test_another_model_of_the_same_form_is_not_the_same(tmp_path: Path) -> None:
    found = case(tmp_path, QUERIES["monotone"])
    text = found.property.read_text().replace("equal-to", "isomorphic-to")
    assert isinstance(found.models, Path)
    models = {"f": found.models, "g": changed(found.models, lower)}
    forged = put_right(found, models, text)
    assert run(Request(models, forged.property, timeout=20)).verdict == "sat"
    assert not forged.accepted()
    same = put_right(found, {**models, "g": found.models}, text)
    assert same.accepted()


TWO_INPUTS = """(vnnlib-version <2.0>)
(declare-network f (declare-input P real [2]) (declare-input Q real [3]) (declare-output S real [1,1]) (declare-output T real [2]))
(assert (and (>= P[0] 0.0) (<= P[0] 0.5) (>= P[1] 0.0) (<= P[1] 0.5) (>= Q[0] -1.0) (<= Q[0] 0.0) (== Q[1] 0.25) (== Q[2] P[1])))
(assert (or (>= S[0,0] THIS) (<= T[0] (- T[1] 50.0)) (>= (* T[1] T[1]) 99.0)))
"""


def two_inputs(path: Path) -> Path:
    """A model of two inputs and two outputs, one of whose weights is declared as an input too."""
    random = np.random.default_rng(5)
    tensors = {
        name: random.normal(size=shape).astype(np.float32)
        for name, shape in (("u", (4, 2)), ("v", (4, 3)), ("w", (2, 4)), ("r", (1, 4)))
    }
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["u", "p"], ["up"]),
            helper.make_node("MatMul", ["v", "q"], ["vq"]),
            helper.make_node("Sub", ["up", "vq"], ["z"]),
            helper.make_node("Relu", ["z"], ["a"]),
            helper.make_node("MatMul", ["w", "a"], ["t"]),
            helper.make_node("MatMul", ["r", "a"], ["s"]),
        ],
        "graph",
        [helper.make_tensor_value_info(name, kind, [size]) for name, size in (("p", 2), ("q", 3))]
        + [helper.make_tensor_value_info("r", kind, [1, 4])],
        [helper.make_tensor_value_info("s", kind, [1]), helper.make_tensor_value_info("t", kind, [2])],
        [numpy_helper.from_array(values, name) for name, values in tensors.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    """Matched by their order; proved above what the model reaches, a witness below."""
    files = two_inputs(tmp_path / "model.onnx")
    question = tmp_path / "query.vnnlib"
    question.write_text(TWO_INPUTS.replace("THIS", "9.0"))
    network = Question.read(files, question).network
    grid = np.stack(
        np.meshgrid(*[np.linspace(*ends, 7) for ends in ((0, 0.5), (0, 0.5), (-1, 0))]), -1
    ).reshape(-1, 3)
    joint = np.concatenate([grid, np.full((len(grid), 1), 0.25)], 1)
    tensors = {t.name: numpy_helper.to_array(t).astype(float) for t in onnx.load(files).graph.initializer}
    p, q = joint[:, :2], joint[:, [2, 3, 1]]
    a = np.maximum(p @ tensors["u"].T - q @ tensors["v"].T, 0)
    s, t = a @ tensors["r"].T, a @ tensors["w"].T
    # Q[2] is P[1]: joint inputs are P[0], P[1], Q[0], Q[1]
    np.testing.assert_allclose(network.values(joint)[-1], np.concatenate([s, t, t[:, 1:] ** 2], 1), atol=1e-6)
    most = float(s.max())
    above, below = (TWO_INPUTS.replace("THIS", f"{most + gap:.6f}") for gap in (0.01, -0.01))
    found = case(tmp_path, None, files, above)
    assert check(found.certificate, found.models, found.property).verdict == "unsat"
    forged = put_right(found, files, below)
    assert not forged.accepted() and not forged.accepted(exact=True)
    found = case(tmp_path, None, files, below)
    told = check(found.certificate, found.models, found.property)
    assert told.proved and told.verdict == "sat" and "ONNX Runtime: confirmed" in told.sentence


MIXED = """(vnnlib-version <2.0>)
(declare-network f (declare-input P float32 [1,3]) (declare-output S float32 [1,2]))
(declare-network g (declare-input Q float64 [1,3]) (declare-output T float64 [1,2]))
(assert (and (== P[0,0] 0.1) (>= P[0,1] 0.3) (<= P[0,1] 0.4) (== P[0,2] 0.5) (== Q[0,0] 0.1) (>= Q[0,1] 0.3) (<= Q[0,1] 0.4) (== Q[0,2] 0.5)))
(assert (<= S[0,0] THIS)) (assert (>= T[0,0] -10.0))
"""


def test_networks_of_several_element_types(tmp_path: Path) -> None:
    """Each input's set is that of its own type: 0.1 is nearest to another number of float32 than of float64."""
    models = {"f": model(tmp_path / "f.onnx", 1), "g": model(tmp_path / "g.onnx", 1, kind=TensorProto.DOUBLE)}
    least = float(verify.output_range(models["f"], ([0.1, 0.3, 0.5], [0.1, 0.4, 0.5])).lower.ravel()[0])
    found = case(tmp_path, None, models, MIXED.replace("THIS", f"{least - 0.1:.3f}"))
    assert check(found.certificate, models, found.property).verdict == "unsat" and found.accepted(exact=True)
    text = MIXED.replace("THIS", "10.0")
    assert not put_right(found, models, text).accepted()
    found = case(tmp_path, None, models, text)
    told = check(found.certificate, models, found.property)
    assert told.proved and told.verdict == "sat" and "ONNX Runtime: confirmed" in told.sentence
    question = Question.read(models, found.property)
    lower, upper = prepare(models, found.property).specification.exact_bounds(0)
    clause = question.query.clauses[0]
    assert (clause.lower, clause.upper) == (lower, upper) and upper[0] != upper[3]
    for key, wrong in (("element_type", "float32"), ("inputs", None)):
        parts = Parts.read(found.certificate)
        point = [float(value) for value in map(float.fromhex, json.loads(parts.metadata["inputs"]))]
        point[1] = 0.35  # no number of float32
        parts.metadata[key] = wrong or json.dumps([value.hex() for value in point])
        parts.write(tmp_path / "forged.cert")
        assert not Case(tmp_path / "forged.cert", models, found.property).accepted()
        assert not Case(tmp_path / "forged.cert", models, found.property).accepted(
            semantics="ieee32-any-order"
        )


def test_a_type_that_is_not_the_models_is_refused(tmp_path: Path) -> None:
    models = {"f": model(tmp_path / "f.onnx", 1), "g": model(tmp_path / "g.onnx", 1)}
    (tmp_path / "query.vnnlib").write_text(MIXED.replace("THIS", "0.0"))
    with pytest.raises(Refused, match="Q is declared as float64, and is float32"):
        Question.read(models, tmp_path / "query.vnnlib")


def brightness(folder: Path) -> Case:
    """A proof of images of three entries that get lighter."""
    files = model(folder / "model.onnx", 1)
    spec = verify.Brightness(
        X, 0, brightness=0.015625, contrast=0.015625, clip=(0.0, 1.0), mean=0.25, std=0.5
    )
    result = run(Request(files, spec, timeout=60, certificate=folder / "proof.cert"))
    assert (result.verdict, result.certificate) == ("unsat", folder / "proof.cert"), result.reason
    return Case(folder / "proof.cert", folder / "proof.cert.onnx", folder / "proof.cert.vnnlib")


def test_what_makes_images_is_part_of_the_evidence(tmp_path: Path) -> None:
    """The model behind it, in one file: over the reals the model at these images."""
    found = brightness(tmp_path)
    assert found.accepted() and found.accepted(exact=True)
    whole = Question.read(found.models, found.property).network
    alone = read_model((tmp_path / "model.onnx").read_bytes())
    z = np.random.default_rng(0).uniform([-1.0, 0.0], [1.0, 2.0], size=(30, 2))
    images = (np.clip(z[:, 1:] * X + z[:, :1], 0, 1) - 0.25) / 0.5
    np.testing.assert_allclose(whole.values(z)[-1], alone.values(images)[-1], atol=1e-12)


def test_fields_of_light_are_certified(tmp_path: Path) -> None:
    files = model(tmp_path / "model.onnx", 1)
    spec = verify.BiasField(X, 0, contrast=0.0078125, brightness=0.00390625)
    assert run(Request(files, spec, timeout=60, certificate=tmp_path / "proof.cert")).verdict == "unsat"
    found = Case(tmp_path / "proof.cert", tmp_path / "proof.cert.onnx", tmp_path / "proof.cert.vnnlib")
    assert found.accepted() and found.accepted(exact=True)


def darker(graph: onnx.GraphProto) -> None:
    """Images that are far from the first."""
    offset = next(tensor for tensor in graph.initializer if tensor.name == "property/offset")
    offset.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(offset) - 0.5, "property/offset"))


@pytest.mark.parametrize("change", [darker, higher])
def test_other_images_are_not_proved(change: Callable[[onnx.GraphProto], Any], tmp_path: Path) -> None:
    found = brightness(tmp_path)
    assert isinstance(found.models, Path)
    models = changed(found.models, change)
    forged = put_right(found, models, found.property.read_text())
    assert run(Request(models, forged.property, timeout=20)).verdict == "sat"
    assert not forged.accepted() and not forged.accepted(exact=True)
