"""A certificate that is proved while it is written: the same as at the end, once, and of the bytes that are in the file at last."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from make_data import QUICK, SPLITS, Files, Parts, _unsat
from patience import PATIENCE

from verify.api import verify
from verify.bab.progress import Outcome, Silent
from verify.bab.techniques.other_splitting import OtherSplitting
from verify.checker.checking import DEPLOYED, REAL, Share
from verify.checker.errors import NotProved, Refused
from verify.checker.following import TENSORS, Finished, Follower, Piece
from verify.checker.kinds import effort
from verify.checker.multipliers import Arithmetic
from verify.checker.processes import Process
from verify.checker.proof import Summary
from verify.checker.question import Question
from verify.checker.rules import RULES
from verify.deadline import Deadline
from verify.problem import prepare
from verify.proof import live_check, recording
from verify.proof.live_check import LiveCheck
from verify.proof.provers import Asked, Here, Prover
from verify.proof.writer import CertificateWriter
from verify.settings import build_search

PROPERTIES = Path(__file__).parents[2] / "properties/controller"


@pytest.fixture(scope="module", params=["activations", "inputs"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A proof by splits of activations, with bounds of roots and over unsafe points; one by passes over boxes."""
    return _unsat(tmp_path_factory.mktemp("live"), 3, request.param)


def pieces(parts: Parts, random: np.random.Generator) -> Iterator[Piece]:
    """What a writer sends: all roots first, some splits and some blocks at a time."""
    tensors = {name: parts.tensors.get(name, np.zeros(0)).astype(kind) for name, kind in TENSORS.items()}
    splits, blocks = len(tensors["split.node"]), len(tensors["block.kind"])
    ends = [0, *tensors["block.end"].tolist()]
    at = dict.fromkeys(TENSORS, 0)
    at_block = 0
    while at_block < blocks:
        upto = min(blocks, at_block + int(random.integers(1, 4)))
        stop = {"stream": ends[upto], "block.kind": upto, "block.end": upto}
        for name in TENSORS:
            if name.startswith("split"):
                # blocks speak of nodes that are there
                stop[name] = splits
            stop.setdefault(name, len(tensors[name]))
        yield {name: tensors[name][at[name] : stop[name]].tobytes() for name in TENSORS if stop[name] > at[name]}  # fmt: skip
        at, at_block = stop, upto


def follower(files: Files, arithmetic: Arithmetic | None = None) -> Follower:
    rows = Parts.read(files.certificate).metadata["rows"]
    return Follower(Question.read(files.model, files.property), arithmetic or Arithmetic(), rows)


def take_all(one: Follower, some: Iterable[Piece]) -> None:
    for piece in some:
        one.take(piece)


def followed(files: Files, parts: Parts, share: Share | None = None, seed: int = 0) -> Follower:
    """One that has taken all of the parts in."""
    one = follower(files)
    if share is not None:
        one.divide(share)
    take_all(one, pieces(parts, np.random.default_rng(seed)))
    return one


@pytest.mark.parametrize("seed", range(3))
def test_the_same_as_at_the_end(files: Files, seed: int) -> None:
    """However the pieces are cut: as many leaves and claims, the same smallest bound."""
    found = followed(files, Parts.read(files.certificate), seed=seed).finished(
        Finished.read(files.certificate, REAL)
    )
    whole = files.check().summary
    assert whole is not None
    assert (found.leaves, found.claims, found.margin) == (whole.leaves, whole.claims, whole.margin)


def test_shares_are_the_whole(files: Files) -> None:
    """Two that divide the work from the beginning, and two that do from some block on: every claim once."""
    parts, whole = Parts.read(files.certificate), files.check().summary
    assert whole is not None
    both = [
        followed(files, parts, Share(number, 2)).finished(Finished.read(files.certificate, REAL))
        for number in (0, 1)
    ]
    assert sum(one.claims for one in both) == whole.claims
    assert sum(one.leaves for one in both) == whole.leaves
    assert all(one.claims < whole.claims for one in both)


def changed(parts: Parts, name: str) -> Parts:
    """With the last number of a tensor changed."""
    other = parts.copy()
    other.tensors = {key: value.copy() for key, value in parts.tensors.items()}
    own = other.tensors.setdefault(name, np.zeros(1, TENSORS[name]))
    own[-1] = own[-1] + 1 if own.dtype.kind != "f" else own[-1] + 0.5
    return other


@pytest.mark.parametrize("name", [name for name in TENSORS if name not in ("root.clause", "root.count")])
def test_another_file_than_what_was_proved(files: Files, tmp_path: Path, name: str) -> None:
    """What was sent proves, but the file that appears is not that."""
    parts = Parts.read(files.certificate)
    one = followed(files, parts)
    other = tmp_path / "other.cert"
    changed(parts, name).write(other)
    with pytest.raises(Refused, match=f"{name} is not what was proved"):
        one.finished(Finished.read(other, REAL))
    assert one.finished(Finished.read(files.certificate, REAL)).leaves > 0


