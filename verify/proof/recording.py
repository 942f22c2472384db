"""A certificate from the search to the file: written, proved by the checker itself, and only then published."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from verify.checker.checking import DEPLOYED, FAILURES, REAL, check
from verify.checker.errors import Refused
from verify.checker.network import Network
from verify.checker.onnx_reader import read_model
from verify.checker.question import Models, Question, content, digest
from verify.errors import InputError
from verify.loading.joint import JointModel
from verify.loading.onnx.external import data_files
from verify.output import Outputs
from verify.problem import Problem, Witness, of_networks
from verify.proof.agreement import Agreement
from verify.proof.live_check import LiveCheck
from verify.proof.provers import Asked, Checkers, Here
from verify.proof.writer import CertificateWriter


class Recording:
    """One certificate in the making."""

    def __init__(self, path: Path, models: Models, specification: Path, writer: CertificateWriter) -> None:
        self.path, self.models, self.specification, self.writer = path, models, specification, writer
        self._live: LiveCheck | None = None
        self._checkers: Checkers = Here(1)

    @contextmanager
    def followed(self, problem: Problem, semantics: str, checkers: Checkers, until: float) -> Iterator[None]:
        """Within it, what is written is proved as it comes."""
        asked = Asked((self.models, self.specification), semantics, str(problem.rows), until)
        variables, self._checkers = problem.model.network.variables, checkers
        with LiveCheck(self.writer, asked, problem.clauses, variables, checkers) as self._live:
            yield

    def close_unsat(self, problem: Problem, semantics: str = REAL, until: float = math.inf) -> str | None:
        """Finishes and checks the proof; what is wrong with it, or None once the file is in place.

        until: the time (of `time.monotonic`) at which the check gives up.
        """
        self.writer.finish(
            self._header("unsat", problem) | {"semantics": semantics, "rows": str(problem.rows)}
        )
        return self._publish(semantics, until)

    def close_sat(self, problem: Problem, witness: Witness) -> str | None:
        """Writes the witness; what is wrong with it, or None once the file is in place."""
        self._live = None  # which has followed a proof
        values = {
            "inputs": json.dumps([float(value).hex() for value in np.ravel(witness.inputs)]),
            "outputs": json.dumps([float(value).hex() for value in np.ravel(witness.outputs)]),
        }
        self.writer.finish(
            self._header("sat", problem) | {"element_type": problem.model.element_type} | values
        )
        failure = self._publish(REAL)
        return failure and self._publish(DEPLOYED)  # a point on the edge may violate in float32 alone

    def _header(self, verdict: str, problem: Problem) -> dict[str, str]:
        export = problem.model.export
        return {
            "verdict": verdict,
            **({} if export is None else {"model": str(export)}),
            "onnx_sha256": " ".join(digest(content(path)) for path in _files(self.models)),
            "vnnlib_sha256": digest(content(self.specification)),
        }

    def _publish(self, semantics: str, until: float = math.inf) -> str | None:
        try:
            failure = self._failure(semantics, until)
        except Refused as problem:  # the checker reads less than the search does
            return f"not proved: {problem}"
        if failure is None:
            self.writer.publish()
        return failure

    def _failure(self, semantics: str, until: float) -> str | None:
        """What is wrong with the finished file; None where it is proved."""
        try:
            if self._live is not None and self._live.closed(self.writer.whole) is not None:
                return None
        except FAILURES as problem:
            return f"not proved: {problem}"
        found = check(
            self.writer.whole, self.models, self.specification, semantics=semantics, until=until,
            jobs=self._checkers.count, provers=self._checkers.provers,
        )  # fmt: skip
        return None if found.proved else found.sentence


@contextmanager
def recording(
    path: Path, models: Models, specification: Path, problem: Problem, folder: Path | None = None
) -> Iterator[Recording]:
    """A certificate for a problem read from these files; folder: that keeps its search. Raises InputError where there can be none."""
    models = _by_network(models, problem)
    Outputs([*_files(models), specification], data_files).admit("--certificate", path)
    agreement = Agreement(_readable(models, specification, problem))
    with CertificateWriter(path, folder, agreement) as writer:
        yield Recording(path, models, specification, writer)


def _by_network(models: Models, problem: Problem) -> Models:
    """The models' files, those of a query in the order of its networks."""
    if not isinstance(models, Mapping) or not isinstance(problem.model, JointModel):
        return models
    models = of_networks(problem.model.query, models)
    return {name: models[name] for name in problem.model.query.implemented}


def _files(models: Models) -> list[Path]:
    return list(models.values()) if isinstance(models, Mapping) else [models]


def _readable(models: Models, specification: Path, problem: Problem) -> Network:
    """The checker's network; InputError unless it reads the same one from the files: as many variables, in the same layers."""
    files = _files(models)
    model = ", ".join(map(str, files))
    try:
        if problem.model.of_query:
            network = Question.read(models, specification).network
        else:
            network = read_model(content(files[0]))
    except Refused as problem_found:
        raise InputError(
            f"--certificate: the checker does not read {model}: {problem_found}"
        ) from problem_found
    own = [layer.size for layer in problem.model.network.layers]
    theirs = [layer.variables.stop - layer.variables.start for layer in network.layers]
    if own != theirs:
        raise InputError(
            f"--certificate: {model} is lowered in another way by the checker (layers {theirs}, the search's {own})"
        )
    return network
