"""Kinds of blocks: one class here, one in the checker, a row in the documentation; the two sides share nothing but the numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from nets import property_text, random_layers, relu_model

from verify.checker import container, rules
from verify.checker.checking import check
from verify.checker.errors import Refused
from verify.checker.proof import Proof
from verify.checker.showing import describe
from verify.checker.stream import Cursor
from verify.problem import prepare
from verify.proof import blocks, writer
from verify.proof.blocks import BLOCKS, OfNodes, Values, in_bytes, stored
from verify.proof.certificate import CertificateTracer
from verify.proof.recording import recording
from verify.proof.trimming import trim
from verify.search.strategy import root_subproblems

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
def remark() -> Iterator[type[OfNodes]]:
    """A new kind of blocks, in the proof and in the checker: nodes, each with a number of which nothing is asked but its sign."""

    @blocks.register(200, "remark")
    @dataclass(frozen=True)
    class Remark(OfNodes):
        content = "counted I64 nodes, F64 numbers"
        shows = "nothing"

        nodes: Values
        numbers: Values

        def parts(self) -> list[blocks.Array]:
            count = np.array([len(self.nodes)])
            return [stored(count, "<i8"), stored(self.nodes, "<i8"), stored(self.numbers, "<f8")]

    @rules.register(200, "remark")
    class RemarkRule(rules.Rule):
        @classmethod
        def take_in(cls, proof: Proof, cursor: Cursor, prove: bool) -> None:
            nodes = cursor.counted("<i8")
            proof.tree.check_nodes(nodes)
            if (cursor.take("<f8", len(nodes)) < 0).any():
                raise Refused("a negative remark")

    yield Remark
    del BLOCKS[200], rules.RULES[200]


@pytest.mark.parametrize("number", [1.0, -1.0])
def test_a_new_kind_needs_no_other_file(number: float, remark: type[OfNodes], tmp_path: Path) -> None:
    """It is written, proved or refused, shown, and thinned out with the rest."""
    model, specification, target = (tmp_path / name for name in ("model.onnx", "property.vnnlib", "proof"))
    model.write_bytes(relu_model(random_layers(0, (3, 4, 2))).SerializeToString())
    specification.write_text(property_text([-1.0] * 3, [1.0] * 3, 2, "(<= Y_0 -100.0)"))
    problem = prepare(model, specification)
    network = problem.model.network
    with recording(target, model, specification, problem) as record:
        tracer = CertificateTracer(network, problem.rows, record.writer)
        roots = root_subproblems(problem.rows, [0], network.alphas, network.device)
        roots = tracer.roots(roots, roots.clause[:, None])
        tracer.write(remark(roots.subproblem_id, np.array([number])))  # type: ignore[call-arg]
        tracer.leaves_by_default(roots)
        failure = record.close_unsat(problem)
    if number < 0:
        assert failure == "not proved: block 0 (remark): a negative remark"
        assert not target.exists()
        return
    assert failure is None
    assert "remark: 1 blocks, 1 nodes, 24 bytes" in describe(container.read(target))
    assert trim(target, model, specification, tmp_path / "trimmed") == 0
    assert (tmp_path / "trimmed").read_bytes() == target.read_bytes()
    assert check(tmp_path / "trimmed", model, specification).proved
