"""Files in Stanford's .nnet format: what is decided is what they define, in their own units, and what is no such file is refused."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from nets import property_text
from numpy.typing import NDArray
from patience import PATIENCE
from test_cli import Command

import verify
from verify.errors import InputError, ModelError

SIZES = (3, 6, 5, 2)
LOWER, UPPER = (0.0, -3.0, -3.0), (60.0, 3.0, 3.0)
MEANS, RANGES = (20.0, 0.0, 0.5, 7.5), (60.25, 6.283, 4.0, 370.0)
BOX = (10.0, -1.0, -1.0), (20.0, 1.0, 1.0)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """`verify` in this process, its output captured."""
    return Command(monkeypatch, capfd)


def layers() -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    generator = np.random.default_rng(3)
    return [
        (generator.standard_normal((rows, columns)).round(3), generator.standard_normal(rows).round(3))
        for columns, rows in pairwise(SIZES)
    ]


def text() -> str:
    """A file as the format's own writer makes it, commas at the ends included."""
    lines: list[list[object]] = [[len(SIZES) - 1, SIZES[0], SIZES[-1], max(SIZES)], [*SIZES], [0]]
    lines += [[*LOWER], [*UPPER], [*MEANS], [*RANGES]]
    for weight, bias in layers():
        lines += [[f"{value:.5e}" for value in row] for row in (*weight, *bias[:, None])]
    return "// comments, 1,2,3\n//\n" + "".join(",".join(map(str, line)) + ",\n" for line in lines)


def reference(x: NDArray[np.float64], normalised: bool = False) -> NDArray[np.float64]:
    """What the format's own programs compute, [batch, outputs]."""
    value = x if normalised else (x.clip(LOWER, UPPER) - MEANS[:-1]) / RANGES[:-1]
    for number, (weight, bias) in enumerate(layers()):
        value = (value if number == 0 else value.clip(0)) @ weight.T + bias
    return value if normalised else value * RANGES[-1] + MEANS[-1]


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "net.nnet"
    path.write_text(text())
    return path


def test_it_computes_what_the_file_says(network: Path) -> None:
    loaded = verify.load(network)
    generator = np.random.default_rng(0)
    x = generator.uniform(np.array(LOWER) - 10, np.array(UPPER) + 10, (200, 3))  # beyond the limits, too
    assert np.allclose(loaded.evaluate(x), reference(x), rtol=1e-12, atol=1e-9)
    packed = network.with_suffix(".nnet.gz")
    packed.write_bytes(gzip.compress(network.read_bytes()))
    assert (verify.load(packed).evaluate(x) == loaded.evaluate(x)).all()


def test_it_is_decided_in_its_own_units(network: Path, tmp_path: Path, command: Command) -> None:
    generator = np.random.default_rng(1)
    highest = reference(generator.uniform(*BOX, (20_000, 3)))[:, 0].max()
    for threshold, verdict in ((highest + 40.0, "unsat"), (highest - 1.0, "sat")):
        question = tmp_path / f"{verdict}.vnnlib"
        question.write_text(property_text(BOX[0], BOX[1], 2, f"(>= Y_0 {threshold})"))
        found = verify.verify(network, question, timeout=PATIENCE)
        assert found.verdict == verdict
        if found.witness is not None:
            assert reference(found.witness.inputs.reshape(1, 3))[0, 0] >= threshold - 1e-9
    ran = command("run", network, tmp_path / "unsat.vnnlib", "--certificate", tmp_path / "proof")
    assert ran.code == 2 and "verify convert" in ran.err and not (tmp_path / "proof").exists()
    assert command("convert", network, tmp_path / "net.onnx").code == 0
    files = tmp_path / "net.onnx", tmp_path / "unsat.vnnlib"
    assert command("run", *files, "--certificate", tmp_path / "proof").out == "unsat\n"
    assert command("check", tmp_path / "proof", *files).code == 0


