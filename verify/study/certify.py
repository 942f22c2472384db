"""Certified accuracy of a data set: the model is loaded once, all samples are bounded at once, and only what that leaves is searched.

Balls around one sample lie in one another: what is proved of a larger one holds in the smaller ones, and a counterexample in a smaller one is one
in all larger ones. So radii are screened from the largest down, and searched from the smallest up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from verify.deadline import Deadline
from verify.errors import InternalError, memory_kept
from verify.loading import LoadedModel
from verify.neutral import neutral
from verify.output import admit_folder, write_whole
from verify.request import Request
from verify.run import run
from verify.settings import placed
from verify.specification import PropertyBuilder
from verify.study.data import Data, read
from verify.study.question import Balls, Search, identity, loaded, nested, predictions, radii
from verify.study.records import UNDECIDED, Records, Row
from verify.study.screening import Screening
from verify.study.study import Study
from verify.validation import flag, is_nnet, path, refuse, shown

if TYPE_CHECKING:
    from verify.problem import Model

Observer = Callable[[int, int, Row], None]
FOLDER = "certificates"


@neutral()
def certify(
    model: Model,
    x: Any,
    y: Any = None,
    *,
    epsilon: Any,
    norm: str = "inf",
    clip: Any = (0.0, 1.0),
    mean: Any = None,
    std: Any = None,
    timeout: float | None = 10.0,
    limit: int | None = None,
    out: str | Path | None = None,
    certificates: bool = False,
    device: str = "auto",
    preset_name: str = "default",
    seed: int = 0,
    output: str | None = None,
    observe: Observer | None = None,
) -> Study:
    """Decides for every sample and radius whether all inputs in the ball get the sample's label.

    model: as `verify` takes it. x, y: samples and their labels, as arrays, files, data sets or folders (see `verify.study.data`); limit: of
    the first so many. epsilon: one radius or several, in the data's units (clip, mean, std: see LinfBall). norm: `inf`, `2` or `1`.
    timeout: seconds for each search; None for no limit. out: a folder for rows, which a later call with the same question goes on with, and,
    with `certificates`, for a proof of every verdict (a module of torch is exported to a file beside them for that). observe: told after every row, with how many there are, of
    how many. Raises InputError and ResourceError as `verify` does.
    """
    started = time.monotonic()
    search, balls, sizes = (
        Search(timeout, device, preset_name, seed),
        Balls(norm, clip, mean, std),
        radii(epsilon),
    )
    folder = None if out is None else path("out", out)
    if observe is not None and not callable(observe):
        refuse("observe", f"is {shown(observe)}", "give a function of three arguments: done, of, row")
    proofs = flag("certificates", certificates)
    if proofs:
        _check_certifiable(model, folder)
    admit_folder("--out", folder)
    data = read(x, y, limit)
    with memory_kept("samples were certified"):
        found = loaded(model, balls, data, sizes[-1], output, as_file=proofs)
        work = _Work(found, data, balls, search, sizes, observe or (lambda *_: None))
        records = Records(folder, identity(found, data, balls, output, work.predicted.tolist()))
        try:
            work.run(records)
            if proofs and folder is not None:
                _certified(work, records, _file(model, found, folder), folder, output)
        finally:
            records.close()
    rows = (records.rows[image, size] for image in range(len(data)) for size in sizes)
    seconds = time.monotonic() - started
    return Study(tuple(rows), sizes, data, balls, found.input_shape, folder, seconds, found.export)


def _check_certifiable(model: Model, folder: Path | None) -> None:
    """InputError where certificates cannot be had."""
    if folder is None:
        refuse("certificates", "need a folder", "give out=FOLDER (--out FOLDER)")
    if not isinstance(model, str | Path | torch.nn.Module):
        refuse("certificates", "are of files and modules of torch", "give the model's path, or the module")
    if is_nnet(model):
        refuse("certificates", f"are of ONNX files alone, not of {model}", "verify convert writes one")


@dataclass
class _Work:
    """A study while it is made."""

    model: LoadedModel
    data: Data
    balls: Balls
    search: Search
    radii: tuple[float, ...]
    observe: Observer
    records: Records = field(init=False)
    _of_numbers: dict[float, Any] = field(default_factory=dict)

    @cached_property
    def predicted(self) -> np.ndarray[Any, Any]:
        return predictions(self.model, self.balls.given(self.data.x))

    def run(self, records: Records) -> None:
        """Finds what there are no rows of."""
        self.records = records
        for image in np.flatnonzero(self.predicted != self.data.labels).tolist():
            for epsilon in self.radii:
                if (image, epsilon) not in records.rows:
                    self.keep(image, epsilon, "misclassified", "the model's own answer", 0.0)
        self._reuse()
        self._screen()
        for image in range(len(self.data)):
            for epsilon in self.radii:
                if self._open(image, epsilon):
                    self._decide(image, epsilon)

    def _open(self, image: int, epsilon: float) -> bool:
        """Whether there is no row, or an undecided one of a shorter search."""
        row = self.records.rows.get((image, epsilon))
        if row is None:
            return True
        more = row.limit is not None and (self.search.timeout is None or self.search.timeout > row.limit)
        return row.verdict in UNDECIDED and more

    def keep(
        self,
        image: int,
        epsilon: float,
        verdict: str,
        how: str,
        took: float,
        witness: Any = None,
        given: int | None = None,
    ) -> None:
        """A row, in the file when this returns."""
        row = Row(
            image,
            epsilon,
            int(self.data.labels[image]),
            int(self.predicted[image]),
            verdict,
            how,
            took,
            self.search.timeout if verdict in UNDECIDED else None,
            None if witness is None else tuple(float(value) for value in np.ravel(witness)),
            given,
        )
        self.records.keep(row)
        self.observe(len(self.records.rows), len(self.data) * len(self.radii), row)

    # -- without a search

    def _reuse(self) -> None:
        """What earlier rows tell of other radii."""
        for row in list(self.records.rows.values()):
            self._spread(row)

    def _spread(self, row: Row) -> None:
        """What a row tells of other radii of its sample: a proof of smaller ones, a counterexample of larger ones."""
        if row.verdict not in ("sat", "unsat") or not self._nested(row.image, row.epsilon):
            return
        for epsilon in self.radii:
            if not self._open(row.image, epsilon):
                continue
            if row.verdict == "unsat" and epsilon < row.epsilon and self._nested(row.image, epsilon):
                self.keep(row.image, epsilon, "unsat", f"proved of radius {row.epsilon:g}", 0.0)
            if row.verdict == "sat" and epsilon > row.epsilon:
                self.keep(
                    row.image, epsilon, "sat", f"found in radius {row.epsilon:g}", 0.0, row.witness, row.given
                )

    def _nested(self, image: int, epsilon: float) -> bool:
        """Whether balls around a sample lie in larger ones from this radius on."""
        if epsilon not in self._of_numbers:
            ends = self.balls.ends(self.data.x, epsilon)
            self._of_numbers[epsilon] = nested(*ends, self.model.element_type)
        return bool(self._of_numbers[epsilon][image])

    def _screen(self) -> None:
        """Bounds of all open samples at once, from the largest radius down, for no longer than one search of each would take."""
        screening = Screening(placed(self.model.network, self.search.device))
        each = self.search.timeout
        deadline = Deadline() if each is None else Deadline.after(each * len(self.data))
        for epsilon in reversed(self.radii):
            images = [image for image in range(len(self.data)) if self._screened(image, epsilon)]
            if images:
                self._screen_radius(screening, images, epsilon, deadline)

    def _screened(self, image: int, epsilon: float) -> bool:
        """Whether bounds of the ball's box say all of its ball, and none has failed before."""
        return (image, epsilon) not in self.records.rows and self._nested(image, epsilon)

    def _screen_radius(
        self, screening: Screening, images: list[int], epsilon: float, deadline: Deadline
    ) -> None:
        began = time.monotonic()
        lower, upper = (torch.from_numpy(end) for end in self.balls.ends(self.data.x[images], epsilon))
        labels = torch.from_numpy(self.data.labels[images])
        proved: list[tuple[int, str]] = []
        for index, name in screening.refuted(lower, upper, labels, deadline):
            proved += [(images[i], name) for i in index.tolist()]
        each = (time.monotonic() - began) / len(images)
        for image, name in proved:
            self.keep(image, epsilon, "unsat", f"bounds of many at once: {name}", each)
            self._spread(self.records.rows[image, epsilon])

    # -- by a search

    def _decide(self, image: int, epsilon: float) -> None:
        """Searches one ball; what comes out holds of other radii as well."""
        ball = self.balls.at(self.data.x[image], epsilon, int(self.data.labels[image]))
        asked = self.search
        result = run(Request(self.model, ball, asked.timeout, asked.device, asked.preset, asked.seed))
        witness, given = None, None
        if result.witness is not None:
            witness, given = result.witness.inputs, self._given(result.witness.inputs)
        how = "search" if result.verdict in ("sat", "unsat") else result.reason
        self.keep(image, epsilon, result.verdict, how, result.seconds, witness, given)
        self._spread(self.records.rows[image, epsilon])

    def _given(self, inputs: np.ndarray[Any, Any]) -> int:
        """The label of a counterexample: the highest output of another label, which is as high as the sample's."""
        scored = self.model.evaluate(inputs.reshape(-1)).reshape(-1).astype(np.float64)
        return int(scored.argmax())


