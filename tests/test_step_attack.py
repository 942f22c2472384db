"""Attacks on networks with steps: gradients that lead through them, and searches that need none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from nets import EXAMPLES, label, property_text, random_layers, relu_model, row_text
from onnx import helper, numpy_helper

import verify
from verify.attack import Attack
from verify.deadline import Deadline
from verify.network.activations import Activation
from verify.network.graph import Network
from verify.network.straight_through import straight_through
from verify.problem import Problem, Witness, prepare
from verify.step_attack import StepAttack, _Search, cell_points, for_steps, front_of

QUICK = Attack(restarts=4, steps=20, seconds=1.0)
STEPS = ("Sign", "Round", "Floor", "Ceil")


def stepped(seed: int, sizes: list[int], step: str, tail: str | None = None) -> onnx.ModelProto:
    """A chain of dense maps with the step between them, four levels a unit; `tail` behind."""
    graph = relu_model(random_layers(seed, sizes))
    scale = numpy_helper.from_array(np.float32(4), "scale")
    graph.graph.initializer.append(scale)
    nodes: list[onnx.NodeProto] = []
    for node in graph.graph.node:
        if node.op_type == "Relu":
            (before,), (after,) = node.input, node.output
            nodes.append(helper.make_node("Mul", [before, "scale"], [f"{before}_scaled"]))
            nodes.append(helper.make_node(step, [f"{before}_scaled"], [after]))
        else:
            nodes.append(node)
    if tail is not None:
        output = graph.graph.output[0].name
        nodes[-1].output[0] = "logits"
        nodes.append(helper.make_node(tail, ["logits"], [output]))
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    return graph


def high(network: Network, inputs: int) -> float:
    """More than the first output is at any of many random points and corners of the unit box."""
    x = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (50_000, inputs)))
    x[::2] = x[::2].sign()
    y = network.forward(x.to(network.dtype))[:, 0]
    return float(y.max() + 0.05 * y.std())


def attacked(attack: Attack, problem: Problem, seed: int = 0) -> Witness | None:
    """What an attack finds on all clauses, in a network of the model's own type."""
    network = problem.model.network.to("cpu", torch.float32)
    clauses = list(range(problem.clauses))
    return attack.run(problem, network, clauses, np.random.default_rng(seed), Deadline.after(60.0))


def ball(inputs: int, unsafe: str, outputs: int = 1) -> str:
    """A property of the unit box."""
    return property_text([-1.0] * inputs, [1.0] * inputs, outputs, unsafe)


def test_networks_without_steps_keep_their_attack() -> None:
    network = prepare(relu_model(random_layers(0, [2, 4, 1])), ball(2, row_text([1.0], 0.0))).model.network
    assert for_steps(QUICK, network) is QUICK
    network = prepare(stepped(0, [2, 4, 1], "Sign"), ball(2, row_text([1.0], 0.0))).model.network
    assert for_steps(QUICK, network) == StepAttack(restarts=4, steps=20, seconds=1.0)


@pytest.mark.parametrize("activation", [a for a in EXAMPLES if a.flat], ids=label)
def test_surrogate_slopes(activation: Activation) -> None:
    """Above 0 everywhere, at steps and far from them; for steps alone."""
    z = torch.tensor([[-1e3, -2.5, -1e-3, 0.0, 0.5, 7.0], [0.0] * 6])
    slope = activation.surrogate_slope(z)
    assert slope is not None
    assert slope.shape == z.shape and bool((slope > 0).all()) and bool(slope.isfinite().all())
    assert all(a.surrogate_slope(z) is None for a in EXAMPLES if not a.flat)


@pytest.mark.parametrize("step", STEPS)
def test_values_are_the_network_s_own_and_gradients_lead_through(step: str) -> None:
    network = prepare(stepped(0, [5, 20, 20, 1], step), ball(5, row_text([1.0], 0.0))).model.network
    x = torch.rand(30, 5, dtype=network.dtype, requires_grad=True)
    values = straight_through(network, x)
    assert all(bool((a == b).all()) for a, b in zip(values, network.values(x), strict=True))
    (gradient,) = torch.autograd.grad(values[-1].sum(), x)
    assert bool((gradient != 0).any(1).all()) and bool(gradient.isfinite().all())


