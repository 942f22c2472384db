"""The Python interface: `verify`, `bounds`, and what they return."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from verify.bounders.ascent import Bounder
from verify.bounders.decoupled import Dvijotham, SupergradientAscent
from verify.bounders.dual import DualProblem
from verify.bounders.ibp import interval, interval_bound, magnitudes
from verify.bounders.proximal import Proximal
from verify.bounders.restricted import Restricted
from verify.deadline import Deadline, OutOfTimeError
from verify.errors import InputError, UnwrittenError, VacuousWarning, memory_kept
from verify.formats.vnnlib import Property
from verify.formats.vnnlib import parse as parse_property
from verify.formats.vnnlib2 import Query, parse, read
from verify.loading import LoadedModel, check_example, load
from verify.network.graph import Layer, Network
from verify.neutral import neutral
from verify.problem import Problem, prepare_query
from verify.proof.writer import CertificateWriter
from verify.result import Result, late
from verify.search.branch_and_bound import Reporter, Silent
from verify.settings import SEMANTICS, Settings, build_search, choose_device, preset
from verify.specification import LinfBall, Specification
from verify.state import Bounds
from verify.validation import choice, flag, integer, path, refuse, seconds, shown

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from verify.loading.loaded import Source

    Model = str | Path | bytes | onnx.ModelProto | torch.nn.Module | LoadedModel
    Spec = str | Path | Property | Query | LinfBall | Specification

_CLAUSES_AT_ONCE = 64
# of the time that is left, where a check is to come: mostly it takes less than a third of the search, with residual networks as long
_SEARCH_SHARE = 0.75
_OPTIMISERS: dict[str, Dvijotham | SupergradientAscent | Proximal | Restricted] = {
    "dsg": Dvijotham(), "supergradient": SupergradientAscent(), "proximal": Proximal(), "restricted": Restricted(100),
}  # fmt: skip
METHODS = ("interval", "crown", *_OPTIMISERS, "lp")
INTERMEDIATE = ("crown", "optimised")


@dataclass(frozen=True)
class Step:
    """Where bounding is after an iteration: the best bounds so far of up to 64 clauses, `first_clause` and those behind it.

    `seconds` of bounding, intermediate bounds left out. The bounds are not yet rounded outward.
    """

    first_clause: int
    iteration: int
    seconds: float
    bounds: tuple[float, ...]


@dataclass(frozen=True)
class ClauseBounds:
    """Lower bounds of every clause's margin over its whole box: above 0 the clause is refuted. `vacuous`: there are none.

    `iterations`: the most made for any clauses (of lp: linear programs solved). `seconds` leaves intermediate bounds out.
    """

    method: str
    iterations: int
    bounds: tuple[float, ...]
    seconds: float
    intermediate_seconds: float
    layers: tuple[dict[str, Any], ...]
    vacuous: bool = False


@neutral()
def prepare(
    model: Model | Mapping[str, Source], specification: Spec, example_input: torch.Tensor | None = None,
    deadline: Deadline | None = None,
) -> Problem:  # fmt: skip
    """Loads both and checks that they belong together. Raises InputError, and OutOfTimeError at the deadline.

    A VNN-LIB 2.0 query of several networks takes a mapping of models by name.
    """
    deadline = deadline or Deadline()
    with deadline.ticking(), memory_kept("model and property were loaded"):
        return _prepared(model, _asked(specification, deadline), example_input, deadline)


def _prepared(
    model: Model | Mapping[str, Source], spec: Property | Query | LinfBall | Specification, example_input: torch.Tensor | None,
    deadline: Deadline,
) -> Problem:  # fmt: skip
    if isinstance(spec, Query):
        return prepare_query(spec, model)  # type: ignore[arg-type]  # it checks what the models are
    if isinstance(model, Mapping):
        raise InputError(f"{', '.join(map(str, model))}: several networks take a query of VNN-LIB 2.0")
    loaded = model if isinstance(model, LoadedModel) else load(model, example_input, _boxes(spec))
    if isinstance(model, LoadedModel):
        check_example(loaded, example_input)
    if isinstance(spec, LinfBall | Specification):
        text = spec.text_for(loaded.input_shape, loaded.output_shape)
        spec = parse_property(text, f"<{type(spec).__name__}>", deadline)
    return Problem(loaded, spec)


def _asked(specification: object, deadline: Deadline) -> Property | Query | LinfBall | Specification:
    """A specification in any form, files and text read."""
    if isinstance(specification, Property | Query | LinfBall | Specification):
        return specification
    if isinstance(specification, str) and specification.lstrip().startswith(("(", ";")):
        return parse(specification, deadline=deadline)
    if not isinstance(specification, str | Path):
        refuse(
            "the specification", f"is {shown(specification)}",
            "the model comes first, then a path, VNN-LIB text, a LinfBall or a Specification",
        )  # fmt: skip
    return read(path("the specification", specification), deadline)


def _boxes(spec: Property | LinfBall | Specification) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Where the network that is read is compared with the model."""
    if isinstance(spec, LinfBall | Specification):
        return spec.ends()
    return None if spec.vacuous else spec.some_boxes()


