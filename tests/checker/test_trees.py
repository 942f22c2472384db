"""Bounds that small trees prove: none is beyond what a point of the box has, and a tree with a hole in it proves nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kits import WEAK, branched_at_once, relu_kit
from make_data import Files, Parts, by_hand, numbers, placed
from nets import property_text, random_layers, relu_model

from verify.bab.neuron_trees import NeuronTrees
from verify.bab.strategy import root_subproblems
from verify.bounders.ibp import interval
from verify.bounders.restricted import Restricted
from verify.deadline import Deadline
from verify.problem import prepare
from verify.proof.certificate import CertificateTracer
from verify.proof.recording import recording
from verify.proof.trimming import trim

SIZES = (2, 3, 1)
LOWER, UPPER = [-1.0, -1.0], [1.0, 1.0]
LAYERS = random_layers(2, SIZES)


def files_of(folder: Path, limit: float = -1e3) -> Files:
    """Variables 0 and 1 are inputs, 2 to 4 neurons."""
    return placed(folder, relu_model(LAYERS), property_text(LOWER, UPPER, 1, f"(<= Y_0 {limit!r})"))


def least_of(neuron: int) -> float:
    """The least value of a pre-activation on the whole box."""
    weight, bias = LAYERS[0]
    return float(bias[neuron] - np.abs(weight[neuron]).sum())


def trees(
    claims: Sequence[tuple[int, int, float]], splits: Sequence[tuple[int, int, float]] = (), multipliers: Sequence[float] = (),
    roots: Sequence[int] = (0,), layer: int = 0,
) -> tuple[str, bytes]:  # fmt: skip
    """The first layer has none below it, so there are no slopes."""
    variables, sides, values = zip(*claims, strict=True)
    head = numbers("<i8", len(roots), *roots, layer, len(claims)) + numbers("<i4", *variables)
    head += numbers("i1", *sides) + numbers("<f8", *values)
    nodes, at, ends = zip(*splits, strict=True) if splits else ((), (), ())
    middle = numbers("<i8", len(splits), *nodes) + numbers("<i4", *at) + numbers("<f8", *ends)
    return "trees", head + middle + numbers("<f2", *multipliers)


BOX = "box", numbers("<i8", 1, 0) + numbers("<f8", *[-40.0] * 3, *[40.0] * 3)
LEAF = "leaves_default", numbers("<i8", 1, 0) + numbers("<f4", 1.0)


def accepted(files: Files, *blocks: tuple[str, bytes], **options: Any) -> bool:
    by_hand(files, [BOX, *blocks, LEAF], **options)
    proved = files.check().proved
    assert files.check(exact=True).proved == proved
    return proved


def test_claims_by_trees(tmp_path: Path) -> None:
    """With no splits and with some; the least value holds, what is above it does not, whatever is split."""
    files = files_of(tmp_path)
    for neuron in range(3):
        least = least_of(neuron)
        for splits, multipliers in (
            ((), ()),
            (((0, 0, 0.25),), (0.0, 0.0)),
            (((0, 0, 0.25), (1, 1, -0.5), (2, 0, 7.0)), (0.5,) * 8),
            (((0, 2 + neuron, 0.0),), (0.0, 0.0)),
        ):
            claim = (2 + neuron, 1, least - 1e-6)
            if splits and splits[0][1] >= 2:
                # of what is split itself nothing is known in one half but the other end
                claim = (2 + neuron, 1, min(0.0, least - 1e-6))
            assert accepted(files, trees([claim], splits, multipliers))
            beyond = (2 + neuron, 1, least + 1e-4)
            assert not accepted(files, trees([beyond], splits, multipliers))


def test_every_leaf_has_to_reach_it(tmp_path: Path) -> None:
    """A claim that holds in one half alone."""
    files = files_of(tmp_path)
    weight, bias = LAYERS[0]
    neuron = int(np.abs(weight[:, 0]).argmax())
    rising = weight[neuron, 0] > 0
    # on the half where the neuron is larger
    least = float(bias[neuron] - np.abs(weight[neuron, 1]))
    claim = [(2 + neuron, 1, least - 1e-6)]
    assert not accepted(files, trees(claim, [(0, 0, 0.0)], (0.0, 0.0)))
    # where the other half is empty there is nothing to reach
    empty = [(0, 0, -7.0 if rising else 7.0)]
    by_hand(files, [BOX, trees([(2 + neuron, 1, least_of(neuron) - 1e-6)], empty, (0.0, 0.0)), LEAF])
    assert files.check().proved


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"splits": [(1, 0, 0.0)], "multipliers": (0, 0)}, "does not come before it"),
        ({"splits": [(-1, 0, 0.0)], "multipliers": (0, 0)}, "does not come before it"),
        ({"splits": [(0, 0, 0.0), (0, 0, 0.5)], "multipliers": (0, 0, 0)}, "twice"),
        ({"splits": [(0, 9, 0.0)], "multipliers": (0, 0)}, "unknown variable"),
        ({"splits": [(0, -1, 0.0)], "multipliers": (0, 0)}, "unknown variable"),
        ({"splits": [(0, 0, np.nan)], "multipliers": (0, 0)}, "no number"),
        ({"splits": [(0, 0, np.inf)], "multipliers": (0, 0)}, "no number"),
        ({"splits": [(0, 0, 0.0)], "multipliers": (0,)}, "less in it"),
        ({"splits": [(0, 0, 0.0)], "multipliers": (0, 0, 0)}, "more in it"),
        ({"roots": (1,)}, "not in the tree"),
        ({"roots": ()}, "not in the tree"),
        ({"layer": 1}, "no layer 1"),
        ({"layer": -1}, "no layer -1"),
        ({"claims": [(1, 1, -50.0)]}, "not of its variables"),
        ({"claims": [(5, 1, -50.0)]}, "not of its variables"),
        ({"claims": [(2, 0, -50.0)]}, "no side"),
        ({"claims": [(2, 1, np.nan)]}, "not finite"),
        ({"claims": [(2, 1, np.inf)]}, "not finite"),
    ],
)  # fmt: skip
def test_trees_that_are_none(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    files = files_of(tmp_path)
    whole: dict[str, Any] = {"claims": [(2, 1, -50.0)]} | change
    by_hand(files, [BOX, trees(**whole), LEAF])
    found = files.check()
    assert not found.proved
    assert words in found.sentence, found.sentence


def test_claims_of_one_box_alone(tmp_path: Path) -> None:
    """Roots that share a block share a box, and what is claimed of it."""
    limits = " ".join(f"(and (>= X_0 {low}) (<= Y_0 -1000.0))" for low in ("-1.0", "-0.5"))
    files = placed(tmp_path, relu_model(LAYERS), property_text(LOWER, UPPER, 1, f"(or {limits})"))
    both = [("leaves_default", numbers("<i8", 2, 0, 1) + numbers("<f4", 1.0, 1.0))]
    claim = trees([(2, 1, -50.0)], roots=(0, 1))
    by_hand(files, [claim, *both], roots=[[0], [1]])
    assert "different boxes share a claim" in files.check().sentence
    by_hand(files, both, roots=[[0], [1]])
    assert files.check().proved


def test_a_false_bound_would_prove_anything(tmp_path: Path) -> None:
    """A property that is violated; claims beyond the truth, however they are split."""
    files = files_of(tmp_path, 1e3)
    for side, value in ((1, 0.5), (-1, -0.5)):
        for variable in (2, 3, 4):
            for splits in ((), ((0, variable, 0.0),), ((0, 0, 0.0), (1, 1, 0.0))):
                claim = trees([(variable, side, value * 100)], splits, (0.0,) * (0, 2, 5)[len(splits)])
                by_hand(files, [BOX, claim, LEAF])
                assert not files.check().proved


# -- as a search writes them


@pytest.mark.parametrize("seed", range(4))
def test_what_trees_bound_is_proved(seed: int, tmp_path: Path) -> None:
    """`NeuronTrees` with a tracer: the claims stand for the bounds that the search goes on with, and are no better than they may be."""
    layers = random_layers(seed, (3, 6, 6, 2))
    files = placed(tmp_path, relu_model(layers), property_text([-1.0] * 3, [1.0] * 3, 2, "(<= Y_0 -1000.0)"))
    problem = prepare(files.model, files.property)
    network = problem.model.network
    with recording(files.certificate, files.model, files.property, problem) as record:
        tracer = CertificateTracer(network, problem.rows, record.writer)
        roots = root_subproblems(problem.rows, [0], network.alphas, network.device)
        roots = tracer.roots(roots, roots.clause[:, None])
        box = tracer.boxes(roots.clause, torch.zeros(1, dtype=torch.int64), 1)
        bounds = box.settled(interval(network, *problem.boxes([0]))[0])
        box.known(bounds)
        method = NeuronTrees(Restricted(iterations=2), Restricted(iterations=1, step=0.3, decay=0.6))
        tight = method.tighten(network, bounds, 3, Deadline(), Deadline(), torch.float32, tracer=box)
        tracer.leaves_by_default(roots)
        assert record.close_unsat(problem) is None
    inputs = slice(network.inputs, None)
    assert float((bounds.upper - bounds.lower - tight.upper + tight.lower)[0, inputs].max()) > 0.01
    blocks = [kind for kind, _ in Parts.read(files.certificate).blocks]
    assert blocks.count("trees") >= 1
    x = torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (500, 3)))
    for layer, (weight, bias) in zip(network.layers, layers, strict=False):
        z = x @ torch.from_numpy(weight).double().T + torch.from_numpy(bias).double()
        low, high = (end[0, layer.variables] for end in (tight.lower, tight.upper))
        assert bool(((z >= low) & (z <= high)).all())
        x = z.relu()


def test_roots_that_begin_anew(tmp_path: Path) -> None:
    """What is left of a tree is covered by the root that took its place; and thinned out, it still is."""
    one = relu_kit(tmp_path, "trees", 2, 1, 0.02, "activations", WEAK, branched_at_once)
    kinds = [kind for kind, _ in one.parts.blocks]
    assert kinds[-1] == "covered"
    assert "trees" in kinds
    roots = one.parts.tensors["root.clause"]
    assert len(roots) > 2
    assert not roots.any()
    target = tmp_path / "trimmed"
    trim(one.files.certificate, one.files.model, one.files.property, target)
    assert one.files._replace(certificate=target).check().proved
    without = one.parts.copy()
    without.blocks = one.parts.blocks[:-1]
    without.write(one.files.certificate)
    assert "neither split nor closed" in one.files.check().sentence
