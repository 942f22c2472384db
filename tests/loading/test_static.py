"""What is made static while a model is loaded: functions, branches, loops and sequences.

Each model is written as ONNX's text, and compared with ONNX Runtime.
"""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser
from patience import PATIENCE

from verify.errors import ModelError
from verify.loading import load
from verify.loading.onnx.functions import MOST_NODES

WEIGHTS = (
    "float[3,4] w = {0.5, -1, 0.25, 2, 1.5, 0.75, -0.5, 0.3, -0.7, 0.9, 1.1, -0.2}, float[4,2] v = {1, -1, 0.5, "
    "0.3, -0.8, 0.6, 0.2, 1.4}, float[3] c = {0.1, -0.2, 0.3}, int64 zero = {0}, int64 one = {1}, int64 two = {2}, "
    "int64 three = {3}, int64[1] ones = {1}, int64[2] flat = {1, -1}, bool yes = {1}, bool no = {0}"
)


def text(nodes: str, functions: str = "", opset: int = 17, shape: str = "1,3") -> onnx.ModelProto:
    """A model from x to y of nodes, with weights that have names."""
    head = f'<ir_version: 9, opset_import: ["" : {opset}, "my" : 1]> g (float[{shape}] x) => (float[] y) <{WEIGHTS}>'
    model = parser.parse_model(f"{head} {{ {nodes} }} {functions}")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def function(name: str, head: str, nodes: str, opset: int = 17) -> str:
    return f'<domain: "my", opset_import: ["" : {opset}, "my" : 1]> {name} {head} {{ {nodes} }}'


def same(model: onnx.ModelProto) -> None:
    """The network computes what ONNX Runtime does."""
    loaded = load(model)
    x = np.random.default_rng(3).standard_normal((20, loaded.network.inputs)).astype(np.float32)
    found = loaded.network.forward(torch.from_numpy(x).double()).flatten(1).numpy()
    np.testing.assert_allclose(found, loaded.evaluate(x), rtol=2e-5, atol=2e-5)


def refused(model: onnx.ModelProto, *parts: str) -> None:
    with pytest.raises(ModelError) as caught:
        load(model)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


# functions

