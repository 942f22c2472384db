"""Data sets: what a study says of every sample is what a search says of it alone; rows go on, whatever interrupted them."""

from __future__ import annotations

import json
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from nets import random_layers, relu_model
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import verify
from verify.checker.checking import check
from verify.cli.check import check as check_command
from verify.deadline import Deadline
from verify.errors import InputError
from verify.reports.study_report import study_page
from verify.study.data import read
from verify.study.question import nested
from verify.study.records import NAME, Row
from verify.study.screening import Screening

LAYERS = random_layers(5, (4, 10, 3))
MODEL = verify.load(relu_model(LAYERS))
RNG = np.random.default_rng(0)
X = RNG.random((12, 4), dtype=np.float32)
PREDICTED = MODEL.evaluate(X).argmax(1)
Y = np.where(np.arange(12) % 6 == 5, (PREDICTED + 1) % 3, PREDICTED)  # two are misclassified
RADII = (0.01, 0.05, 0.15, 0.4)


def certify(*args: Any, **options: Any) -> verify.Study:
    return verify.certify(MODEL, *(args or (X, Y)), **{"epsilon": RADII, "timeout": 30, **options})


@pytest.fixture(scope="module")
def study() -> verify.Study:
    return certify()


@pytest.mark.parametrize("norm", ["inf", "2", "1"])
def test_every_row_is_what_a_search_says(norm: str) -> None:
    ball = {"inf": verify.LinfBall, "2": verify.L2Ball, "1": verify.L1Ball}[norm]
    radii = (0.05, 0.4) if norm == "inf" else (0.05, 1.5)
    found = certify(X[:8], Y[:8], norm=norm, epsilon=radii)
    verdicts = set()
    for row in found.rows:
        alone = verify.verify(MODEL, ball(X[row.image], row.epsilon, row.label), timeout=30).verdict
        assert alone == ("sat" if row.verdict == "misclassified" else row.verdict)
        verdicts.add(row.verdict)
        if row.witness is not None:
            original, changed = found.counterexample(row)
            away = np.abs(changed - original)
            assert {"inf": away.max(), "2": np.sqrt((away**2).sum()), "1": away.sum()}[
                norm
            ] <= row.epsilon + 1e-12
            scores = MODEL.evaluate(changed.astype(np.float32).ravel())
            assert scores[row.given] >= scores[row.label] and row.given != row.label
    assert verdicts >= {"sat", "unsat"}


def test_shares(study: verify.Study) -> None:
    assert len(study.rows) == 12 * 4 and [row.key for row in study.rows[:2]] == [(0, 0.01), (0, 0.05)]
    shares = [study.accuracy(radius) for radius in RADII]
    assert all(one.clean == 10 / 12 and one.certified + one.open <= one.attacked + 1e-9 for one in shares)
    assert [one.certified for one in shares] == sorted((one.certified for one in shares), reverse=True)
    assert study.images("misclassified") == [5, 11]
    assert set(study.images("unsat", 0.4)) <= set(study.images("unsat", 0.01))
    assert str(study).splitlines()[0].split() == [
        "radius",
        "samples",
        "clean",
        "attacked",
        "certified",
        "open",
        "seconds",
    ]
    assert "<table>" in study._repr_html_()
    with pytest.raises(InputError, match=r"0\.3.*0\.01"):
        study.accuracy(0.3)
    with pytest.raises(InputError, match="have a counterexample"):
        study.counterexample(next(row for row in study.rows if row.verdict == "unsat"))


def test_what_is_known_of_other_radii_is_not_searched() -> None:
    """A proof goes down, a counterexample up."""
    rows = {row.key: row for row in certify().rows}
    for (image, epsilon), row in rows.items():
        others = [rows[image, other].verdict for other in RADII if other < epsilon]
        assert row.verdict != "unsat" or set(others) == {"unsat"} or not others
    assert any(row.how.startswith("proved of") for row in rows.values())
    assert any(row.how.startswith("found in") and row.witness is not None for row in rows.values())


