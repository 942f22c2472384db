"""What is not shown does not count: NaN empties no subproblem and bounds no neuron; strict bounds hold behind sigmoids too."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
from make_data import Files, _unsat, network, placed
from nets import property_text

from verify.api import verify
from verify.checker import boxes
from verify.checker.dual import Dual
from verify.checker.errors import NotProved, Refused
from verify.checker.proof import Proof
from verify.checker.query import read_query
from verify.checker.witness import check_witness
from verify.proof import recording


@pytest.fixture
def inputs(tmp_path: Path) -> Files:
    """A proof by subproblems of the input."""
    return _unsat(tmp_path, 3, "inputs")


def test_nan_closes_nothing() -> None:
    proof = object.__new__(Proof)
    bounds = np.full((1, 2), np.nan), np.ones((1, 2))
    with pytest.raises(NotProved):
        proof.closed(np.array([0]), np.array([np.nan]), np.array([False]), bounds)


def test_boxes_of_nan_prove_nothing(inputs: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    assert inputs.check().proved

    def made(self: boxes._Bounded, one: object) -> None:
        for values in (self.best, self.lower, self.upper, *self.bounds):
            values[:] = np.nan

    monkeypatch.setattr(boxes._Bounded, "make", made)
    assert not inputs.check().proved


def test_intervals_of_nan_prove_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = _unsat(tmp_path, 0, "activations")
    assert files.check().proved
    real = Dual.intervals

    def intervals(self: Dual, *boxes: object) -> tuple[np.ndarray, np.ndarray]:
        return tuple(np.full_like(end, np.nan) for end in real(self, *boxes))  # type: ignore[arg-type, return-value]

    monkeypatch.setattr(Dual, "intervals", intervals)
    assert not files.check().proved


def test_all_outputs_between() -> None:
    """A formula holds throughout an interval of outputs only where its parts do."""
    text = property_text([0.0], [1.0], 1, "(and (< X_0 1.0) (<= Y_0 2.0))")
    query = read_query(text)
    inside, end, low, high = Fraction(1, 2), Fraction(1), Fraction(1), Fraction(2)
    assert query.violated([inside], [low], [high])
    assert not query.violated([inside], [low], [Fraction(3)])
    assert not query.violated([end], [low], [high])  # the strict bound counts


def test_strict_bounds_behind_sigmoids(tmp_path: Path) -> None:
    """The box's end is no witness where the file says `<`, although the box is closed."""
    model = network("sigmoid", 1)
    files = placed(
        tmp_path, model, property_text([0.0] * 3, [1.0] * 3, 3, "(and (< X_0 1.0) (<= Y_0 100.0))")
    )
    found = verify(files.model, files.property, certificate=files.certificate, device="cpu")
    assert found.verdict == "sat"
    assert files.check().proved
    from verify.checker.container import Container
    from verify.checker.onnx_reader import read_model

    values = {"inputs": [1.0, 0.5, 0.5], "outputs": [0.0] * 3}
    metadata = {key: json.dumps([value.hex() for value in each]) for key, each in values.items()}
    at_end = Container(metadata | {"element_type": "float32"}, {})
    data = files.model.read_bytes()
    with pytest.raises(NotProved):
        check_witness(
            at_end, read_model(data), read_query(files.property.read_text()).of_type("float32"), data, False
        )


def test_what_the_checker_cannot_read_costs_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sat` stays `sat` without a certificate, `unsat` becomes `unknown`; there is no file, and no crash."""

    def refuses(*_: object, **__: object) -> None:
        raise Refused("a property that the checker does not read")

    monkeypatch.setattr(recording, "check", refuses)
    model = network("relu", 1)
    assert isinstance(model, onnx.ModelProto)
    for unsafe, verdict in (("(<= Y_0 1000.0)", "sat"), ("(<= Y_0 -1000.0)", "unknown")):
        files = placed(tmp_path, model, property_text([0.0] * 3, [1.0] * 3, 3, unsafe))
        found = verify(files.model, files.property, certificate=files.certificate, device="cpu")
        assert (found.verdict, found.certificate) == (verdict, None)
        assert not files.certificate.exists()