LINEAR = function("Linear", "(a, w) => (b)", "t = MatMul (a, w) b = Relu (t)")
FUNCTIONS = {
    "called twice": (
        "h = my.Linear (x, w) y = my.Linear (h, v)", LINEAR,
    ),
    "nested": (
        "y = my.Both (x, w, v)",
        LINEAR + function("Both", "(a, w, v) => (b)", "t = my.Linear (a, w) b = my.Linear (t, v)"),
    ),
    "attributes": (
        "h = my.Leaky <slope: float = 0.25> (x) y = MatMul (h, w)",
        function("Leaky", "<slope> (a) => (b)", "b = LeakyRelu <alpha: float = @slope> (a)"),
    ),
    "defaults": (
        "h = my.Leaky (x) g = my.Leaky <slope: float = 0.1> (h) y = MatMul (g, w)",
        function("Leaky", "<slope: float = 0.5> (a) => (b)", "b = LeakyRelu <alpha: float = @slope> (a)"),
    ),
    "several results": (
        "a, b = my.Parts (x) y = Sub (a, b)",
        function("Parts", "(a) => (p, q)", "p = Relu (a) q = Tanh (p)"),
    ),
    "a result that is left out": (
        "a, _ = my.Parts (x) y = MatMul (a, w)",
        function("Parts", "(a) => (p, q)", "p = Relu (a) q = Tanh (p)"),
    ),
    "an operand that is left out": (
        "y = my.Clipped (x)",
        function("Clipped", "(a, low, high) => (b)", "z = Constant <value = float {-0.5}> () b = Clip (a, z, high)"),
    ),
    "a branch inside": (
        "y = my.Chosen (x, yes)",
        function(
            "Chosen", "(a, c) => (b)",
            "s = Neg (a) b = If (c) <then_branch = t () => (float[] r) { r = Add (a, s) }, "
            "else_branch = e () => (float[] r2) { r2 = Relu (s) }>",
        ),
    ),
    "called in a branch": (
        "y = If (no) <then_branch = t () => (float[] r) { r = Relu (x) }, "
        "else_branch = e () => (float[] q) { q = my.Linear (x, w) }>", LINEAR,
    ),
    "of another version": ("y = my.Linear (x, w)", function("Linear", "(a, w) => (b)", "t = MatMul (a, w) b = Relu (t)", 13)),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    same(text(*FUNCTIONS[name]))


def test_functions_that_make_no_sense() -> None:
    """Recursion, blow-ups, and operators whose meaning hangs on the version."""
    refused(text("y = my.F (x)", function("F", "(a) => (b)", "b = my.F (a)")), "'F'", "calls itself")
    doubling = "".join(
        function(f"F{k}", "(a) => (b)", f"t = my.F{k + 1} (a) b = my.F{k + 1} (t)") for k in range(40)
    )
    began = time.monotonic()
    many = text("y = my.F0 (x)", doubling + function("F40", "(a) => (b)", "b = Relu (a)"))
    refused(many, str(MOST_NODES))
    assert time.monotonic() - began < PATIENCE
    old = function("F", "(a) => (b)", "b = Softmax (a)", 11)
    refused(text("y = my.F (x)", old), "'F'", "Softmax", "opset 11")
    refused(text("y = my.F (x, w)", function("F", "(a) => (b)", "b = Relu (a)")), "'F'", "more operands")
    refused(text("y = my.G (x)", function("F", "(a) => (b)", "b = Relu (a)")), "G", "not a registered")
    twice = function("F", "(a) => (b)", "b = Relu (a)")
    model = text("y = my.F (x)", twice)
    model.functions.append(model.functions[0])
    refused(model, "two functions")


# branches


def branch(condition: str, then: str, other: str) -> str:
    return (
        f"y = If ({condition}) <then_branch = t () => (float[] r) {{ {then} }}, "
        f"else_branch = e () => (float[] q) {{ {other} }}>"
    )


BRANCHES = {
    "then": branch("yes", "r = MatMul (x, w)", "q = Relu (x)"),
    "else": branch("no", "r = MatMul (x, w)", "q = Relu (x)"),
    "of a shape": "s = Shape (x) n = Gather <axis = 0> (s, one) b = Equal (n, three) "
    + branch("b", "r = MatMul (x, w)", "q = Relu (x)"),
    "within": "h = Relu (x) "
    + branch(
        "yes",
        "k = Neg (h) r = If (no) <then_branch = tt () => (float[] a) { a = Identity (k) }, "
        "else_branch = ee () => (float[] b) { m = Add (k, c) b = Sub (m, x) }>",
        "q = Relu (x)",
    ),
    "with constants of its own": branch(
        "yes", "a = Constant <value = float[3] {1.0, 2.0, 3.0}> () r = Mul (x, a)", "q = Identity (x)"
    ),
    "of constants alone": "p, o = If (yes) <then_branch = t () => (float[3] r, int64 i) "
    "{ r = Add (c, c) i = Identity (two) }, else_branch = e () => (float[3] q, int64 j) "
    "{ q = Identity (c) j = Identity (one) }> o1 = Unsqueeze (o, ones0) m = Mul (x, p) f = Cast <to = 1> (o1) y = Mul (m, f)",
    "unsorted": "y = Add (h, x) h = If (yes) <then_branch = t () => (float[] r) { r = Relu (g) }, "
    "else_branch = e () => (float[] q) { q = Neg (g) }> g = Sub (x, c)",
}


@pytest.mark.parametrize("name", BRANCHES)
@pytest.mark.parametrize("opset", [13, 16, 21])
def test_branches(name: str, opset: int) -> None:
    model = text(BRANCHES[name], opset=opset)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "ones0"))
    same(model)


def test_branches_that_are_not_static() -> None:
    """Both, and a choice between them, if they are of one shape."""
    some = "s = ReduceSum <keepdims = 0> (x) z = Constant <value = float {0.0}> () b = Greater (s, z) "
    same(text(some + branch("b", "r = MatMul (x, w)", "q0 = MatMul (x, w) q = Relu (q0)")))
    same(text(some + branch("b", "r = Identity (c)", "q = Neg (c)")))
    refused(text(some + branch("b", "r = MatMul (x, w)", "q = Relu (x)")), "If", "differs in shape")


def test_tensors_of_one_name() -> None:
    """The innermost counts, as in ONNX Runtime; which of two constants does hangs on who reads it."""
    same(text(branch("yes", "y = Relu (x)", "y = Neg (x)").replace("r)", "y)").replace("q)", "y)")))
    same(text("h = Relu (x) y = Loop (two, , h) " + BODY.replace("[] s)", "[] x)") % ("", "s2 = Sub (x, h)")))
    shadow = branch(
        "yes", "c = Constant <value = float[3] {1.0, 2.0, 3.0}> () r = Mul (x, c)", "q = Relu (x)"
    )
    refused(text(shadow), "'c'", "two tensors")
    inner = "b = Loop (n, , a) <body = i (int64 i, bool k, float[] a) => (bool k2, float[] r) { k2 = Identity (k) r = Sub (a, b0) }>"
    same(text("y = my.F (x, x, two)", function("F", "(a, b0, n) => (b)", inner)))