def test_the_network_between(network: Path, tmp_path: Path, command: Command) -> None:
    assert command("convert", "--normalised", network, tmp_path / "between.onnx").code == 0
    session = onnxruntime.InferenceSession(tmp_path / "between.onnx", providers=["CPUExecutionProvider"])
    x = np.array([[0.1, -0.2, 0.3]])
    assert np.allclose(session.run(None, {"X": x})[0], reference(x, normalised=True))


def test_one_limit_for_all(network: Path) -> None:
    """As images have it: one clip."""
    lines = text().splitlines()
    lines[5:7] = ["-2,-2,-2,", "2,2,2,"]
    network.write_text("\n".join(lines))
    loaded = verify.load(network)
    assert loaded.operators["Clip"] == 1 and not loaded.operators["Split"]


def test_info_says_what_is_taken(network: Path, command: Command) -> None:
    assert "in the units of the file" in command("info", network).out
    told = json.loads(command("info", network, "--format", "json").out)["normalisation"]
    assert told == {"lower": [*LOWER], "upper": [*UPPER], "means": [*MEANS], "ranges": [*RANGES]}


LINES = text().splitlines()
WRONG = {
    "empty": ("", "the file ends where how many layers"),
    "comments alone": ("// nothing", "the file ends"),
    "words": ("a,b,c,d", "not all of them are numbers"),
    "cut short": ("\n".join(LINES[:-1]), "the file ends where a bias of layer 3"),
    "more behind": (text() + "1.0,\n", "there is more behind the last bias"),
    "no layers": (text().replace("3,3,2,6,", "0,3,2,6,"), "line 3: .*whole numbers from 1 on"),
    "layers that are not there": (
        text().replace("3,3,2,6,", "9,3,2,6,"),
        "line 4: .*10 numbers belong here, there are 4",
    ),
    "sizes that differ": (text().replace("3,6,5,2,", "4,6,5,2,"), "line 4: the sizes go from 4 to 2"),
    "more weights than bytes": (text().replace("3,6,5,2,", "3,600000,500000,2,"), "line 4: the layers have"),
    "half a neuron": (text().replace("3,6,5,2,", "3,6.5,5,2,"), "whole numbers"),
    "limits that cross": (
        text().replace("60.0,3.0,3.0,", "60.0,-4.0,3.0,"),
        "line 7: an input's least value",
    ),
    "no range": (text().replace("60.25,", "0.0,"), "line 9: a range is not above 0"),
    "nan": (text().replace("60.25,", "nan,"), "line 9: .*not all of them are finite"),
    "python's numbers": (text().replace("60.25,", "6_0,"), "line 9: .*not all of them are numbers"),
    "no text": ("\x80é", "no ASCII"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_other_files_are_refused(kind: str, network: Path, command: Command) -> None:
    content, said = WRONG[kind]
    network.write_text(content)
    with pytest.raises(ModelError, match=said):
        verify.load(network)
    for arguments in (("info", network), ("convert", network, network.with_suffix(".onnx"))):
        ran = command(*arguments)
        assert (
            (ran.code, ran.out) == (2, "") and "Traceback" not in ran.err and ran.err.count(str(network)) == 1
        )
    assert not network.with_suffix(".onnx").exists()


def test_conversions_that_cannot_be(network: Path, tmp_path: Path, command: Command) -> None:
    for arguments in ((network, network), (network, tmp_path), (tmp_path / "no.nnet", tmp_path / "x.onnx")):
        assert command("convert", *arguments).code == 2
    ran = command("convert", tmp_path / "net.onnx", tmp_path / "x.onnx")
    assert ran.code == 2 and "does not end in .nnet" in ran.err
    with pytest.raises(InputError, match="verify convert"):
        verify.certify(network, [LOWER], [0], epsilon=1, clip=None, certificates=True, out=tmp_path / "study")
    assert not (tmp_path / "study").exists()
    with pytest.raises(InputError, match="changed places"):
        verify.verify(tmp_path / "p.vnnlib", network)
