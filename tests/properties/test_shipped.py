"""The shipped problems are whole: files that load, both verdicts, witnesses that replay, a matching oracle.

Witnesses are judged by the property files' own decimals in rational arithmetic, on ONNX Runtime's outputs.
"""

import csv
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import properties
from properties.decide import margin_at
from properties.export import open_session, run_session
from properties.milp import encode, minimise_margin
from properties.network import read_network
from properties.spec import declared, read_queries, violated

ROOT = Path(properties.__file__).parent
FAMILIES = ["controller", "digits_conv", "digits_fc", "digits_resnet", "digits_sigmoid"]
QUICK = [
    ("controller", "ordered_thrusts"),
    ("controller", "ordered_thrusts_overlap"),
    ("digits_conv", "image_1405_radius_0.06"),
]


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a csv file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("family", FAMILIES)
def test_instances_are_well_formed(family: str) -> None:
    """Files exist, shapes agree, each verdict occurs, and both tables list the same instances."""
    folder = ROOT / family
    instances = table(folder / "instances.csv")
    assert list(instances[0]) == ["onnx", "vnnlib", "timeout_s", "expected"]
    assert 4 <= len(instances) <= 8
    assert {row["expected"] for row in instances} == {"sat", "unsat"}
    verdicts = {row["vnnlib"]: row["verdict"] for row in table(folder / "verdicts.csv")}
    assert verdicts == {row["vnnlib"]: row["expected"] for row in instances}
    for row in instances:
        assert float(row["timeout_s"]) > 0
        text = (folder / row["vnnlib"]).read_text()
        session = open_session(folder / row["onnx"])
        inputs = int(np.prod(session.get_inputs()[0].shape))
        outputs = run_session(session, np.zeros(inputs))
        assert (declared(text, "X"), declared(text, "Y")) == (inputs, len(outputs))


@pytest.mark.parametrize("family", FAMILIES)
def test_witnesses_replay(family: str) -> None:
    """Each sat instance, and no other, has a float32 witness that ONNX Runtime maps into the unsafe set."""
    folder = ROOT / family
    witnesses = json.loads((folder / "witnesses.json").read_text())
    rows = [row for row in table(folder / "instances.csv") if row["expected"] == "sat"]
    assert {f"vnnlib/{name}" for name in witnesses} == {row["vnnlib"] for row in rows}
    for row in rows:
        witness = np.array(witnesses[Path(row["vnnlib"]).name])
        assert np.array_equal(witness, witness.astype(np.float32))
        outputs = run_session(open_session(folder / row["onnx"]), witness)
        assert violated((folder / row["vnnlib"]).read_text(), witness.tolist(), outputs.tolist())


@pytest.mark.parametrize("family", FAMILIES)
def test_margins_support_verdicts(family: str) -> None:
    """Recorded margins are ordered, and clearly on their verdict's side of zero."""
    for row in table(ROOT / family / "verdicts.csv"):
        relaxation, lower, margin = (float(row[name]) for name in ("relaxation", "lower_bound", "margin"))
        assert relaxation <= lower + 1e-5
        assert lower <= margin + 1e-5
        assert lower > 1e-3 if row["verdict"] == "unsat" else margin < -1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_reader_agrees_with_onnx_runtime(family: str) -> None:
    """The oracle's float64 network is the file's; its gradient is a finite difference."""
    path = ROOT / family / "onnx" / f"{family}.onnx"
    network, session, random = read_network(path), open_session(path), np.random.default_rng(0)
    for _ in range(20):
        x = random.random(network.inputs)
        np.testing.assert_allclose(network.forward(x), run_session(session, x), atol=1e-4)
    weights, step = random.normal(size=len(network.forward(x))), 1e-6 * random.normal(size=network.inputs)
    change = weights @ (network.forward(x + step) - network.forward(x - step))
    assert change == pytest.approx(2 * network.gradient(x, weights) @ step, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize(("family", "name"), QUICK)
def test_oracle_reproduces_margins(family: str, name: str) -> None:
    """The exact program finds the recorded optimum again, and no sample lies below it."""
    path = ROOT / family / "onnx" / f"{family}.onnx"
    row = next(
        row for row in table(ROOT / family / "verdicts.csv") if row["vnnlib"] == f"vnnlib/{name}.vnnlib"
    )
    queries = read_queries((ROOT / family / row["vnnlib"]).read_text())
    relaxed = [encode(path, *query[:2]).minimise(*query[2:], integer=False).lower_bound for query in queries]
    least, random, network = np.inf, np.random.default_rng(0), read_network(path)
    for index in np.argsort(relaxed):
        if relaxed[index] > least:
            break
        query = queries[index]
        optimum, gap, x = minimise_margin(path, *query)
        assert gap < 1e-4
        assert margin_at(network, query, x) == pytest.approx(optimum, abs=1e-4)
        for sample in random.uniform(query.lower, query.upper, size=(200, len(query.lower))):
            assert margin_at(network, query, sample) >= optimum - 1e-4
        least = min(least, optimum)
    assert least == pytest.approx(float(row["lower_bound"]), abs=1e-4)


def test_oracle_on_a_hand_made_network(tmp_path: Path) -> None:
    """|x| - x, with |x| = relu(x) + relu(-x): its minimum over [-1, 2] is 0, over [-3, -1] it is 2."""
    weights = {"split": [[1.0], [-1.0]], "join": [[1.0, 1.0]]}
    nodes = [
        helper.make_node("Gemm", ["x", "split"], ["z"], transB=1),
        helper.make_node("Relu", ["z"], ["h"]),
        helper.make_node("Gemm", ["h", "join"], ["a"], transB=1),
        helper.make_node("Sub", ["a", "x"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in "xy"]
    tensors = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "absolute", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), str(tmp_path / "a.onnx"))
    for lower, upper, wanted in ((-1.0, 2.0, 0.0), (-3.0, -1.0, 2.0)):
        assert minimise_margin(tmp_path / "a.onnx", [lower], [upper], [1.0], 0.0)[0] == pytest.approx(
            wanted, abs=1e-5
        )


def test_an_unsafe_set_is_read_as_a_disjunction() -> None:
    """Boxes and clauses multiply out; the relation's direction and the constant's side are kept."""
    text = """(declare-const X_0 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)
    (assert (or (and (>= X_0 0) (<= X_0 0.1)) (and (>= X_0 0.5) (<= X_0 1)))) ; two boxes
    (assert (or (and (>= Y_0 2) (<= Y_0 Y_1)) (and (>= Y_1 3))))"""
    queries = read_queries(text)
    assert [len(query.threshold) for query in queries] == [2, 1, 2, 1]
    assert queries[0].coefficients.tolist() == [[-1, 0], [1, -1]]
    assert queries[0].threshold.tolist() == [-2, 0]
    assert violated(text, [0.7], [2.0, 2.0])
    assert not violated(text, [0.3], [2.0, 2.0])
    assert not violated(text, [float(np.float32(0.1))], [2.0, 2.0])