# loops

BODY = "<body = b (int64 i, bool k, float[] s) => (bool k2, float[] s2%s) { k2 = Identity (k) %s }>"
LOOPS = {
    "steps": "y = Loop (three, yes, x) " + BODY % ("", "t = Mul (s, c) s2 = Relu (t)"),
    "no condition": "y = Loop (two, , x) " + BODY % ("", "s2 = Add (s, x)"),
    "never": "h = Loop (zero, yes, x) " + BODY % ("", "s2 = Neg (s)") + " y = MatMul (h, w)",
    "its number": "y = Loop (three, yes, x) " + BODY % ("", "f = Cast <to = 1> (i) s2 = Add (s, f)"),
    "a condition": "y = Loop (, yes, x) <body = b (int64 i, bool k, float[] s) => (bool k2, float[] s2) "
    "{ k2 = Less (i, two) s2 = Add (s, c) }>",
    "results of rounds": "a, q = Loop (three, yes, x) "
    + BODY % (", float[] o", "s2 = Mul (s, c) o = Relu (s2)")
    + " p = Reshape (q, flat) y = Concat <axis = 1> (a, p)",
    "rows": "q = Loop (three, yes) <body = b (int64 i, bool k) => (bool k2, float[] o) "
    "{ k2 = Identity (k) g = Gather <axis = 1> (x, i) o = Tanh (g) }> y = Reshape (q, flat)",
    "constant rows": "q = Loop (three, yes) <body = b (int64 i, bool k) => (bool k2, int64[] o) "
    "{ k2 = Identity (k) o = Add (i, one) }> f = Cast <to = 1> (q) y = Mul (x, f)",
    "within": "y = Loop (two, yes, x) "
    + BODY
    % (
        "",
        "j = Add (i, one) s2 = Loop (j, k, s) <body = d (int64 ii, bool kk, float[] r) => (bool kk2, float[] r2) "
        "{ kk2 = Identity (kk) m = Mul (r, c) r2 = Add (m, x) }>",
    ),
    "a branch within": "y = Loop (three, yes, x) "
    + BODY
    % (
        "",
        "e = Equal (i, one) s2 = If (e) <then_branch = t () => (float[] r) { r = Relu (s) }, "
        "else_branch = f () => (float[] q) { q = Sub (s, c) }>",
    ),
    "scan": "a, q = Scan <num_scan_inputs = 1, body = b (float[] s, float[] e) => (float[] s2, float[] o) "
    "{ s2 = Add (s, e) o = Relu (s2) }> (zeros, rows) y = Reshape (q, flat)",
    "scan backwards": "q = Scan <num_scan_inputs = 2, scan_input_axes = [1, 0], scan_input_directions = [1, 0], "
    "scan_output_axes = [1], scan_output_directions = [1], body = b (float[] e, float[] f) => (float[] o) "
    "{ m = Mul (e, f) o = Relu (m) }> (x, c) y = Reshape (q, flat)",
    "scan of constants": "q = Scan <num_scan_inputs = 1, body = b (float[] f) => (float[] o) "
    "{ o = Add (f, f) }> (c) y = Mul (x, q)",
}


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("opset", [13, 19])
def test_loops(name: str, opset: int) -> None:
    nodes = LOOPS[name]
    if "rows)" in nodes:
        nodes = "rows = Transpose <perm = [1, 0]> (x) zeros = Constant <value = float[1] {0.0}> () " + nodes
    same(text(nodes, opset=opset))


def test_loops_that_are_not_static() -> None:
    trips = "t = ReduceMax <keepdims = 0> (x) n = Cast <to = 7> (t) y = Loop (n, yes, x) "
    refused(text(trips + BODY % ("", "s2 = Neg (s)")), "Loop", "depends on the network's input")
    endless = text("y = Loop (, yes, x) " + BODY % ("", "s2 = Neg (s)"))
    refused(endless, "Loop", "10000 times")


# sequences