@pytest.mark.parametrize("step", STEPS)
def test_finds_what_no_gradient_leads_to(step: str) -> None:
    """Values beyond those of 50,000 random points, in most of the networks; a plain attack finds fewer."""
    found, plain = 0, 0
    for seed in range(4):
        model = stepped(seed, [20, 24, 24, 1], step)
        network = prepare(model, ball(20, row_text([1.0], 0.0))).model.network
        problem = prepare(model, ball(20, row_text([-1.0], -high(network, 20))))
        # it ends once something is found: the limit is for busy machines
        found += attacked(for_steps(replace(QUICK, seconds=10.0), network), problem) is not None
        plain += attacked(QUICK, problem) is not None
    assert found >= 3
    assert found >= plain + 2


def test_descends_in_front_of_a_saturated_softmax() -> None:
    """Where softmax is 0 and 1 in float32, what leads is what it is taken of."""
    model = stepped(5, [30, 60, 12], "Sign", "Softmax")
    weights = {one.name: one for one in model.graph.initializer}
    last = [node for node in model.graph.node if node.op_type == "Gemm"][-1]
    big = numpy_helper.to_array(weights[last.input[1]]) * np.float32(2000)
    weights[last.input[1]].CopyFrom(numpy_helper.from_array(big, last.input[1]))
    problem = prepare(model, ball(30, row_text([1.0] + [0.0] * 11, 0.5), 12))
    network = problem.model.network.to("cpu", torch.float32)
    assert network.nodes[front_of(network)].size == 12 and front_of(network) < len(network.nodes) - 1
    search = _Search(problem, network, [0], np.random.default_rng(0), Deadline())
    x = search.starts(50).requires_grad_(True)
    values = straight_through(network, x)
    assert bool((values[-1].flatten(1).amax(1) == 1).all())
    gradient = search._gradient(x, values)
    assert bool((gradient != 0).any(1).all()) and bool(gradient.isfinite().all())


def test_all_clauses_of_a_box_are_descended_together() -> None:
    """The one clause of many that can be violated is found wherever it stands."""
    model = stepped(5, [8, 16, 1], "Round")
    network = prepare(model, ball(8, row_text([1.0], 0.0))).model.network
    x = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (1000, 8)))
    reach = float(network.forward(x)[:, 0].quantile(0.999))
    rows = [row_text([-1.0], -(reach + 1e6 * (number != 70))) for number in range(80)]
    problem = prepare(model, ball(8, f"(or {' '.join(f'(and {row})' for row in rows)})"))
    assert problem.clauses == 80
    witness = attacked(StepAttack(seconds=5.0), problem)
    assert witness is not None and float(witness.outputs[0, 0]) >= reach


def test_descents_from_given_points() -> None:
    """Each point on its own box; a witness is one of the box that it was found in."""
    model = stepped(1, [6, 12, 1], "Floor")
    boxes = [(-1.0, 0.0), (0.0, 1.0)]
    sides = " ".join(
        "(and " + " ".join(f"(>= X_{i} {low}) (<= X_{i} {high})" for i in range(6)) + " (>= Y_0 -1000.0))"
        for low, high in boxes
    )
    problem = prepare(model, ball(6, f"(or {sides})"))
    network = problem.model.network.to("cpu", torch.float32)
    points = torch.full((4, 6), 0.5)
    for owner in range(2):
        witness = StepAttack().descend(problem, network, [owner] * 4, points, Deadline.after(20.0))
        low, high_end = (end[0].numpy() for end in problem.boxes([owner]))
        assert witness is not None
        assert bool(((witness.inputs[0] >= low) & (witness.inputs[0] <= high_end)).all())


def test_ends_at_its_time_limit() -> None:
    model = stepped(0, [6, 12, 1], "Sign")
    problem = prepare(model, ball(6, row_text([-1.0], -1e6)))
    network = problem.model.network.to("cpu", torch.float32)
    assert StepAttack().run(problem, network, [0], np.random.default_rng(0), Deadline.after(0.0)) is None


def test_a_box_of_one_point_is_one_cell() -> None:
    network = prepare(stepped(0, [2, 4, 1], "Round"), ball(2, row_text([1.0], 0.0))).model.network
    point = torch.full((1, 2), 0.5, dtype=network.dtype)
    assert cell_points(network, point, point).tolist() == point.tolist()


def test_nothing_is_left_to_attack() -> None:
    """Where intervals of the outputs exclude every clause before the search: an output that is 1, 0 or -1 is never above 1."""
    model = stepped(1, [2, 4, 1], "Floor", "Sign")
    result = verify.verify(model, verify.Never(verify.y[0] > 1, ([-1.0] * 2, [1.0] * 2)))
    assert result.verdict == "unsat" and "no clause is left" in result.reason
