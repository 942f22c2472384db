"""Certificates of torch modules, and of models in memory: what is proved is the file beside the certificate, and how it compares with the module is said."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from nets import random_layers, relu_model
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import verify
from verify.checker.checking import check
from verify.checker.container import read
from verify.checker.showing import describe
from verify.errors import InputError, ModelError, ModeWarning
from verify.formats.vnnlib2 import parse

X = np.full((1, 4), 0.5, dtype=np.float32)
BOX = np.zeros((1, 4)), np.ones((1, 4))


def module() -> nn.Sequential:
    """In training mode, where its layers compute something else."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(6, 3)
    )


def given(model: nn.Module) -> int:
    return int(model.eval()(torch.from_numpy(X)).argmax())


LABEL = given(module())
ASKED: dict[str, Callable[[], Any]] = {
    "ball": lambda: verify.LinfBall(X, 0.001, LABEL),
    "no ball": lambda: verify.LinfBall(X, 0.5, LABEL),
    "L2": lambda: verify.L2Ball(X, 0.001, LABEL),
    "brightness": lambda: verify.Brightness(X, LABEL, brightness=0.001),
    "monotone": lambda: verify.Monotone(BOX, 1, tolerance=4.0),
    "text": lambda: verify.LinfBall(X, 0.001, LABEL).text_for((1, 4), (1, 3)),
}


@pytest.mark.parametrize("kind", ASKED)
def test_modules_are_certified_as_the_file_that_they_are_exported_to(kind: str, tmp_path: Path) -> None:
    certificate, model = tmp_path / "proof.cert", module().train()
    with pytest.warns(ModeWarning):
        result = verify.verify(model, ASKED[kind](), certificate=certificate, timeout=60)
    assert result.verdict == ("sat" if kind == "no ball" else "unsat") and model.training
    assert result.certificate == certificate and result.export is not None
    assert result.export.inputs >= 2 and result.export.difference < 1e-5
    assert check(certificate, tmp_path / "proof.cert.onnx", tmp_path / "proof.cert.vnnlib").proved
    told = str(result.export)
    assert "torch module (Sequential)" in told and f"at the {result.export.inputs} inputs" in told
    assert told in describe(read(certificate)).replace("\n", " ") and told in unescape(verify.report(result))
    if kind != "brightness":
        file = verify.load(tmp_path / "proof.cert.onnx")
        expected = model.eval()(torch.from_numpy(X)).detach().numpy().ravel()
        assert np.allclose(file.evaluate(X.ravel()), expected, atol=1e-6)


class Otherwise(nn.Module):
    """Another function where it is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x)
        return found * (2 if torch.onnx.is_in_onnx_export() else 1)


class Loops(nn.Module):
    """Which torch.fx cannot trace, and torch.export can."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        total = x
        for i in range(len(x[0])):
            total = total + x[:, i : i + 1].relu()
        found: Tensor = self.layer(total)
        return found


def test_modules_that_torch_export_reads_are_certified(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Loops()
    found = verify.verify(model, verify.LinfBall(X, 1e-4, given(model)), certificate=tmp_path / "proof.cert")
    assert found.verdict == "unsat" and found.export is not None and found.export.module == "Loops"


def test_parametrised_weights_are_numbers_in_the_file(tmp_path: Path) -> None:
    model = module().eval()
    parametrizations.spectral_norm(model[0])
    parametrizations.weight_norm(model[5])
    model.eval()
    asked = verify.LinfBall(X, 0.001, given(model))
    found = verify.verify(model, asked, certificate=tmp_path / "proof.cert", timeout=60)
    assert found.verdict == "unsat" and found.export is not None and found.export.difference < 1e-6
    assert parametrize.is_parametrized(model[0]) and parametrize.is_parametrized(model[5])
    assert given(model) == asked.label  # what is read is a copy, of the same classes


def test_nothing_is_written_where_the_file_is_not_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="no reading of the module"):
        verify.verify(Otherwise(), verify.OutputRange(BOX, -9, 9), certificate=tmp_path / "proof.cert")

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such operator in opset 17")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(ModelError, match=r"cannot export.*no such operator.*leave the certificate out"):
        verify.verify(module().eval(), ASKED["ball"](), certificate=tmp_path / "proof.cert")
    assert not list(tmp_path.iterdir())


FILE = relu_model(random_layers(7, (4, 6, 3)))
IN_MEMORY: dict[str, Any] = {
    "bytes": FILE.SerializeToString(),
    "packed": gzip.compress(FILE.SerializeToString()),
    "parsed": FILE,
}


