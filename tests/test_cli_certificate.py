"""`verify run --certificate` and `verify check`: exit codes, messages, and no files where there is no proof."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import property_text, random_layers, relu_model
from test_cli import Command, Ran, assert_refused, hard, process

from verify import api, output
from verify.checker.checking import Checked
from verify.errors import ResourceError, UnwrittenError
from verify.proof import recording

UNSAT, SAT = "(<= Y_0 -100.0)", "(<= Y_0 100.0)"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """`verify` in this process, its output captured."""
    return Command(monkeypatch, capfd)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two inputs, two outputs."""
    path = tmp_path / "model.onnx"
    onnx.save(relu_model(random_layers(3, (2, 3, 2))), path)
    return path


def text(folder: Path, unsafe: str, name: str = "property.vnnlib") -> Path:
    path = folder / name
    path.write_text(property_text([0.0, 0.0], [1.0, 1.0], 2, unsafe))
    return path


def run(command: Command, model: Path, property_: Path, certificate: Path, *rest: object) -> Ran:
    return command("run", model, property_, "--certificate", certificate, "--device", "cpu", "--quiet", *rest)


def listing(folder: Path) -> set[str]:
    """All names, hidden ones too."""
    return set(os.listdir(folder))


@pytest.mark.parametrize(("unsafe", "verdict"), [(UNSAT, "unsat"), (SAT, "sat")])
def test_written_and_checked(
    unsafe: str, verdict: str, command: Command, model: Path, tmp_path: Path
) -> None:
    property_, certificate = text(tmp_path, unsafe), tmp_path / "proof"
    ran = run(command, model, property_, certificate)
    assert (ran.code, ran.out.split("\n")[0], ran.err) == (0, verdict, "")
    assert listing(tmp_path) == {"model.onnx", "property.vnnlib", "proof"}
    for options in ([], ["--exact"], ["--jobs", 2]):
        ran = command("check", certificate, model, property_, *options)
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.startswith("proved: ") and ran.out.count("\n") == 1


@pytest.mark.parametrize(("unsafe", "verdict"), [(UNSAT, "unsat"), (SAT, "sat")])
def test_trimmed(unsafe: str, verdict: str, command: Command, model: Path, tmp_path: Path) -> None:
    property_, certificate = text(tmp_path, unsafe), tmp_path / "proof"
    ran = run(command, model, property_, certificate, "--trim")
    assert (ran.code, ran.out.split("\n")[0], ran.err) == (0, verdict, "")
    assert listing(tmp_path) == {"model.onnx", "property.vnnlib", "proof"}
    assert command("check", certificate, model, property_).code == 0


def test_nothing_to_trim(command: Command, model: Path, tmp_path: Path) -> None:
    ran = command("run", model, text(tmp_path, UNSAT), "--trim")
    assert (ran.code, ran.out) == (2, "") and "--trim needs --certificate" in ran.err


def test_json_names_the_certificate(command: Command, model: Path, tmp_path: Path) -> None:
    property_, certificate = text(tmp_path, UNSAT), tmp_path / "proof"
    record = json.loads(run(command, model, property_, certificate, "--format", "json").out)
    assert (record["verdict"], record["certificate"]) == ("unsat", str(certificate))
    ran = command("run", model, property_, "--device", "cpu", "--quiet", "--format", "json")
    assert json.loads(ran.out)["certificate"] is None


def test_an_old_file_is_replaced_by_a_proof_alone(command: Command, model: Path, tmp_path: Path) -> None:
    certificate = tmp_path / "proof"
    certificate.write_text("old")
    assert run(command, model, text(tmp_path, UNSAT), certificate).code == 0
    assert certificate.read_bytes() != b"old"


def test_not_proved_is_exit_1(command: Command, model: Path, tmp_path: Path) -> None:
    """Of another property, another model, other semantics."""
    property_, certificate = text(tmp_path, UNSAT), tmp_path / "proof"
    assert run(command, model, property_, certificate).code == 0
    other = text(tmp_path, "(<= Y_0 -101.0)", "other.vnnlib")
    ran = command("check", certificate, model, other)
    assert (ran.code, ran.err) == (1, "")
    assert ran.out.startswith("not proved: vnnlib_sha256 does not fit")
    second = tmp_path / "second.onnx"
    onnx.save(relu_model(random_layers(4, (2, 3, 2))), second)
    ran = command("check", certificate, second, property_)
    assert ran.code == 1 and ran.out.startswith("not proved: onnx_sha256 does not fit")
    ran = command("check", certificate, model, property_, "--semantics", "ieee32-any-order")
    assert ran.code == 1 and "of semantics 'real'" in ran.out