@pytest.mark.parametrize("key", ["onnx_sha256", "vnnlib_sha256", "rows", "verdict", "semantics", "format"])
def test_another_header_than_what_was_proved(files: Files, tmp_path: Path, key: str) -> None:
    """Model or property were replaced while the search went on, or the header claims more."""
    parts = Parts.read(files.certificate)
    value = {"rows": str(int(parts.metadata["rows"]) + 1), "verdict": "sat", "semantics": "any"}.get(
        key, "0" * 64
    )
    parts.metadata[key] = value
    other = tmp_path / "other.cert"
    parts.write(other)
    with pytest.raises(Refused):
        followed(files, parts).finished(Finished.read(other, REAL))


def test_of_other_semantics(files: Files, tmp_path: Path) -> None:
    """A proof over the reals is none of the deployed network, whatever the header says."""
    parts = Parts.read(files.certificate)
    parts.metadata["semantics"] = DEPLOYED
    other = tmp_path / "other.cert"
    parts.write(other)
    with pytest.raises(Refused, match="other semantics"):
        followed(files, parts).finished(Finished.read(other, DEPLOYED))


def test_a_wrong_claim_is_found(files: Files) -> None:
    """Of the box of roots, or of what the first box hands on; and what comes behind it does not make it good."""
    parts = Parts.read(files.certificate)
    kind, data = parts.blocks[0]
    roots = int.from_bytes(data[:8], "little")
    wrong = {
        "box": data[: 8 + 8 * roots] + np.float64(50.0).tobytes() + data[16 + 8 * roots :],
        "boxes": data[:-4] + np.float32(-50.0).tobytes(),
    }
    parts.blocks = [(kind, wrong[kind]), *parts.blocks[1:]]
    with pytest.raises(NotProved, match=rf"block 0 \({kind}\)"):
        followed(files, parts)


@pytest.mark.parametrize("what", ["leaf", "splits late", "roots late", "table", "length"])
def test_pieces_out_of_order(files: Files, what: str) -> None:
    """A leaf that is missing, splits that come too late, more roots, a table that does not fit."""
    parts, one = Parts.read(files.certificate), follower(files)
    if what == "leaf":
        parts.blocks = parts.blocks[:-1]
        own = followed(files, parts)
        assert own._proof is not None
        with pytest.raises(Refused, match="neither split nor closed"):
            own._proof.finished()
        return
    first, *others = pieces(parts, np.random.default_rng(0))
    if what == "splits late":
        late = {name: first.pop(name) for name in tuple(first) if name.startswith("split")}
        with pytest.raises(Refused, match=r"twice|not in the tree"):
            take_all(one, [first, *others, late])
    elif what == "roots late":
        one.take(first)
        with pytest.raises(Refused, match="behind the first piece"):
            one.take({name: first[name] for name in ("root.clause", "root.count")})
    elif what == "table":
        with pytest.raises(Refused, match="does not fit the stream"):
            one.take(first | {"block.kind": first["block.kind"] + b"\0"})
    else:
        with pytest.raises(Refused, match="does not fit the stream"):
            one.take(first | {"stream": first["stream"] + b"\0"})


# -- while it is written


def test_what_a_writer_tells(tmp_path: Path) -> None:
    """Whole blocks, so many as fit or one, and splits only when all their parts are there."""
    with CertificateWriter(tmp_path / "c") as writer:
        assert writer.since({}, 10) == {}
        writer.append("split.node", np.array([0, 1]))
        writer.append("split.variable", np.array([3]))
        writer.append("split.value", np.array([0.5]))
        for size in (4, 5, 30):
            writer.block(7, [np.zeros(size, np.uint8)])
        sent: dict[str, int] = {}
        lengths, counts = [], []
        while piece := writer.since(sent, 10):
            sent |= {name: sent.get(name, 0) + len(data) for name, data in piece.items()}
            lengths.append(len(piece["stream"]))
            counts.append(len(piece["block.kind"]))
        assert (lengths, counts) == ([9, 30], [2, 1])
        codes, ends = writer.table({})
        assert (codes.tolist(), ends.tolist()) == ([7, 7, 7], [4, 9, 39])
        writer.block(17, [np.zeros(2, np.uint8)])
        codes, ends = writer.table(sent)
        assert (codes.tolist(), ends.tolist()) == ([17], [41])
        # of boxes next to nothing is stored of what it takes to prove them
        assert effort(codes, ends, 39) == 2 * RULES[17].effort == effort(*writer.table({})) - 39 > 2
        assert (sent["split.node"], sent["split.variable"], sent["split.value"]) == (8, 4, 8)