@pytest.mark.parametrize("kind", IN_MEMORY)
def test_models_in_memory_are_certified(kind: str, tmp_path: Path) -> None:
    question = (
        verify.OutputRange(BOX, -100, 100) if kind != "packed" else verify.Brightness(X, 0, brightness=0.1)
    )
    found = verify.verify(IN_MEMORY[kind], question, certificate=tmp_path / "proof.cert", timeout=60)
    assert found.certificate is not None and found.export is None
    assert check(found.certificate, tmp_path / "proof.cert.onnx", tmp_path / "proof.cert.vnnlib").proved
    onnx.checker.check_model(onnx.load(tmp_path / "proof.cert.onnx"))


def test_a_name_that_looks_like_a_property_is_a_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(FILE, "(1).onnx")
    found = verify.verify(
        "(1).onnx", verify.OutputRange(BOX, -100, 100), certificate="proof.cert", timeout=60
    )
    assert found.certificate is not None and not (tmp_path / "proof.cert.onnx").exists()


def test_what_has_no_file_is_not_certified(tmp_path: Path) -> None:
    for model, question in (
        (verify.load(FILE), verify.OutputRange(BOX, -100, 100)),
        (FILE, parse(ASKED["text"]())),
    ):
        with pytest.raises(InputError, match=r"--certificate: the (model|property) is .*give"):
            verify.verify(model, question, certificate=tmp_path / "proof.cert")
    assert not list(tmp_path.iterdir())


def query(tolerance: float) -> str:
    """Two runs of one model, as people write it."""
    return verify.Monotone(BOX, 1, up=False, tolerance=tolerance).text_for((1, 4), (1, 3))


@pytest.mark.parametrize("tolerance", [4.0, 0.0])
def test_queries_of_modules_are_decided_and_certified(tolerance: float, tmp_path: Path) -> None:
    model, certificate, file = module().eval(), tmp_path / "proof.cert", tmp_path / "query.vnnlib"
    file.write_text(query(tolerance))
    result = verify.verify(model, file, certificate=certificate, timeout=60)
    assert result.verdict == ("unsat" if tolerance > 0 else "sat") and result.certificate == certificate
    assert result.export is not None and check(certificate, tmp_path / "proof.cert.onnx", file).proved
    if result.witness is not None:
        assert result.reason.endswith("torch")
        x, y = (torch.from_numpy(result.witness.variables[name]) for name in ("X", "Y"))
        assert torch.allclose(model(x), y, atol=1e-6)
    assert verify.verify(verify.load(model, X), file, timeout=60).verdict == result.verdict


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("(equal-to f)", "(isomorphic-to f)", "several networks.*give these instead"),
        ("real", "float64", "declared float64, the model is float32"),
        ("real [1,3]", "real [1,2]", r"output of f is declared as \[1, 2\], the model's is \[1, 3\]"),
    ],
)
def test_queries_of_other_models(before: str, after: str, message: str) -> None:
    text = query(4.0)
    if "[1,2]" in after:
        text = text.replace("Y[0,2]", "Y[0,1]").replace("W[0,2]", "W[0,1]")
    with pytest.raises(ModelError, match=message):
        verify.verify(module().eval(), text.replace(before, after), timeout=60)


def test_a_module_loaded_as_a_file_has_certificates(tmp_path: Path) -> None:
    loaded = verify.load(module().eval(), torch.from_numpy(X), as_file=True)
    result = verify.verify(loaded, ASKED["ball"](), certificate=tmp_path / "proof.cert", timeout=60)
    assert result.verdict == "unsat" and result.export == loaded.export
    assert check(tmp_path / "proof.cert", tmp_path / "proof.cert.onnx", tmp_path / "proof.cert.vnnlib").proved


def test_archives_of_modules(tmp_path: Path) -> None:
    archive = tmp_path / "evidence.zip"
    result = verify.bundle(archive, module().eval(), ASKED["ball"](), timeout=60)
    assert result.verdict == "unsat" and result.certificate == archive
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path)
    readme = (tmp_path / "README.md").read_text()
    assert str(ASKED["ball"]()) in readme and f"an {result.export}" in readme and "{" not in readme
    files = "certificate/proof.cert", "model/model.onnx", "property/property.vnnlib"
    assert f"verify check {' '.join(files)}" in readme
    assert check(*(tmp_path / file for file in files)).proved
    assert result.certificate is not None and str(result.export) in unescape(
        (tmp_path / "report.html").read_text()
    )
    undecided = verify.bundle(tmp_path / "none.zip", module().eval(), ASKED["ball"](), timeout=1e-9)
    assert undecided.certificate is None and not (tmp_path / "none.zip").exists()
