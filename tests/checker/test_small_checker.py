"""The small checker, which knows docs/certificate-format.md alone, agrees with the checker: on proofs, and on changed ones."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from kits import MAKERS, Kit, changed_numbers
from make_data import HERE, Files, network, placed, searched
from nets import property_text
from small.checking import RULES, check
from small.sums import Refused
from test_certificates import outputs_of
from test_independence import imported

from verify.checker.kinds import KINDS

LARGE = 1e30
SMALL = [name for name in MAKERS if name != "curved"]  # it reads no other activation than ReLU


def accepted(files: Files) -> bool:
    try:
        check(*files)
    except Refused:
        return False
    return True


def test_it_stands_alone() -> None:
    """The standard library, and itself."""
    for path in Path(__file__).with_name("small").glob("*.py"):
        tops = {name.split(".")[0] for name in imported(path)}
        assert tops <= {*sys.stdlib_module_names, "small"}, path


@pytest.mark.parametrize("name", SMALL)
def test_agrees_on_proofs(name: str, kits: dict[str, Kit]) -> None:
    """Each stands for what it was made for, and not for a property that is violated."""
    one = kits[name]
    one.attempt(one.parts)
    assert accepted(one.files) and not accepted(one.violated)


def test_every_kind_is_read(kits: dict[str, Kit]) -> None:
    """The test above would be empty if it were not."""
    assert len(RULES) == len(KINDS)
    assert {kind for name in SMALL for kind, _ in kits[name].parts.blocks} == set(KINDS)


@pytest.mark.parametrize("name", SMALL)
def test_agrees_on_changed_numbers(name: str, kits: dict[str, Kit]) -> None:
    """Random numbers of random blocks are others: both accept, or neither does.

    Not so large that floats overflow, and all finite: of what a bound does not need, either checker may think as it likes.
    """
    one, random = kits[name], np.random.default_rng(0)
    for _ in range(6):
        block, start, dtype, count = one.fields[random.integers(len(one.fields))]
        if count == 0:
            continue
        kind, data = one.parts.blocks[block]
        size = np.dtype(dtype).itemsize
        at = start + int(random.integers(count)) * size
        value = np.frombuffer(data[at : at + size], dtype)[0]
        others = [other for other in changed_numbers(dtype, value) if abs(float(other)) < LARGE]
        with np.errstate(over="ignore"):
            new = np.array([others[random.integers(len(others))]]).astype(dtype)
        parts, blocks = one.parts.copy(), one.parts.blocks
        blocks[block] = kind, data[:at] + new.tobytes() + data[at + size :]
        parts.blocks = blocks
        parts.write(one.files.certificate)
        assert accepted(one.files) == one.files.accepted(), (kind, start, dtype, value, new)


@pytest.mark.parametrize("name", SMALL)
def test_agrees_on_missing_blocks(name: str, kits: dict[str, Kit]) -> None:
    """Any block may be missing."""
    one = kits[name]
    own = one.parts.blocks
    for place in {0, len(own) - 1}:
        parts = one.parts.copy()
        parts.blocks = [*own[:place], *own[place + 1 :]]
        parts.write(one.files.certificate)
        assert accepted(one.files) == one.files.accepted(), place


@pytest.mark.parametrize("splits", ["activations", "inputs"])
def test_residual_networks_and_several_clauses(splits: str, tmp_path: Path) -> None:
    files = placed(tmp_path, network("residual", 2, outputs=2), "")
    box = [-1.0] * 3, [1.0] * 3
    _, y = outputs_of(files, 2000, *box)
    first, second = (round(float(one.min() - 0.1 * np.ptp(one)), 3) for one in y.T)
    unsafe = f"(or (and (<= Y_0 {first}) (<= (- Y_0 Y_1) 100.0)) (<= Y_1 {second}))"
    files.property.write_text(property_text(*box, 2, unsafe))
    assert searched(files, splits) == ("unsat", None)
    assert accepted(files)
    files.property.write_text(property_text(*box, 2, unsafe.replace(f"{first}", "50.0")))
    assert not accepted(files)


@pytest.mark.parametrize("folder", sorted((HERE / "correct").iterdir()), ids=lambda folder: folder.name)
def test_stored_proofs(folder: Path) -> None:
    """Of version 1 of the format too; of `sat` it reads none."""
    assert accepted(Files.of(folder)) == (folder.name != "witness")


@pytest.mark.parametrize(
    "folder",
    [*sorted((HERE / "incorrect").iterdir()), *sorted((HERE / "parsing_failure").iterdir())],
    ids=lambda folder: folder.name,
)
def test_stored_forgeries(folder: Path) -> None:
    assert not accepted(Files.of(folder))