SEQUENCES = {
    "construct": "r = Relu (x) q = SequenceConstruct (x, r) c1 = ConcatFromSequence <axis = 1> (q) y = Neg (c1)",
    "many": "r = Relu (x) q = SequenceConstruct (x, r, x, r, x, r, x, r, x, r, r) "
    "c1 = ConcatFromSequence <axis = 1> (q) y = Neg (c1)",
    "stack": "r = Relu (x) q = SequenceConstruct (x, r) c1 = ConcatFromSequence <axis = -1, new_axis = 1> (q) "
    "y = ReduceSum (c1)",
    "at": "r = Relu (x) q = SequenceConstruct (x, r, c) a = SequenceAt (q, one) b = SequenceAt (q, last) y = Sub (a, b)",
    "insert": "r = Relu (x) e = SequenceEmpty () q = SequenceInsert (e, x) p = SequenceInsert (q, r, zero) "
    "y = ConcatFromSequence <axis = 1> (p)",
    "erase": "r = Relu (x) q = SequenceConstruct (x, r, r) p = SequenceErase (q, zero) o = SequenceErase (p) "
    "y = ConcatFromSequence <axis = 1> (o)",
    "length": "r = Relu (x) q = SequenceConstruct (x, r) n = SequenceLength (q) f = Cast <to = 1> (n) y = Mul (r, f)",
    "split": "q = SplitToSequence <axis = 1> (x) a = SequenceAt (q, two) b = SequenceAt (q, zero) y = Sub (a, b)",
    "split without the axis": "q = SplitToSequence <axis = 1, keepdims = 0> (x) a = SequenceAt (q, two) y = Relu (a)",
    "split in parts": "q = SplitToSequence <axis = -1> (x, two) a = SequenceAt (q, one) y = Relu (a)",
    "split as told": "n = Constant <value = int64[2] {1, 2}> () q = SplitToSequence <axis = 1> (x, n) "
    "a = SequenceAt (q, one) y = Relu (a)",
    "of constants": "q = SequenceConstruct (c, c) d = ConcatFromSequence <axis = 0, new_axis = 1> (q) "
    "t = Transpose <perm = [1, 0]> (d) y = MatMul (x, t)",
    "grown in a loop": "e = SequenceEmpty () q = Loop (three, yes, e) <body = b (int64 i, bool k, seq(float[]) s) "
    "=> (bool k2, seq(float[]) s2) { k2 = Identity (k) g = Gather <axis = 1> (x, i) r = Relu (g) "
    "s2 = SequenceInsert (s, r) }> y = ConcatFromSequence <axis = 0> (q)",
    "mapped": "q = SplitToSequence <axis = 1> (x) p = SequenceMap <body = b (float[] e) => (float[] o) "
    "{ o = Tanh (e) }> (q) y = ConcatFromSequence <axis = 1> (p)",
}


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("opset", [13, 18])
def test_sequences(name: str, opset: int) -> None:
    if name == "mapped" and opset < 17:
        pytest.skip("SequenceMap is of opset 17")
    model = text(SEQUENCES[name], opset=opset)
    model.graph.initializer.append(numpy_helper.from_array(np.array(-1), "last"))
    same(model)


# names, which nodes need not have and need not have to themselves


@pytest.mark.parametrize(
    "names",
    [
        ("", "", ""),
        ("x", "Relu", ""),
        ("MatMul_1", "", ""),
        ("/Relu", "", ""),
        ("a.b", "a/b", "/a/b"),
        ("initializers", "onnx_initializer_0", "onnx_initializer_1"),
        ("h_split_output", "n1_Relu", "x"),
    ],
    ids=str,
)
@pytest.mark.parametrize("input_name", ["x", "MatMul", "Relu", "onnx_initializer_0"])
def test_nodes_are_told_apart_whatever_their_names(names: tuple[str, ...], input_name: str) -> None:
    model = text("h = MatMul (x, w) r = Relu (h) t = MatMul (r, v) y = Identity (t)")
    for node, name in zip(model.graph.node, names, strict=False):
        node.name = name
    model.graph.input[0].name = model.graph.node[0].input[0] = input_name
    same(model)


def test_a_node_is_told_from_a_result_of_several() -> None:
    model = text(
        "h = MatMul (x, w) a, b = Split <axis = 1> (h, two_two) r = Relu (a) s = Mul (r, b) y = Add (s, r)"
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 2]), "two_two"))
    for node, name in zip(model.graph.node, ("h", "part", "s_split_output", "s", "y"), strict=True):
        node.name = name
    same(model)
