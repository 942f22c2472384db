"""Kinds of blocks: one class here, one in the checker, a row in the documentation; the two sides share nothing but the numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from nets import property_text, random_layers, relu_model

from verify.bab.strategy import root_subproblems
from verify.checker import container, rules
from verify.checker.checking import check
from verify.checker.showing import describe
from verify.problem import prepare
from verify.proof import blocks, writer
from verify.proof.blocks import OfNodes, in_bytes
from verify.proof.certificate import CertificateTracer
from verify.proof.kinds import BLOCKS
from verify.proof.recording import recording
from verify.proof.trimming import trim

FORMAT = Path(__file__).parents[2] / "docs" / "certificate-format.md"


def test_the_table_of_blocks_is_true() -> None:
    """docs/certificate-format.md has a row for every kind, and says of it what its class says."""
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (.*) \| (.*) \|$", FORMAT.read_text(), flags=re.MULTILINE)
    assert [(int(code), *rest) for code, *rest in rows] == [
        (code, kind.name, kind.content, kind.shows) for code, kind in sorted(BLOCKS.items())
    ]


def test_both_sides_number_kinds_alike() -> None:
    """Each has its own table."""
    assert {code: kind.name for code, kind in BLOCKS.items()} == {
        code: rule.name for code, rule in rules.RULES.items()
    }
    assert writer.FORMAT == container.FORMAT


def test_a_number_is_given_once() -> None:
    for register in (blocks.register, rules.register):
        with pytest.raises(ValueError, match="blocks 0 are box"):
            register(0, "another")(OfNodes)  # type: ignore[arg-type]
    assert BLOCKS[0].name == rules.RULES[0].name == "box"


def test_slopes_in_bytes() -> None:
    """What was rounded once is held as it is."""
    held = np.arange(256) / 255
    assert in_bytes(held).tolist() == list(range(256))
    assert in_bytes(np.array([-0.1, 1.1, 0.5])).tolist() == [0, 255, 128]


@pytest.fixture
def documented() -> Iterator[type[blocks.Block]]:
    """What docs/adding-a-certificate-rule.md adds, in the proof and in the checker, as a kind that there is not yet."""
    guide = (FORMAT.parent / "adding-a-certificate-rule.md").read_text()
    for name, text in re.findall(
        r"^```diff\n--- verify/(.*?)\.py\n(.*?)^```$", guide, flags=re.MULTILINE | re.DOTALL
    ):
        module = import_module(f"verify.{name.replace('/', '.')}")
        code = re.sub(r"^\+", "", text, flags=re.MULTILINE)
        exec(code.replace('(6, "leaves_default")', '(99, "leaves_again")'), dict(vars(module)))
    yield BLOCKS[99]
    del BLOCKS[99], rules.RULES[99]


@pytest.mark.parametrize(("threshold", "proved"), [(-100.0, True), (100.0, False)])
def test_a_new_kind_needs_no_other_file(
    threshold: float, proved: bool, documented: type[blocks.LeavesDefault], tmp_path: Path
) -> None:
    """It is written, proved or not, shown, and thinned out with the rest."""
    model, specification, target = (tmp_path / name for name in ("model.onnx", "property.vnnlib", "proof"))
    model.write_bytes(relu_model(random_layers(0, (3, 4, 2))).SerializeToString())
    specification.write_text(property_text([-1.0] * 3, [1.0] * 3, 2, f"(<= Y_0 {threshold})"))
    problem = prepare(model, specification)
    network = problem.model.network
    with recording(target, model, specification, problem) as record:
        tracer = CertificateTracer(network, problem.rows, record.writer)
        roots = root_subproblems(problem.rows, [0], network.alphas, network.device)
        roots = tracer.roots(roots, roots.clause[:, None])
        tracer.write(documented(roots.subproblem_id, roots.state["constraint_weights"][:, 0]))
        failure = record.close_unsat(problem)
    assert (failure is None) == proved == target.exists()
    if failure is not None:
        assert "block 0 (leaves_again): 1 of 1 leaves have no bound above 0" in failure
        return
    assert "leaves_again: 1 blocks, 1 nodes, 20 bytes" in describe(container.read(target))
    assert trim(target, model, specification, tmp_path / "trimmed") == 0
    assert (tmp_path / "trimmed").read_bytes() == target.read_bytes()
    assert check(tmp_path / "trimmed", model, specification).proved
