"""Certificates from parts: by clause, by subtree, or whatever each has closed; and nothing is proved by covering in a circle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from kits import CONSTRAINED, LOWER, SIZES, UPPER, WEAK, always, outputs
from make_data import Files, Parts, by_hand, numbers, placed, searched
from nets import property_text, random_layers, relu_model

from verify.checker.checking import DEPLOYED, REAL, Share, prove_share
from verify.checker.container import read
from verify.checker.errors import Refused
from verify.checker.multipliers import Arithmetic
from verify.checker.question import Question, digest
from verify.cli import cli
from verify.errors import InputError
from verify.proof.merging import merge
from verify.proof.trimming import trim

LAYERS = random_layers(1, SIZES)
Y = outputs(LAYERS)
Block = tuple[str, bytes]


def far(folder: Path, clauses: int = 1) -> Files:
    """A property that CROWN proves on any box."""
    folder.mkdir(exist_ok=True)
    limit = float(Y.min()) - 40.0
    text = " ".join(f"(and (<= Y_0 {limit - number!r}))" for number in range(clauses))
    return placed(folder, relu_model(LAYERS), property_text(LOWER, UPPER, 2, f"(or {text})"))


def leaves(*nodes: int) -> Block:
    return "leaves_default", numbers("<i8", len(nodes), *nodes) + numbers("<f4", *[1.0] * len(nodes))


def covered(nodes: list[int], others: list[int]) -> Block:
    return "covered", numbers("<i8", len(nodes), *nodes, *others)


def refused(files: Files, blocks: list[Block], **parts: object) -> str:
    """What is said of a proof by hand, which must not be accepted."""
    by_hand(files, blocks, **parts)  # type: ignore[arg-type]
    found = files.check()
    assert not found.proved, found.sentence
    return found.sentence


# -- the rule


BOTH = {
    "roots": ((0,), (0,)),
    "splits": ((0, 0, 0.0), (1, 0, 0.0)),
}  # nodes 2 and 3 of root 0, 4 and 5 of root 1


def test_what_others_refute(tmp_path: Path) -> None:
    """Each root lacks what the other has; in the order in which that is known."""
    files = far(tmp_path)
    blocks = [leaves(2), leaves(5), covered([3, 4], [5, 2])]
    by_hand(files, blocks, **BOTH)  # type: ignore[arg-type]
    assert files.accepted()
    assert "not refuted yet" in refused(files, [leaves(2), covered([3, 4], [5, 2]), leaves(5)], **BOTH)
    assert "block" in refused(files, [leaves(2), leaves(5), covered([3, 4], [5])], **BOTH)
    assert "twice" in refused(files, [leaves(2), leaves(5), covered([3, 3], [5, 5])], **BOTH)
    assert "4" in refused(files, [leaves(2), leaves(5), covered([3], [5])], **BOTH)


def test_nothing_covers_in_a_circle(tmp_path: Path) -> None:
    """Itself, what is above it, one another."""
    files = far(tmp_path)
    for nodes, others in (([3], [3]), ([3], [0]), ([3, 5], [5, 3]), ([3], [5])):
        rest = [leaves(2), leaves(4)] + ([leaves(5)] if others == [0] else [])
        assert "not refuted yet" in refused(files, [*rest, covered(nodes, others)], **BOTH)
    one = [leaves(2), leaves(4), covered([3], [5]), covered([5], [3])]
    assert "not refuted yet" in refused(files, one, **BOTH)
    first = [covered([0], [0])]
    assert "not refuted yet" in refused(files, first)


@pytest.mark.parametrize("other", [-1, 6, 2**62])
def test_nodes_that_are_nowhere(tmp_path: Path, other: int) -> None:
    files = far(tmp_path)
    assert "not in the tree" in refused(files, [leaves(2, 4, 5), covered([3], [other])], **BOTH)
    assert "not in the tree" in refused(files, [leaves(2, 4, 5), covered([other], [4])], **BOTH)


def test_what_covers_is_as_large(tmp_path: Path) -> None:
    """The other half, a smaller part, one of another clause, cover nothing."""
    files = far(tmp_path)
    assert "is not inside" in refused(files, [leaves(2, 4, 5), covered([3], [4])], **BOTH)
    smaller = BOTH | {"splits": ((0, 0, 0.0), (1, 0, -0.001))}
    assert "is not inside" in refused(files, [leaves(2, 4, 5), covered([3], [5])], **smaller)
    larger = BOTH | {"splits": ((0, 0, 0.0), (1, 0, 0.001))}
    by_hand(files, [leaves(2, 4, 5), covered([3], [5])], **larger)  # type: ignore[arg-type]
    assert files.accepted()
    two = far(tmp_path, 2)
    others = BOTH | {"roots": ((0,), (1,))}
    assert "is not inside" in refused(two, [leaves(2, 4, 5), covered([3], [5])], **others)
    by_hand(two, [leaves(2, 3, 4, 5)], **others)  # type: ignore[arg-type]
    assert two.accepted()


# -- whole certificates


def test_by_subtree(tmp_path: Path) -> None:
    """Half of a tree from each; the second splits its half once more."""
    files = far(tmp_path)
    target = tmp_path / "merged.cert"
    first, second = (files._replace(certificate=tmp_path / name) for name in ("first", "second"))
    by_hand(first, [leaves(1)], splits=[(0, 0, 0.0)])
    by_hand(second, [leaves(4), leaves(3)], splits=[(0, 0, 0.0), (2, 1, 0.25)])
    for part in (first, second):
        assert not part.accepted()
        with pytest.raises(Refused, match="open in one part and closed in none, the first is node"):
            merge([part.certificate] * 2, files.model, files.property, target)
    assert not target.exists()
    paths = [first.certificate, second.certificate]
    # three of their own, while each half is covered by the other
    assert merge(paths, files.model, files.property, target) == 3
    merged = files._replace(certificate=target)
    assert merged.accepted()
    assert Parts.read(target).metadata["semantics"] == REAL
    assert trim(target, files.model, files.property, tmp_path / "trimmed") == 0
    assert (tmp_path / "trimmed").read_bytes() == target.read_bytes()
    question, container = Question.read(files.model, files.property), read(target)
    # each of several processes takes in what others prove
    for number in range(3):
        assert prove_share(container, question, Arithmetic(), Share(number, 3)).leaves < 3
    assert merge([target, paths[0]], files.model, files.property, tmp_path / "again") == 4
    told = CliRunner().invoke(
        cli,
        ["certificate", "merge", *map(str, (files.model, files.property, tmp_path / "told", *paths))],
    )
    assert (told.exit_code, told.output) == (0, "3 leaves\n")
    assert (tmp_path / "told").read_bytes() == target.read_bytes()


def test_a_wrong_part_is_found(tmp_path: Path) -> None:
    """Whatever a part says is proved again; a refusal leaves nothing."""
    files = far(tmp_path)
    paths = [tmp_path / name for name in ("first", "second", "merged")]
    by_hand(files._replace(certificate=paths[0]), [leaves(1)], splits=[(0, 0, 0.0)])
    by_hand(files._replace(certificate=paths[1]), [("empty", numbers("<i8", 1, 2))], splits=[(0, 0, 0.0)])
    told = CliRunner().invoke(
        cli, ["certificate", "merge", *map(str, (files.model, files.property, paths[2], *paths[:2]))]
    )
    assert isinstance(told.exception, InputError)
    assert "leaves have no bound above 0" in str(told.exception)
    assert not paths[2].exists()


def test_by_clause(tmp_path: Path) -> None:
    """Searches of one clause each, with splits and bounds of their own, in any order; of joined rows too."""
    limits = [float(Y[:, 0].min() - share * np.ptp(Y[:, 0])) for share in (0.02, 0.03, 0.025)]
    clauses = [f"(and (<= Y_0 {limit!r}))" for limit in limits]
    whole = placed(tmp_path, relu_model(LAYERS), property_text(LOWER, UPPER, 2, f"(or {' '.join(clauses)})"))
    paths, kinds = [], []
    strategies = "activations", "inputs", "activations"
    for number, (clause, strategy) in enumerate(zip(clauses, strategies, strict=True)):
        folder = tmp_path / str(number)
        folder.mkdir()
        one = placed(folder, relu_model(LAYERS), property_text(LOWER, UPPER, 2, clause))
        hook = always if strategy == "activations" else None
        assert searched(one, strategy, CONSTRAINED, prepare_search=hook) == ("unsat", None)
        parts = Parts.read(one.certificate)
        kinds += [kind for kind, _ in parts.blocks]
        parts.metadata["vnnlib_sha256"] = digest(whole.property.read_bytes())
        parts.tensors["root.clause"] += number
        parts.write(one.certificate)
        assert not one._replace(property=whole.property).accepted()
        paths.append(one.certificate)
    # whose cuts get other numbers
    assert kinds.count("cuts") > 2
    assert {"lemma_cuts", "leaves8_cuts", "box_leaves"} <= set(kinds)
    target = tmp_path / "merged"
    with pytest.raises(Refused, match="2 clauses are in no part, the first is clause 1"):
        merge(paths[:1], whole.model, whole.property, target)
    for order in (paths, paths[::-1]):
        assert merge(order, whole.model, whole.property, target) > 4
        assert whole._replace(certificate=target).accepted()


def test_joining_weights_of_different_groups(tmp_path: Path) -> None:
    """Roots of one and of two clauses of two rows, whose weights a file stores for as many clauses as its largest root has."""
    second = float(np.round(np.quantile(Y[:, 1], 0.6), 3))
    low = float(Y[Y[:, 1] <= second, 0].min())
    clauses = [f"(and (<= Y_0 {low - share!r}) (<= Y_1 {second}))" for share in (0.9, 1.1, 1.3)]
    whole = placed(tmp_path, relu_model(LAYERS), property_text(LOWER, UPPER, 2, f"(or {' '.join(clauses)})"))
    paths = []
    for name, own in (("one", [0]), ("two", [1, 2])):
        folder = tmp_path / name
        folder.mkdir()
        text = " ".join(clauses[number] for number in own)
        one = placed(folder, relu_model(LAYERS), property_text(LOWER, UPPER, 2, f"(or {text})"))
        assert searched(one, "inputs", WEAK) == ("unsat", None)
        parts = Parts.read(one.certificate)
        assert parts.metadata["rows"] == "2"
        parts.metadata["vnnlib_sha256"] = digest(whole.property.read_bytes())
        parts.tensors["root.clause"] += own[0]
        parts.write(one.certificate)
        paths.append(one.certificate)
    target = tmp_path / "merged"
    merge(paths, whole.model, whole.property, target)
    assert whole._replace(certificate=target).accepted()


def test_what_cannot_be_merged(tmp_path: Path) -> None:
    """Of other files, other rows, of `sat`, damaged; deployed and real make real."""
    files = far(tmp_path)
    one, other, target = (tmp_path / name for name in ("one", "other", "target"))
    by_hand(files._replace(certificate=one), [leaves(0)])

    def attempt(**changes: str) -> None:
        parts = Parts.read(one)
        parts.metadata |= changes
        parts.write(other)
        merge([one, other], files.model, files.property, target)

    for key, value, words in (
        ("onnx_sha256", "0" * 64, "of another file"),
        ("rows", "2", "do not agree"),
        ("verdict", "sat", "only certificates of unsat"),
        ("semantics", "none", "not known"),
    ):
        with pytest.raises(Refused, match=words):
            attempt(**{key: value})
    attempt(semantics=DEPLOYED)
    assert Parts.read(target).metadata["semantics"] == REAL
    parts = Parts.read(one)
    parts.blocks = [("leaves_default", numbers("<i8", 1))]
    parts.write(other)
    with pytest.raises(Refused, match="other: there is less in it"):
        merge([other], files.model, files.property, target)
    parts.tensors["root.count"][0] = 2
    parts.write(other)
    with pytest.raises(Refused, match="do not fit"):
        merge([other], files.model, files.property, target)