def verify(
    model: Model, specification: Spec, *, timeout: float | None = None, device: str | torch.device = "auto",
    preset_name: str = "default", seed: int = 0, example_input: torch.Tensor | None = None, reporter: Reporter | None = None,
    certificate: str | Path | None = None, semantics: str = "real", rigorous: bool = True, trim: bool = False,
) -> Result:  # fmt: skip
    """Decides whether the property holds for every input.

    model: a path or bytes of an ONNX file, a parsed ONNX model, or a torch.nn.Module (with `example_input`, a tensor of the
    shape it takes). specification: a path of a VNN-LIB file, VNN-LIB text, or a builder. timeout: seconds, loading included.
    certificate: a file for the evidence of `unsat` or `sat`; model and specification are then paths, and `unsat` is only
    said of what the checker has proved. semantics: `real`, or `ieee32-any-order` for the network as float32 libraries
    compute it. rigorous: False takes float32's word for refutations (for timing alone). trim: drop leaves that a certificate of
    `unsat` does without, which takes about as long as two checks, if there is time for it. Raises InputError for bad input,
    ResourceError where the machine is too small, and, of these, UnwrittenError where the certificate cannot be written: its
    `result` is what the search has found, which nothing has proved.
    """
    started, deadline = time.monotonic(), Deadline.after(seconds("timeout", timeout))
    chosen, seed = choose_device(device), integer("seed", seed, least=0)
    settings = replace(
        preset(preset_name),
        semantics=choice("semantics", semantics, SEMANTICS),
        rigorous=flag("rigorous", rigorous),
    )
    target = None if certificate is None else path("certificate", certificate)
    check_certificate_options(settings, target, flag("trim", trim))
    check_reporter(reporter)
    try:
        problem = prepare(model, specification, example_input, deadline)
    except OutOfTimeError:
        return late(started)
    options = (deadline, started, settings, chosen, seed, reporter)
    if target is None:
        result = decide(problem, *options)
    else:
        result = certified(problem, target, model, specification, *options, trim=trim)
    warn_of_vacuity(problem)
    return result


def warn_of_vacuity(problem: Problem) -> None:
    """A VacuousWarning where the property holds as it is written."""
    if problem.vacuous:
        warnings.warn(problem.vacuous, VacuousWarning, stacklevel=3)


def check_reporter(reporter: object) -> None:
    """InputError for what no progress can be told to."""
    if reporter is not None and (
        isinstance(reporter, type) or not callable(getattr(reporter, "update", None))
    ):
        refuse("reporter", f"is {shown(reporter)}", "give an object with a method update(progress)")


def check_certificate_options(settings: Settings, certificate: str | Path | None, trim: bool = False) -> None:
    """InputError where a claim is asked for that only the checker can make, or none that it could."""
    if certificate is None and settings.semantics != "real":
        raise InputError(
            f"--semantics {settings.semantics} needs --certificate FILE: the checker has the last word on it"
        )
    if certificate is None and trim:
        raise InputError("--trim needs --certificate FILE: there is nothing else to trim")
    if certificate is not None and not settings.rigorous:
        raise InputError("--no-rigorous proves nothing that a certificate could hold; leave one of them out")


def certified(
    problem: Problem, path: Path, model: Model, specification: Spec, deadline: Deadline, started: float, settings: Settings,
    device: str | torch.device = "auto", seed: int = 0, reporter: Reporter | None = None, trim: bool = False,
) -> Result:  # fmt: skip
    """Decides a prepared problem and writes its certificate, which the checker has proved, or changes the verdict to `unknown`.

    The search has most of the time, the check the rest; trimming ends with it, and leaves the certificate as it is.
    """
    from verify.checker.errors import NotProved
    from verify.proof.recording import recording  # with the checker, which others do not need
    from verify.proof.trimming import trim as thin_out

    if problem.model.of_query:
        raise InputError("certificates are of VNN-LIB 1.0 properties alone yet; leave --certificate out")
    result: Result | None = None
    try:
        with (
            memory_kept("the certificate was made"),
            recording(path, model, specification, problem) as record,
        ):
            soon = deadline.share(_SEARCH_SHARE) if deadline.at < float("inf") else deadline
            result = decide(problem, soon, started, settings, device, seed, reporter, record.writer)
            failure, until = None, deadline.at
            if result.verdict == "unsat":
                failure = record.close_unsat(problem, settings.semantics, torch.get_num_threads(), until)
            elif result.witness is not None:
                failure = record.close_sat(problem, result.witness)
        seconds = time.monotonic() - started
        if failure is not None and result.verdict == "unsat":
            verdict = "timeout" if time.monotonic() > until else "unknown"
            return replace(result, verdict=verdict, reason=f"the certificate is {failure}", seconds=seconds)
        written = path if failure is None and result.verdict in ("sat", "unsat") else None
        if trim and written is not None and result.verdict == "unsat":
            # recording saw to it
            assert isinstance(model, str | Path) and isinstance(specification, str | Path)
            with suppress(NotProved):  # then it stays as it is, which is proved
                thin_out(written, Path(model), Path(specification), written, until)
            seconds = time.monotonic() - started
    except (InputError, UnwrittenError) as error:
        if result is None:
            raise
        unwritten = UnwrittenError(str(error))
        unwritten.result = result  # what the search has found is not lost
        raise unwritten from None
    return replace(result, seconds=seconds, certificate=written)


