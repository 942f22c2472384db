"""Models of several outputs, one of which is chosen, and sizes that the property settles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from onnx_models import X, model_of, weights

import verify
from verify.cli import cli
from verify.errors import InputError, ModelError
from verify.loading import load
from verify.loading.onnx.shapes import Tensor, settled
from verify.problem import prepare
from verify.request import Request


def several() -> onnx.ModelProto:
    """Relu(x) and x - 3; beside them an operator that nobody knows, for a third output."""
    nodes = [
        helper.make_node("Relu", [X], ["y"]),
        helper.make_node("Sub", [X, "three"], ["z"]),
        helper.make_node("Acos", ["z"], ["odd"]),
    ]
    made = model_of(nodes, (1, 2), {"three": np.array([3.0], dtype=np.float32)}, "y")
    for name in ("z", "odd"):
        made.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]))
    return made


TEXT = "".join(
    f"(declare-const X_{i} Real)(declare-const Y_{i} Real)(assert (<= X_{i} 1))(assert (>= X_{i} -1))"
    for i in range(2)
)


def test_a_chosen_output(tmp_path: Path) -> None:
    """By the file, in Python and on the command line; what it does not need is not looked at."""
    onnx.save(several(), tmp_path / "m.onnx")
    (tmp_path / "p.vnnlib").write_text(TEXT + "(assert (>= Y_0 -1))")
    paths = [str(tmp_path / "m.onnx"), str(tmp_path / "p.vnnlib")]
    for output, verdict in (("y", "sat"), ("z", "unsat")):
        assert verify.verify(*paths, output=output, timeout=60).verdict == verdict
        assert (verify.bounds(*paths, output=output).bounds[0] > 0) == (verdict == "unsat")
        done = CliRunner().invoke(cli, ["run", *paths, "--output", output, "--format", "json"])
        assert json.loads(done.stdout)["verdict"] == verdict
        done = CliRunner().invoke(cli, ["info", *paths, "--output", output, "--format", "json"])
        assert json.loads(done.stdout)["output"]["name"] == output


def test_outputs_that_cannot_be_chosen(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'y', 'z', 'odd'; choose it with --output"):
        load(several())
    with pytest.raises(ModelError, match=r"no output 'w'; its outputs are 'y', 'z', 'odd'"):
        load(several(), output="w")
    with pytest.raises(ModelError, match="Acos"):
        load(several(), output="odd")
    with pytest.raises(InputError, match="output"):
        Request("m", "p", output="")
    with pytest.raises(InputError, match="output"):
        prepare(load(several(), output="y"), TEXT + "(assert (>= Y_0 -1))", output="y")
    query = "(vnnlib-version <2.0>)(declare-network f (declare-input X float32 [1,2]) (declare-output Y float32 [1,2]))"
    with pytest.raises(InputError, match="query"):
        prepare(several(), query + "(assert (<= X[0,0] 1))", output="y")


@pytest.mark.parametrize(
    ("shape", "symbols", "hint", "expected"),
    [
        ((None, 3), ("N", ""), (), (1, 3)), ((None, 3), ("N", ""), (3,), (1, 3)), ((None, 3), ("N", ""), (6,), (2, 3)),
        ((None, 1, None, 3), ("N", "", "H", ""), (9,), (1, 1, 3, 3)), ((None, 1, None, 3), (), (9,), (1, 1, 3, 3)),
        ((None, 2, None, None), ("N", "", "S", "S"), (18,), (1, 2, 3, 3)), ((None,), ("N",), (5,), (5,)),
        ((None, None), ("N", "L"), (7,), (1, 7)), ((None, None), ("N", "N"), (9,), (3, 3)),
        ((None, 3, None, None), ("N", "", "H", "W"), (3, 4, 5), (1, 3, 4, 5)),
        ((None, 3, None, None), ("N", "", "H", "W"), (2, 3, 4, 5), (2, 3, 4, 5)),
        ((None, 3), ("N", ""), (7,), (1, 3)), ((2, 3), ("", ""), (7,), (2, 3)), ((None, 0), ("N", ""), (7,), (1, 0)),
        ((1, None, None), ("", "H", "W"), (1,), (1, 1, 1)),
    ],
)  # fmt: skip
def test_sizes(
    shape: tuple[int | None, ...], symbols: tuple[str, ...], hint: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert settled(Tensor("x", "float32", shape, symbols), hint) == expected


def test_sizes_that_leave_a_choice() -> None:
    with pytest.raises(ModelError, match="'x' on axes 2, 3 are open, which 12 inputs leave a choice"):
        settled(Tensor("x", "float32", (None, 1, None, None), ("N", "", "H", "W")), (12,))


def test_sizes_from_the_property() -> None:
    """Of a text, a ball and an example alike."""
    nodes = [
        helper.make_node("Conv", [X, "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("ReduceMax", ["r"], ["m"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["m", "one"], ["y"]),
    ]
    made = model_of(nodes, ("N", 1, "H", 3), {"w": weights(2, 1, 2, 2), "one": np.array([1])}, "y")
    text = "".join(
        f"(declare-const X_{i} Real)(assert (<= X_{i} 1))(assert (>= X_{i} -1))" for i in range(12)
    )
    text += "(declare-const Y_0 Real)(assert (<= Y_0 -1))"
    problem = prepare(made, text)
    assert problem.model.input_shape == (1, 1, 4, 3)
    assert verify.verify(made, text, timeout=60).verdict == "unsat"
    box = (np.zeros((1, 1, 5, 3)), np.ones((1, 1, 5, 3)))
    spec = verify.Specification(box=box, unsafe=[[verify.Row([1.0], -1.0)]])
    assert prepare(made, spec).model.input_shape == (1, 1, 5, 3)
    assert load(made, example_input=np.zeros((1, 1, 6, 3))).input_shape == (1, 1, 6, 3)
