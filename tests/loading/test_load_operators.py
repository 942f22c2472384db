"""Every operator that loads: the network against ONNX Runtime, and the adjoint identity of every affine map
in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from old_runtime import skip_if
from onnx import helper
from onnx_models import ACTIVATIONS, AFFINE, UNSUPPORTED, Case, X, model_of, scalar, weights

from verify.errors import ModelError, UnsupportedOperatorError
from verify.loading import LoadedModel, load
from verify.loading.onnx.model import NEWEST_OPSET
from verify.network.activations.product import Product
from verify.network.activations.reciprocal import Reciprocal
from verify.network.activations.relu import Relu
from verify.network.affine import Affine


def agree(loaded: LoadedModel, tolerance: float = 2e-5, positive: bool = False) -> None:
    """The network computes what ONNX Runtime does."""
    random = np.random.default_rng(3)
    x = random.standard_normal((3, loaded.network.inputs)).astype(np.float32)
    x = np.abs(x) + np.float32(0.5) if positive else x
    found = loaded.network.forward(torch.from_numpy(x).double()).numpy()
    np.testing.assert_allclose(found, loaded.evaluate(x), rtol=tolerance, atol=tolerance)


def check_adjoints(loaded: LoadedModel) -> None:
    """<W x, y> = <x, W^T y> for every affine map, and a batch is as good as its samples."""
    generator = torch.Generator().manual_seed(5)
    network = loaded.network
    for node in network.nodes[1:]:
        if not isinstance(node.operator, Affine):
            continue
        shapes = [network.nodes[operand].shape for operand in node.operands]
        xs = [torch.randn(2, *shape, generator=generator, dtype=torch.float64) for shape in shapes]
        y = torch.randn(2, *node.shape, generator=generator, dtype=torch.float64)
        zeros = [torch.zeros_like(x) for x in xs]
        linear = node.operator.forward(*xs) - node.operator.forward(*zeros)
        assert linear.shape == y.shape
        back = node.operator.transpose(y)
        left = (linear * y).flatten(1).sum(dim=1)
        right = sum((x * z).flatten(1).sum(dim=1) for x, z in zip(xs, back, strict=True))
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", AFFINE, ids=str)
def test_affine_operator(case: Case) -> None:
    skip_if(str(case) == "Einsum-13-one operand")
    loaded = load(case.model())
    assert not loaded.network.layers
    agree(loaded)
    check_adjoints(loaded)
    unfolded = load(case.model(), fold=False)
    agree(unfolded)
    check_adjoints(unfolded)


@pytest.mark.parametrize("case", ACTIVATIONS, ids=str)
def test_activation(case: Case) -> None:
    positive = "positive" in case.note
    loaded = load(case.model(), box=(np.full(4, 0.5), np.full(4, 2.0)) if positive else None)
    agree(loaded, tolerance=1e-4, positive=positive)
    check_adjoints(loaded)


def same_call(case: Case) -> bool:
    """Whether the newest opset has a newer version of the operator that takes the same operands and attributes."""
    old, new = (onnx.defs.get_schema(case.operator, opset, "") for opset in (case.opset, NEWEST_OPSET))
    same = old.attributes.keys() == new.attributes.keys() and old.max_input == new.max_input
    newer = old.since_version < new.since_version and not new.deprecated
    lacking = case.operator == "GlobalLpPool"  # in ONNX Runtime
    return same and newer and "of groups" not in case.note and not lacking


@pytest.mark.parametrize("case", list(filter(same_call, (*AFFINE, *ACTIVATIONS))), ids=str)
def test_newest_opset(case: Case) -> None:
    if "positive" not in case.note:
        agree(load(replace(case, opset=NEWEST_OPSET).model()), tolerance=1e-4)


@pytest.mark.parametrize("case", UNSUPPORTED, ids=str)
def test_unsupported_operator_is_named(case: Case) -> None:
    with pytest.raises(ModelError) as caught:
        load(case.model())
    assert isinstance(caught.value, UnsupportedOperatorError)
    assert (caught.value.node, caught.value.operator, caught.value.opset) == (
        "the_node",
        case.operator,
        case.opset,
    )
    assert all(part in str(caught.value) for part in ("the_node", case.operator, str(case.opset)))


def test_maximum_pools_have_nothing_but_relus() -> None:
    for case in ACTIVATIONS:
        if case.operator in ("MaxPool", "Max", "Min", "ReduceMax"):
            layers = load(case.model()).network.layers
            assert all(isinstance(layer.activation, Relu) for layer in layers)


def branches(operator: str, right: tuple[int, ...] = (1, 4)) -> onnx.ModelProto:
    """operator(relu(x), A x), the right operand in another shape."""
    nodes = [
        helper.make_node("Relu", [X], ["left"]),
        helper.make_node("MatMul", [X, "w"], ["product"]),
        helper.make_node("Reshape", ["product", "shape"], ["right"]),
        helper.make_node(operator, ["left", "right"], ["y"]),
    ]
    return model_of(
        nodes,
        (1, 4),
        {"w": np.abs(weights(4, int(np.prod(right)))), "shape": np.array(right, dtype=np.int64)},
        "y",
    )


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Max", "Min", "Div"])
@pytest.mark.parametrize("right", [(1, 4), (2, 1), (1,)], ids=str)
def test_two_branches(operator: str, right: tuple[int, ...]) -> None:
    model = branches(operator, right)
    if operator != "Div":
        loaded = load(model)
        agree(loaded)
        check_adjoints(loaded)
        return
    lower = np.full(4, 0.5)
    loaded = load(model, box=(lower, lower + 1))  # the divisor is positive here
    assert {type(layer.activation) for layer in loaded.network.layers} == {Relu, Reciprocal, Product}
    agree(loaded, positive=True)


def test_a_constant_divided_by_a_variable() -> None:
    case = Case("Div", [scalar(3.0), X], (1, 4))
    loaded = load(case.model(), box=(np.ones(4), np.full(4, 2.0)))
    assert [type(layer.activation) for layer in loaded.network.layers] == [Reciprocal]


def test_constants_are_evaluated_on_the_way() -> None:
    nodes = [
        helper.make_node("Shape", [X], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], axis=0),
        helper.make_node("Unsqueeze", ["batch", "axes"], ["batch_1"]),
        helper.make_node("Concat", ["batch_1", "minus_one"], ["target"], axis=0),
        helper.make_node("Reshape", [X, "target"], ["flat"]),
        helper.make_node("Transpose", ["w"], ["w_t"], perm=[1, 0]),
        helper.make_node("MatMul", ["flat", "w_t"], ["y"]),
    ]
    constants = {
        "zero": np.array(0), "axes": np.array([0]), "minus_one": np.array([-1]), "w": weights(3, 8),
    }  # fmt: skip
    loaded = load(model_of(nodes, ("batch", 2, 4), constants, "y"))
    assert loaded.input_shape == (1, 2, 4)
    assert [type(node.operator).__name__ for node in loaded.network.nodes[1:]] == ["Reshape", "Dense"]
    agree(loaded)


def test_weights_of_a_convolution_may_be_computed() -> None:
    nodes = [
        helper.make_node("Reshape", ["w", "shape"], ["kernel"]),
        helper.make_node("Conv", [X, "kernel"], ["y"]),
    ]
    loaded = load(model_of(nodes, (1, 2, 4, 4), {"w": weights(24), "shape": np.array([3, 2, 2, 2])}, "y"))
    agree(loaded)


def test_constant_outputs_and_identities() -> None:
    nothing = helper.make_node("Identity", [X], ["y"])
    loaded = load(model_of([nothing], (1, 4), {}, "y"))
    agree(loaded)
    zero = [helper.make_node("Mul", ["c", "c"], ["y"]), helper.make_node("Relu", [X], ["unused"])]
    constant = load(model_of(zero, (1, 4), {"c": weights(1, 3)}, "y"))
    assert constant.network.outputs == 3 and not constant.network.layers
    agree(constant)


def test_the_same_entry_used_twice() -> None:
    nodes = [
        helper.make_node("Split", [X], ["a", "b"], axis=1),
        helper.make_node("Add", ["a", "a"], ["c"]),
        helper.make_node("Concat", ["c", "b", "a"], ["y"], axis=1),
    ]
    loaded = load(model_of(nodes, (1, 6), {}, "y"))
    agree(loaded)
    check_adjoints(loaded)


def test_names_are_those_of_onnx_tensors() -> None:
    nodes = [
        helper.make_node("MatMul", [X, "w"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("MaxPool", ["active"], ["y"], kernel_shape=[2]),
    ]
    loaded = load(model_of(nodes, (1, 2, 4), {"w": weights(4, 4)}, "y"))
    names = [node.name for node in loaded.network.nodes]
    assert names[:3] == ["x", "hidden", "active"] and names[-1] == "y"
    assert (loaded.input_name, loaded.output_name) == ("x", "y")
    assert len(set(names)) == len(names)


def test_double_precision_models() -> None:
    node = helper.make_node("Gemm", [X, "w"], ["y"])
    w = weights(4, 3).astype(np.float64) / 3
    loaded = load(model_of([node], (1, 4), {"w": w}, "y", element_type=onnx.TensorProto.DOUBLE))
    assert loaded.element_type == "float64"
    agree(loaded, tolerance=1e-14)
    operator: Any = loaded.network.nodes[1].operator
    assert torch.equal(operator.weight, torch.from_numpy(w.T))


def test_casts() -> None:
    def back_and_forth(between: int) -> onnx.ModelProto:
        there = helper.make_node("Cast", [X], ["h"], to=between, name="there")
        return model_of(
            [there, helper.make_node("Cast", ["h"], ["y"], to=onnx.TensorProto.FLOAT)], (1, 4), {}, "y"
        )

    agree(load(back_and_forth(onnx.TensorProto.DOUBLE)))
    with pytest.raises(UnsupportedOperatorError, match=r"'there'.*Cast.*rounds"):
        load(back_and_forth(onnx.TensorProto.FLOAT16))


def test_scalars() -> None:
    nodes = [
        helper.make_node("ReduceSum", [X], ["total"], keepdims=0),
        helper.make_node("Relu", ["total"], ["active"]),
        helper.make_node("Mul", ["active", "total"], ["y"]),
    ]
    loaded = load(model_of(nodes, (1, 4), {}, "y"))
    assert loaded.output_shape == () and loaded.network.outputs == 1
    agree(loaded)