class Eager(LiveCheck):
    """With what it has found at last."""

    summary: Summary


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> list[Eager]:
    """Live checks that begin at once; those that closed a certificate by themselves."""
    monkeypatch.setattr(live_check, "WORTH_A_PROCESS", 1)
    monkeypatch.setattr(live_check, "_PAUSE", 0.01)
    closed: list[Eager] = []

    class Noted(Eager):
        def closed(self, certificate: Path) -> Summary | None:
            if (found := super().closed(certificate)) is not None:
                self.summary = found
                closed.append(self)
            return found

    monkeypatch.setattr(recording, "LiveCheck", Noted)
    return closed


def never(*_: object, **__: object) -> None:
    raise AssertionError("the whole is checked again")


def test_a_search_that_is_followed(
    files: Files, tmp_path: Path, eager: list[Eager], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By processes of their own; then nothing is checked in the search's process."""
    monkeypatch.setattr(recording, "check", never)
    target = tmp_path / "followed.cert"
    found = verify(files.model, files.property, certificate=target, device="cpu")
    assert found.verdict == "unsat", found.reason
    assert len(eager) == 1
    assert Files(target, files.model, files.property).check().proved


@pytest.mark.parametrize("killed", [{0}, {0, 1}])
def test_of_processes_that_end_the_shares_are_proved_again(
    killed: set[int], files: Files, tmp_path: Path, eager: list[Eager], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By others, once the file is finished; nothing else is."""
    start, proving, again = LiveCheck._start, Here.proving, list[Share]()

    def started(self: LiveCheck) -> None:
        start(self)
        assert len(self._followers) == 2
        for number in killed:
            process = self._followers[number]
            assert isinstance(process, Process)
            process.kill()
            process._popen.wait()

    def noted(self: Here, asked: Asked, certificate: Path, shares: Sequence[Share]) -> Iterator[Prover]:
        again.extend(shares)
        return proving(self, asked, certificate, shares)

    monkeypatch.setattr(LiveCheck, "_start", started)
    monkeypatch.setattr(Here, "proving", noted)
    monkeypatch.setattr(recording, "check", never)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    target = tmp_path / "c.cert"
    found = verify(files.model, files.property, certificate=target, device="cpu")
    assert found.verdict == "unsat" and found.certificate is not None, found.reason
    assert {share.number for share in again} == killed and len(again) == 2 * len(killed)
    whole = Files(target, files.model, files.property).check().summary
    assert whole is not None and len(eager) == 1
    assert (eager[0].summary.leaves, eager[0].summary.claims) == (whole.leaves, whole.claims)


def test_evidence_of_sat_is_no_proof_that_was_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was told of a proof until then is of no account."""
    monkeypatch.setattr(LiveCheck, "closed", never)
    model, violated = (
        PROPERTIES / name for name in ("onnx/controller.onnx", "vnnlib/thrust_bound_tight.vnnlib")
    )
    found = verify(model, violated, certificate=tmp_path / "sat.cert", device="cpu")
    assert found.verdict == "sat" and found.certificate == tmp_path / "sat.cert"


@dataclass(frozen=True)
class AtOnce(OtherSplitting):
    """Takes its turn as soon as anything is split, once the first search's proof has been followed for a while."""

    followed: LiveCheck | None = None

    def turn(self, deadline: Deadline) -> Deadline:
        return deadline.share(0.0)

    def run(self, deadline: Deadline) -> Outcome | None:
        assert self.followed is not None
        while not self.followed._followers:
            deadline.check()
        return self.search.run(deadline)


def test_the_other_way_of_splitting_has_a_proof_of_its_own(tmp_path: Path, eager: list[LiveCheck]) -> None:
    """It takes the place of the first search's, of which some was proved already."""
    made = _unsat(tmp_path, 3, "activations")
    problem, target = prepare(made.model, made.property), tmp_path / "other.cert"
    settings = replace(QUICK, splittable_inputs=SPLITS["activations"])
    with (
        recording.recording(target, made.model, made.property, problem) as record,
        record.followed(problem, REAL, Here(1), math.inf),
    ):
        search = build_search(problem, settings, torch.device("cpu"), 0, Silent(), record.writer)
        assert search.other is not None
        search.other = AtOnce(search.other.search, followed=record._live)
        assert search.run(Deadline.after(PATIENCE)).verdict == "unsat" and search.other is None
        assert record.close_unsat(problem) is None
    found = Files(target, made.model, made.property)
    assert found.check().proved and not eager
    tensors = Parts.read(target).tensors
    assert (tensors["split.variable"] < problem.model.network.inputs).all()
    assert set(tensors["block.kind"].tolist()) <= {16, 17}
