"""Thinner certificates: what is left still proves, and something went where the search had split too much."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner
from make_data import _unsat

from verify.checker.checking import check
from verify.cli import cli
from verify.proof.trimming import trim

SEEDS = (0, 3, 15)  # with 10, 12 and some 200 leaves


def test_what_is_left_proves(tmp_path: Path) -> None:
    """The children's multipliers close a parent now and then."""
    gone = 0
    for seed in SEEDS:
        folder = tmp_path / str(seed)
        folder.mkdir()
        files = _unsat(folder, seed, "activations")
        target = folder / "trimmed"
        fewer = trim(files.certificate, files.model, files.property, target)
        before, found = files.check(), check(target, files.model, files.property)
        assert found.proved, found.sentence
        assert before.summary is not None
        assert found.summary is not None
        assert found.summary.leaves == before.summary.leaves - fewer
        gone += fewer
        assert target.stat().st_size <= files.certificate.stat().st_size
    assert gone > 0


def test_shown(tmp_path: Path) -> None:
    """Header and tree, and with the files the hardest leaves."""
    files = _unsat(tmp_path, 0, "activations")
    paths = [str(files.certificate), str(files.model), str(files.property)]
    alone = CliRunner().invoke(cli, ["certificate", "show", paths[0]])
    assert "verdict: unsat" in alone.output
    assert re.search(r"tree: \d+ roots for 1 clauses, \d+ splits", alone.output)
    whole = CliRunner().invoke(cli, ["certificate", "show", *paths])
    assert "proved: no input violates the property" in whole.output