# -- certificates


def _file(model: Model, found: LoadedModel, folder: Path) -> Path:
    """The model's file; of a module the one that it was exported to, which goes beside the certificates. Raises InputError, UnwrittenError."""
    if isinstance(model, str | Path):
        return Path(model)
    assert found.export is not None
    path, data = folder / FOLDER / "model.onnx", found.export.data
    if not path.exists():
        write_whole(f"--out {path}", path, data)
    elif path.read_bytes() != data:
        refuse(str(path), "is of another export, which earlier certificates are of", "choose another folder")
    return path


def _certified(work: _Work, records: Records, model: Path, folder: Path, output: str | None) -> None:
    """A certificate for every decided row that has none, beside its property."""
    for row in _uncertified(work, records):
        name = f"sample_{row.image:06d}_radius_{row.epsilon!r}"
        asked, ball = work.search, work.balls.at(work.data.x[row.image], row.epsilon, row.label)
        written: Path | PropertyBuilder = ball
        certificate = folder / FOLDER / f"{name}.cert"
        if work.balls.norm == "inf":
            written = folder / FOLDER / f"{name}.vnnlib"
            certificate = written.with_suffix(written.suffix + ".cert")
            text = ball.text_for(work.model.input_shape, work.model.output_shape)
            write_whole(f"--out {written}", written, text.encode())
        request = Request(
            model, written, asked.timeout, asked.device, asked.preset, asked.seed, certificate, output=output
        )
        result = run(request)
        if {result.verdict, row.verdict} == {"sat", "unsat"}:
            raise InternalError(f"{certificate}: {row.verdict} before, {result.verdict} with a certificate")
        if result.certificate is None:
            how = f"{row.how}; no certificate: {result.reason}"
            records.keep(replace(row, how=how))
        else:
            records.keep(replace(row, certificate=f"{FOLDER}/{certificate.name}"))


def _uncertified(work: _Work, records: Records) -> Iterator[Row]:
    for image in range(len(work.data)):
        for epsilon in work.radii:
            row = records.rows[image, epsilon]
            if row.verdict in ("sat", "unsat") and row.certificate is None:
                yield row