@neutral()
def decide(
    problem: Problem, deadline: Deadline, started: float, settings: Settings | None = None,
    device: str | torch.device = "auto", seed: int = 0, reporter: Reporter | None = None, writer: CertificateWriter | None = None,
) -> Result:  # fmt: skip
    """Decides a prepared problem; `started` is where its clock began."""
    settings = settings or preset("default")
    chosen = choose_device(device)
    try:
        with deadline.ticking(), memory_kept("the search was built"):
            deadline.check()
            search = build_search(problem, settings, chosen, seed, reporter or Silent(), writer)
    except OutOfTimeError:
        return late(started)
    outcome = search.run(deadline)
    statistics = {"clauses": problem.clauses, "snapped": problem.snapped, **outcome.progress.statistics()}
    reason = outcome.reason
    if outcome.verdict == "unsat" and not settings.rigorous:
        reason += ", by float32 bounds that nothing has proved (--no-rigorous)"
    seconds_taken = time.monotonic() - started
    return Result(
        outcome.verdict, problem.vacuous or reason, seconds_taken, outcome.witness, statistics, vacuous=bool(problem.vacuous)
    )  # fmt: skip


def bounds(
    model: Model, specification: Spec, *, method: str = "restricted", iterations: int | None = None,
    time_limit: float | None = None, intermediate: str = "crown", device: str | torch.device = "auto",
    example_input: torch.Tensor | None = None, observe: Callable[[Step], None] | None = None,
) -> ClauseBounds:  # fmt: skip
    """Bounds every clause at the root, by one of `METHODS`.

    iterations: the method's own number where None; interval, crown and lp have none. time_limit: seconds of bounding, intermediate
    bounds left out, after which an iterative method stops at the best it has. intermediate: one of `INTERMEDIATE`.
    observe: told after every iteration. All bounds returned hold over the reals (float64, rounding errors charged).
    Raises InputError for bad input, ResourceError where a linear program would be too large.
    """
    problem = prepare(model, specification, example_input)
    warn_of_vacuity(problem)
    return bound(problem, method, iterations, time_limit, intermediate, device, observe)


@neutral()
def bound(
    problem: Problem, method: str, iterations: int | None, time_limit: float | None, intermediate: str,
    device: str | torch.device, observe: Callable[[Step], None] | None = None,
) -> ClauseBounds:  # fmt: skip
    """Bounds every clause of a prepared problem; see `bounds`."""
    choice("method", method, METHODS)
    choice("intermediate", intermediate, INTERMEDIATE)
    iterations = None if iterations is None else integer("iterations", iterations, least=0)
    time_limit = seconds("time_limit", time_limit)
    if observe is not None and not callable(observe):
        refuse("observe", f"is {shown(observe)}", "give a function of one argument, a Step")
    with memory_kept("clauses were bounded"):
        network = problem.model.network.to(choose_device(device), torch.float64)
        ascent = _ascent(method, iterations, network)
        bounding = _Bounding(problem, network, method, ascent, time_limit, observe)
        for start in range(0, problem.clauses, _CLAUSES_AT_ONCE):
            stop = min(start + _CLAUSES_AT_ONCE, problem.clauses)
            bounding.add(range(start, stop), intermediate == "optimised")
        return bounding.found()


def _ascent(method: str, iterations: int | None, network: Network) -> Bounder | None:
    """The method's bounder; None where there is nothing to climb. Longer climbs take as long to cool down.

    Raises ResourceError where the network is too large, before anything is spent on it.
    """
    if method == "lp":
        from verify.bounders.linear_program import LinearProgram  # with HiGHS, which others do not need

        program = LinearProgram()
        program.admit(network)
        return program
    if method not in _OPTIMISERS:
        return None
    optimiser = _OPTIMISERS[method]
    if iterations is None:
        return optimiser
    if isinstance(optimiser, Restricted) and iterations > optimiser.iterations:
        return replace(
            optimiser, iterations=iterations, decay=optimiser.decay ** (optimiser.iterations / iterations)
        )
    return replace(optimiser, iterations=iterations)