def test_bounds_of_many_are_sound() -> None:
    """No point of a box that they find safe has another label; each pass finds some."""
    network = verify.load(relu_model(random_layers(1, (4, 20, 20, 3)))).network
    x = torch.from_numpy(np.repeat(np.random.default_rng(1).random((40, 4)), 3, 0))
    radii = torch.tensor([0.02, 0.06, 0.12]).repeat(40)[:, None].double()
    labels = network.forward(x).argmax(1)
    found: dict[str, list[int]] = {}
    for index, name in Screening(network).refuted(x - radii, x + radii, labels, Deadline()):
        found.setdefault(name, []).extend(index.tolist())
    safe = torch.tensor(sorted(i for some in found.values() for i in some))
    assert len(safe.unique()) == len(safe) and len(found) == 3 and all(found.values())
    noise = torch.rand(500, len(safe), 4, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    points = x[safe] + radii[safe] * noise.sign() * noise.abs().sqrt()
    given = network.forward(points.reshape(-1, 4)).argmax(1).reshape(500, -1)
    assert bool((given == labels[safe]).all())
    assert not list(Screening(network).refuted(x, x, labels, Deadline.after(-1.0)))


def test_boxes_without_numbers_of_the_type_are_not_reused() -> None:
    lower, upper = np.array([[0.5, 0.1]]), np.array([[0.5, 0.1]])
    assert nested(lower, upper, "float64").tolist() == [True] and nested(
        lower, upper, "float32"
    ).tolist() == [False]
    assert nested(lower, upper + 1e-8, "float32").tolist() == [True]
    tenth = np.full((1, 4), 0.1)  # no float32: of radius 0 the nearest one counts
    label = int(MODEL.evaluate(tenth.astype(np.float32)).argmax())
    rows = certify(tenth, [label], epsilon=[0.0, 1e-3]).rows
    assert [row.verdict for row in rows] == ["unsat", "unsat"] and not rows[0].how.startswith("proved of")


def test_a_study_goes_on(tmp_path: Path) -> None:
    seen: list[Row] = []
    first = certify(out=tmp_path / "new" / "study", observe=lambda done, of, row: seen.append(row))
    assert len(seen) == 48
    file = tmp_path / "new" / "study" / NAME
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:20]) + lines[20][:10])  # as if it had been killed
    again: list[Row] = []
    second = certify(out=tmp_path / "new" / "study", observe=lambda done, of, row: again.append(row))
    assert 0 < len(again) < 48
    assert [(row.key, row.verdict) for row in second.rows] == [(row.key, row.verdict) for row in first.rows]
    certify(
        epsilon=RADII[:2], out=tmp_path / "new" / "study", observe=lambda *_: pytest.fail("there are rows")
    )
    for changed in ({"norm": "2"}, {"clip": (0, 2)}, {"mean": 0.5}):
        with pytest.raises(InputError, match="another question"):
            certify(out=tmp_path / "new" / "study", **changed)
    with pytest.raises(InputError, match=r"another question.*samples"):
        certify(X + np.float32(0), np.roll(Y, 1), out=tmp_path / "new" / "study")


def test_rows_are_of_the_very_model(tmp_path: Path) -> None:
    """A module that answers the same at all samples, but has another weight, is another model."""
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)).eval()
    labels = module(torch.from_numpy(X[:3])).argmax(1).numpy()
    asked: dict[str, Any] = {"epsilon": 0.01, "out": tmp_path, "timeout": 30}
    verify.certify(module, X[:3], labels, **asked)
    verify.certify(module, X[:3], labels, **asked, observe=lambda *_: pytest.fail("there are rows"))
    with torch.no_grad():
        module[2].bias[0] += 1e-6
    with pytest.raises(InputError, match=r"another question.*model"):
        verify.certify(module, X[:3], labels, **asked)


def test_screening_takes_no_longer_than_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    whole = Screening.refuted

    def refuted(self: Screening, *args: Any) -> Any:
        asked.append(args[-1].remaining)
        return whole(self, *args)

    monkeypatch.setattr(Screening, "refuted", refuted)
    certify(timeout=2.0)
    assert asked and max(asked) <= 2.0 * len(X)