def test_semantics_of_float32(command: Command, model: Path, tmp_path: Path) -> None:
    """A certificate of the deployed network serves for the real one too."""
    property_, certificate = text(tmp_path, UNSAT), tmp_path / "proof"
    ran = run(command, model, property_, certificate, "--semantics", "ieee32-any-order")
    assert (ran.code, ran.out) == (0, "unsat\n")
    for semantics, words in (("ieee32-any-order", "any order of summation"), ("real", "real-valued")):
        ran = command("check", certificate, model, property_, "--semantics", semantics)
        assert (ran.code, ran.err) == (0, "")
        assert words in ran.out


def test_a_cluster_takes_the_extra(
    command: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    ran = command("check", tmp_path / "none.cert", model, tmp_path / "none.vnnlib", "--ray", "local")
    assert ran.code == 2 and 'pip install "nn-verify[distributed]"' in ran.err
    ran = command("check", tmp_path / "none.cert", model, tmp_path / "none.vnnlib", "--ray", "nowhere")
    assert ran.code == 2 and "use HOST:PORT" in ran.err


def test_unreadable_is_exit_2(command: Command, model: Path, tmp_path: Path) -> None:
    """The message names the file that is at fault."""
    property_, certificate = text(tmp_path, UNSAT), tmp_path / "proof"
    assert run(command, model, property_, certificate).code == 0
    damaged, nowhere = tmp_path / "damaged", tmp_path / "nowhere"
    damaged.write_bytes(certificate.read_bytes()[:-1])
    assert_refused(command("check", damaged, model, property_), "damaged")
    assert_refused(command("check", nowhere, model, property_), "nowhere")
    assert_refused(command("check", tmp_path, model, property_), str(tmp_path))
    assert_refused(command("check", certificate, nowhere, property_), "nowhere")
    assert_refused(command("check", certificate, model, nowhere), "nowhere")
    assert_refused(command("check", certificate, property_, property_), "property.vnnlib")
    assert_refused(command("check", certificate, model, model), "model.onnx")
    wide = tmp_path / "wide.vnnlib"
    wide.write_text(property_text([0.0] * 3, [1.0] * 3, 2, UNSAT))
    assert_refused(command("check", certificate, model, wide), "wide.vnnlib")
    assert command("check", certificate, model, property_, "--jobs", 0).code == 2
    assert command("check", certificate, model, property_, "--semantics", "none").code == 2
    assert command("check", certificate, model).code == 2


def test_damaged_inside_is_no_crash(command: Command, model: Path, tmp_path: Path) -> None:
    """A shape that numpy has not. Bug found: exit code 70 and a traceback."""
    property_, certificate = text(tmp_path, UNSAT), tmp_path / "proof"
    header = json.dumps({"a": {"dtype": "U8", "shape": [0, 2**70], "data_offsets": [0, 0]}}).encode()
    certificate.write_bytes(len(header).to_bytes(8, "little") + header)
    ran = command("check", certificate, model, property_)
    assert ran.code in (1, 2) and "Traceback" not in ran.err


@pytest.mark.parametrize("place", ["nowhere/proof", "file/proof", "folder"])
def test_bad_places(place: str, command: Command, model: Path, tmp_path: Path) -> None:
    """Before the search: exit code 2, nothing left behind. Bug found: a folder in the way is an internal error, after the search."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    property_ = text(tmp_path, UNSAT)
    before = listing(tmp_path)
    ran = run(command, model, property_, tmp_path / place)
    assert ran.code == 2, (ran.code, ran.err)
    assert ran.out == "" and "Traceback" not in ran.err
    assert place.split("/")[0] in ran.err
    assert listing(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_is_read_only(command: Command, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o500)
    ran = run(command, model, text(tmp_path, UNSAT), folder / "proof")
    folder.chmod(0o700)
    assert (ran.code, ran.out) == (3, "") and "closed" in ran.err and "cannot be written" in ran.err
    assert not listing(folder)


def test_timeout_leaves_nothing(tmp_path: Path) -> None:
    model, property_ = hard(tmp_path)
    before = listing(tmp_path)
    ran, _ = process("run", model, property_, "--timeout", 4, "--device", "cpu", "--certificate", tmp_path / "proof")  # fmt: skip
    assert (ran.code, ran.out) == (1, "timeout\n"), ran.err
    assert listing(tmp_path) == before


def test_an_error_of_the_search_leaves_nothing(
    command: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from verify.bab.loop import BranchAndBound

    def broken(*_: object) -> None:
        raise RuntimeError("no idea")

    monkeypatch.setattr(BranchAndBound, "run", broken)
    ran = run(command, model, text(tmp_path, UNSAT), tmp_path / "proof")
    assert ran.code not in (0, 1) and ran.out == ""
    assert listing(tmp_path) == {"model.onnx", "property.vnnlib"}


@pytest.mark.parametrize(("unsafe", "verdict"), [(UNSAT, "unknown"), (SAT, "sat")])
def test_what_is_not_proved_is_not_written(
    unsafe: str, verdict: str, command: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unsat that the checker does not prove is none; a sat stays one, without a file."""
    monkeypatch.setattr(recording, "check", lambda *_, **__: Checked(False, "not proved: a bad day"))
    certificate = tmp_path / "proof"
    ran = run(command, model, text(tmp_path, unsafe), certificate, "--format", "json")
    record = json.loads(ran.out)
    assert ran.code == (1 if verdict == "unknown" else 0)
    assert (record["verdict"], record["certificate"]) == (verdict, None)
    assert verdict == "sat" or "a bad day" in record["reason"]
    assert listing(tmp_path) == {"model.onnx", "property.vnnlib"}


def test_compressed_files(command: Command, model: Path, tmp_path: Path) -> None:
    """What counts is the content: proofs of a gzipped file serve for the file."""
    import gzip

    property_, certificate = text(tmp_path, UNSAT), tmp_path / "proof"
    packed = []
    for path in (model, property_):
        packed.append(path.with_name(path.name + ".gz"))
        packed[-1].write_bytes(gzip.compress(path.read_bytes()))
    assert run(command, packed[0], packed[1], certificate).code == 0
    assert command("check", certificate, model, property_).code == 0
    packed[0].write_bytes(packed[0].read_bytes()[:-9])
    assert_refused(command("check", certificate, packed[0], property_), "model.onnx.gz")


def test_models_that_the_checker_does_not_read(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Said before the search, with the way out."""
    from verify.checker.errors import Refused

    model = tmp_path / "model.onnx"
    onnx.save(relu_model(random_layers(3, (2, 3, 2))), model)

    def refuse(*_: object) -> None:
        raise Refused("operator Foo is not understood")

    monkeypatch.setattr(recording, "read_model", refuse)
    ran = run(command, model, text(tmp_path, UNSAT), tmp_path / "proof")
    assert_refused(ran, "model.onnx", "operator Foo", "--certificate")
    assert listing(tmp_path) == {"model.onnx", "property.vnnlib"}


def test_witnesses_are_those_printed(command: Command, model: Path, tmp_path: Path) -> None:
    """The input in the certificate is the one in the output."""
    from verify.checker.container import read

    certificate = tmp_path / "proof"
    record = json.loads(run(command, model, text(tmp_path, SAT), certificate, "--format", "json").out)
    printed = np.array(record["witness"]["X"]["values"], np.float32).ravel().tolist()
    stored = [float.fromhex(value) for value in json.loads(read(certificate).text("inputs"))]
    assert stored == printed


@pytest.mark.parametrize(("unsafe", "verdict"), [(UNSAT, "unsat"), (SAT, "sat")])
def test_a_full_disk_loses_no_result(
    unsafe: str, verdict: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Python it is with the error, which is one of resources."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(output.os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left") as stop:
        api.verify(model, text(tmp_path, unsafe), device="cpu", certificate=tmp_path / "proof")
    assert isinstance(stop.value, UnwrittenError) and stop.value.result.verdict == verdict
    assert (stop.value.result.witness is not None) == (verdict == "sat")
    assert listing(tmp_path) == {"model.onnx", "property.vnnlib"}


QUERY = """(vnnlib-version <2.0>)
(declare-network f (declare-input X real [1,2]) (declare-output Y real [1,2]))
(declare-network g (declare-input U real [1,2]) (declare-output W real [1,2]))
(assert (and (>= X[0,0] 0.0) (<= X[0,0] 1.0) (>= X[0,1] 0.0) (<= X[0,1] 1.0) (== U[0,0] X[0,0]) (== U[0,1] X[0,1])))
(assert (> (- Y[0,0] W[0,0]) 50.0))
"""


def test_further_networks(command: Command, model: Path, tmp_path: Path) -> None:
    """Every command takes them; without, or with another one, nothing is proved."""
    query, certificate, other = tmp_path / "query.vnnlib", tmp_path / "proof", tmp_path / "other.onnx"
    query.write_text(QUERY)
    onnx.save(relu_model(random_layers(7, (2, 4, 2))), other)
    further = ("--network", f"g={other}")
    page = tmp_path / "page.html"
    ran = run(command, model, query, certificate, *further, "--report", page)
    assert (ran.code, ran.out.split("\n")[0], ran.err) == (0, "unsat", "")
    assert f"--network g={other}" in page.read_text().replace("&#x27;", "")
    assert command("check", certificate, model, query, *further).code == 0
    assert command("check", certificate, other, query, "--network", f"g={model}").code == 1
    assert command("certificate", "show", certificate, model, query, *further).code == 0
    assert command("certificate", "trim", certificate, model, query, tmp_path / "less", *further).code == 0
    assert command("check", tmp_path / "less", model, query, *further).code == 0
    merged = tmp_path / "merged"
    assert command("certificate", "merge", model, query, merged, certificate, *further).code == 0
    assert command("check", merged, model, query, *further).code == 0
    for wrong in ((), ("--network", f"h={other}")):
        assert_refused(command("check", certificate, model, query, *wrong), "networks")
    assert_refused(command("check", certificate, model, query, *further, *further), "twice")