class _Bounding:
    """The bounds of all clauses, chunk by chunk, and the time they take."""

    def __init__(
        self, problem: Problem, network: Network, method: str, ascent: Bounder | None, time_limit: float | None,
        observe: Callable[[Step], None] | None,
    ) -> None:  # fmt: skip
        self.problem, self.network, self.method, self.ascent = problem, network, method, ascent
        self.time_limit, self.observe = time_limit, observe
        self.bounds: list[float] = []
        self.layers: tuple[dict[str, Any], ...] = ()
        self.iterations = 0
        self.seconds = self.intermediate_seconds = 0.0

    def add(self, clauses: range, optimised: bool) -> None:
        """Bounds some more clauses."""
        begun = time.monotonic()
        lower, upper = (end.to(self.network.device) for end in self.problem.boxes(clauses))
        plain, outputs = interval(self.network, lower, upper)
        box = plain if self.method == "interval" else self._tightened(plain, optimised)
        middle = time.monotonic()
        objective = self.problem.objective(clauses).to(self.network.device, torch.float64)
        if self.method == "interval":
            bound = interval_bound(self.network, objective, (lower, upper), outputs)
            self._tell(clauses.start, middle, 0, bound)
        else:
            bound = self._bound(clauses, DualProblem(self.network, box, objective), middle)
        self.bounds += bound.tolist()
        self.layers = self.layers or tuple(_layer_report(self.problem, plain, box))
        self.intermediate_seconds += middle - begun
        self.seconds += time.monotonic() - middle

    def _tightened(self, box: Bounds, optimised: bool) -> Bounds:
        """Intermediate bounds; optimised ones are another pass over what CROWN leaves open, as in a search."""
        settings = preset("default")
        box = settings.intermediate.tighten(self.network, box, Deadline())
        if optimised:
            fast = self.network.to(self.network.device, torch.float32)
            box = settings.optimised.tighten(self.network, box, Deadline(), fast)
        return box

    def _bound(self, clauses: range, dual: DualProblem, begun: float) -> torch.Tensor:
        """Bounds by the dual function, [clauses]: what the ascent reaches is evaluated with its rounding errors."""
        state = dual.initial()
        if self.ascent is None:
            self._tell(clauses.start, begun, 0, dual.evaluate(state).bound)
        else:
            ascended = self.ascent.ascend(
                dual, state, soft_deadline=self._share(clauses),
                observe=lambda count, bound: self._tell(clauses.start, begun, count, bound),
            )  # fmt: skip
            state, self.iterations = dual.clamp(ascended.state), max(self.iterations, ascended.iterations)
        return dual.evaluate(state, magnitudes(self.network, dual.bounds)).bound[:, 0]

    def _share(self, clauses: range) -> Deadline:
        """The clauses' part of the time that is left."""
        if self.time_limit is None:
            return Deadline()
        return Deadline.after(
            (self.time_limit - self.seconds) * len(clauses) / (self.problem.clauses - clauses.start)
        )

    def _tell(self, first: int, begun: float, iteration: int, bound: torch.Tensor) -> None:
        if self.observe is not None:
            seconds = self.seconds + time.monotonic() - begun
            self.observe(Step(first, iteration, seconds, tuple(bound.flatten().tolist())))

    def found(self) -> ClauseBounds:
        """Everything together."""
        return ClauseBounds(
            self.method,
            self.iterations,
            tuple(self.bounds),
            self.seconds,
            self.intermediate_seconds,
            self.layers,
            bool(self.problem.vacuous),
        )


def _layer_report(problem: Problem, before: Bounds, after: Bounds) -> list[dict[str, Any]]:
    """The first clause's intermediate bounds, layer by layer, before (interval arithmetic) and after tightening."""
    rows = []
    for layer in problem.model.network.layers:
        lower, upper = after.lower[0, layer.variables], after.upper[0, layer.variables]
        rows.append(
            {
                "name": problem.model.network.nodes[layer.node].name,
                "operator": layer.activation.name,
                "neurons": layer.size,
                "unstable_interval": _unstable(layer, before),
                "unstable": _unstable(layer, after),
                "lower": lower.tolist(),
                "upper": upper.tolist(),
            }
        )
    return rows


def _unstable(layer: Layer, box: Bounds) -> int:
    """How many neurons of a layer are not linear on the first box, so that a split could help."""
    lower, upper = box.lower[0, layer.variables], box.upper[0, layer.variables]
    return int((~layer.activation.split_point(lower, upper).isnan()).sum())