@pytest.mark.parametrize("content", [b"x", b"not ours\n", b"[]\n", b"\xff\xfe\n"])
def test_other_files_are_left_alone(content: bytes, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(InputError, match="not a row of a study"):
        certify(out=tmp_path)
    assert (tmp_path / NAME).read_bytes() == content


@pytest.mark.parametrize("line", ["{}", "null", '{"image": 0}', "1", "", "row"])
def test_rows_that_are_none_are_refused(line: str, tmp_path: Path) -> None:
    certify(X[:1], Y[:1], epsilon=0.01, out=tmp_path)
    with (tmp_path / NAME).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=r"rows.jsonl:3: not a row"):
        certify(X[:1], Y[:1], epsilon=0.01, out=tmp_path)


def test_undecided_rows_are_tried_again_with_more_time(tmp_path: Path) -> None:
    certify(X[:1], Y[:1], epsilon=0.01, out=tmp_path, timeout=1)
    file = tmp_path / NAME
    header, row = file.read_text().splitlines()
    undecided = json.loads(row) | {"verdict": "timeout", "limit": 1.0}
    for limit, verdict in ((0.5, "timeout"), (1.0, "timeout"), (30, "unsat")):
        file.write_text(f"{header}\n{json.dumps(undecided)}\n")
        assert certify(X[:1], Y[:1], epsilon=0.01, out=tmp_path, timeout=limit).rows[0].verdict == verdict


def test_certificates(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(relu_model(LAYERS), model)
    found = verify.certify(
        model, X[:2], Y[:2], epsilon=[0.01, 0.4], out=tmp_path / "study", certificates=True
    )
    assert {row.verdict for row in found.rows} == {"unsat", "sat"}
    for row in found.rows:
        assert row.certificate is not None
        certificate = tmp_path / "study" / row.certificate
        assert check(certificate, model, certificate.with_suffix("")).proved
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "study" / "certificates").iterdir()}
    verify.certify(model, X[:2], Y[:2], epsilon=[0.01, 0.4], out=tmp_path / "study", certificates=True)
    assert stamps == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "study" / "certificates").iterdir()
    }
    with pytest.raises(InputError, match="certificates"):
        verify.certify(model, X, Y, epsilon=0.1, certificates=True)
    with pytest.raises(InputError, match="path"):
        verify.certify(relu_model(LAYERS), X, Y, epsilon=0.1, out=tmp_path, certificates=True)


def test_what_is_found_is_printed_in_a_line() -> None:
    """No arrays of a counterexample, nor counts."""
    found = verify.radius(MODEL, X[0], tolerance=0.1, timeout=30)
    decided = verify.verify(MODEL, verify.LinfBall(X[0], 0.5, int(PREDICTED[0])), timeout=30)
    assert decided.verdict == "sat" and str(decided).startswith(f"sat: {decided.reason} (")
    assert str(found).startswith(f"certified {found.certified:.6g}, counterexample {found.falsified:.6g}: ")
    assert "array" not in repr(found) + repr(decided)


def test_certificates_of_modules(tmp_path: Path) -> None:
    """They are of one file, which the module was exported to, and of no other module's."""
    folder = tmp_path / "certificates"
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(X[0].size, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    labels = module(torch.from_numpy(X[:2]).float()).argmax(1)

    def study() -> verify.Study:
        return verify.certify(module, X[:2], labels, epsilon=0.01, out=tmp_path, certificates=True)

    found = study()
    assert found.export is not None and str(found.export) in unescape(verify.report(found))
    assert (folder / "model.onnx").read_bytes() == found.export.data
    for row in found.rows:
        assert row.certificate is not None
        certificate = tmp_path / row.certificate
        assert check(certificate, folder / "model.onnx", certificate.with_suffix("")).proved
    onnx.save(relu_model(LAYERS), folder / "model.onnx")
    with pytest.raises(InputError, match=r"another export.*choose another folder"):
        study()


@pytest.mark.parametrize("norm", ["2", "1"])
def test_certificates_of_other_norms(norm: str, tmp_path: Path) -> None:
    """Each with its property and, of distances, the network beside it; a folder is checked as one."""
    model = tmp_path / "model.onnx"
    onnx.save(relu_model(LAYERS), model)
    found = verify.certify(
        model, X[:2], Y[:2], epsilon=[0.01, 0.8], norm=norm, out=tmp_path / "study", certificates=True
    )
    assert {row.verdict for row in found.rows} == {"unsat", "sat"}
    folder = tmp_path / "study" / "certificates"
    assert len(list(folder.glob("*.onnx"))) == (len(found.rows) if norm == "1" else 0)
    assert check_command.main([str(folder), str(model)], standalone_mode=False) == 0


# -- data


def files(folder: Path) -> dict[str, tuple[Any, ...]]:
    np.savez(folder / "both.npz", x=X, y=Y)
    np.savez(folder / "named.npz", images=X, labels=Y[:, None], more=np.zeros(3))
    np.save(folder / "x.npy", X)
    np.save(folder / "y.npy", Y)
    pairs = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    return {
        "arrays": (X, Y), "lists": (X.tolist(), Y.tolist()), "tensors": (torch.from_numpy(X), torch.from_numpy(Y)), "npz": (folder / "both.npz",),
        "names": (str(folder / "named.npz"),), "npy": (folder / "x.npy", folder / "y.npy"), "mixed": (folder / "x.npy", Y), "dataset": (pairs,),
        "loader": (DataLoader(pairs, batch_size=5),), "plain loader": (DataLoader(pairs, batch_size=None),), "list of pairs": (list(zip(X, Y.tolist(), strict=True)),),
        "generator": (((x, int(y)) for x, y in zip(X, Y, strict=True)),),
    }  # fmt: skip


FORMS = [
    "arrays",
    "lists",
    "tensors",
    "npz",
    "names",
    "npy",
    "mixed",
    "dataset",
    "loader",
    "plain loader",
    "list of pairs",
    "generator",
]


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_data(form: str, tmp_path: Path) -> None:
    given = files(tmp_path)[form]
    data = read(*given, limit=7) if len(given) > 1 else read(given[0], limit=7)
    np.testing.assert_array_equal(data.x, X[:7].astype(np.float64))
    np.testing.assert_array_equal(data.labels, Y[:7])


def test_folders_of_images(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        (tmp_path / "ba"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "ba"[i % 2] / f"{i}.png")
    data = read(tmp_path)
    assert data.labels.tolist() == [0, 0, 1, 1] and data.x.shape == (4, 3, 5, 6)
    np.testing.assert_array_equal(
        data.x[0], (pixels[1].transpose(2, 0, 1).astype(np.float32) / np.float32(255))
    )
    assert read(tmp_path, limit=2).labels.tolist() == [0, 1]


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no labels": (lambda f: read(X), "labels.*not given"), "fewer labels": (lambda f: read(X, Y[:3]), "3, the samples 12"), "one sample": (lambda f: read(X[0], Y), "axis of samples"),
    "float labels": (lambda f: read(X, Y.astype(float)), "whole number"), "one-hot": (lambda f: read(X, np.eye(12, 3, dtype=int)), "whole number"), "negative": (lambda f: read(X, Y - 9), "from 0 on"),
    "NaN": (lambda f: read(np.full((1, 4), np.nan), [0]), r"samples, entry \[0, 0\],.*nan"), "empty": (lambda f: read(np.zeros((0, 4)), []), "whole number|without entries"), "text": (lambda f: read([["a"]], [0]), "real"),
    "none": (lambda f: read(f / "none.npz"), "none.npz.*cannot be read"), "noise": (lambda f: (f / "a.npz").write_bytes(b"noise") and read(f / "a.npz"), "a.npz.*cannot be read"),
    "names": (lambda f: np.savez(f / "a.npz", a=X, b=Y) or read(f / "a.npz"), "'a', 'b'.*numpy.savez"), "objects": (lambda f: np.save(f / "a.npy", np.array([{}])) or read(f / "a.npy", Y), "a.npy.*cannot be read"),
    "alone": (lambda f: np.save(f / "a.npy", X) or read(f / "a.npy"), "labels.*not given"), "labels twice": (lambda f: np.savez(f / "a.npz", x=X, y=Y) or read(f / "a.npz", Y), "leave them out"),
    "empty folder": (lambda f: read(f), "no images"), "no image": (lambda f: (f / "c").mkdir() or ((f / "c" / "a.png").write_text("no") and read(f)), "a.png.*no image"), "limit": (lambda f: read(X, Y, 0), "limit"),
    "raising": (lambda f: read(iter([1, 2])), "pairs"), "number": (lambda f: read(3), "labels"), "shapes": (lambda f: read([(X[0], 0), (X[0, :2], 1)]), "different shapes"), "dict": (lambda f: read({"x": X}), "labels"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_data_that_are_refused(kind: str, tmp_path: Path) -> None:
    make, said = REFUSED[kind]
    with pytest.raises(InputError, match=said):
        make(tmp_path)


STUDIES: dict[str, tuple[dict[str, Any], str]] = {
    "negative": ({"epsilon": -0.1}, "epsilon.*-0.1"), "none": ({"epsilon": []}, "epsilon"), "NaN": ({"epsilon": [0.1, float("nan")]}, "epsilon.*nan"), "text": ({"epsilon": "0.1"}, "epsilon"),
    "norm": ({"norm": "3"}, "norm.*inf, 2, 1"), "true norm": ({"norm": True}, "norm"), "clip": ({"clip": (0, 0.2)}, "outside clip"), "timeout": ({"timeout": -1}, "timeout"), "flag": ({"certificates": 1}, "certificates"),
    "observe": ({"observe": 3}, "observe"), "device": ({"device": "tpu"}, "device"), "preset": ({"preset_name": "x"}, "preset"), "std": ({"std": -1}, "std"), "output": ({"output": "y"}, "output"),
}  # fmt: skip


@pytest.mark.parametrize("kind", STUDIES)
def test_studies_that_are_refused(kind: str) -> None:
    options, said = STUDIES[kind]
    with pytest.raises(InputError, match=said):
        certify(**options)


def test_data_of_another_model_are_refused() -> None:
    with pytest.raises(InputError, match="shape"):
        certify(X[:, :3], Y)
    with pytest.raises(InputError, match="label 7 of sample 0"):
        certify(X, [7] * 12)


def test_the_page(study: verify.Study) -> None:
    page = study_page(study, "A <study>")
    assert page.count("<tr>") == 1 + 4 + 1 + 12 and "A &lt;study&gt;" in page and "http" not in page
    images = np.random.default_rng(0).random((3, 1, 2, 2))
    labels = MODEL.evaluate(images.reshape(3, 4).astype(np.float32)).argmax(1)
    shown = study_page(verify.certify(MODEL, images.reshape(3, 4), labels, epsilon=0.5))
    assert "data:image/png" not in shown  # vectors are no images


# -- radius


@pytest.mark.parametrize(("norm", "reach"), [("inf", 0.05), ("2", 0.1), ("1", 0.2)])
def test_radius(norm: str, reach: float) -> None:
    """The sum of four inputs is to grow by 0.2."""
    layer = torch.nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0] * 4, [0.5] * 4]))
        layer.bias.copy_(torch.tensor([1.1, 0.0]))
    ends: list[tuple[float, float | None]] = []
    found = verify.radius(
        layer,
        torch.full((1, 4), 0.5),
        tolerance=1e-3,
        norm=norm,
        std=2.0,
        mean=-0.5,
        observe=lambda *both: ends.append(both),
    )
    assert (
        found.falsified is not None
        and found.witness is not None
        and found.balls > 0
        and ends[-1] == (found.certified, found.falsified)
    )
    # the model is given half of each and a quarter: 0.5 is 0.5, and it grows half as fast
    assert found.certified <= 2 * reach + 1e-6 and found.falsified >= 2 * reach - 1e-6
    assert found.falsified - found.certified <= 1e-3


def test_radius_of_what_is_misclassified_or_constant() -> None:
    assert verify.radius(MODEL, X[0], int(PREDICTED[0] + 1) % 3).certified == -1
    never = verify.radius(MODEL, X[:1], largest=1e-4, tolerance=1e-5)
    assert (never.certified, never.falsified) == (1e-4, None) and "largest" in never.reason
    for options, said in (
        ({"tolerance": 0}, "tolerance"),
        ({"largest": -1}, "largest"),
        ({"clip": None}, "largest"),
        ({"label": -1}, "label"),
    ):
        with pytest.raises(InputError, match=said):
            verify.radius(MODEL, X[0], **options)  # type: ignore[arg-type]
