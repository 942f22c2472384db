"""`verify suite`: whole folders of instances. Everything that is needed is imported inside."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from verify.cli import options
from verify.errors import DECIDED, UNDECIDED, InputError, UnwrittenError
from verify.output import Outputs, admit_folder, reported, write_whole
from verify.process import answer

if TYPE_CHECKING:
    from verify.suite.instances import Instance
    from verify.suite.results import Judged, Results, Row
    from verify.suite.settings import Ended, Settings

_EXIT_CODES = options.codes(
    "verify suite properties/digits_fc --out results.csv --report results.html",
    code0="done, whatever the verdicts",
    code1="a verdict contradicts the expected one; interrupted",
    code3="resources (disk)",
)


_DONE = ("sat", "unsat", "unknown")  # a search that ended so is not gone on with


@click.command(epilog=_EXIT_CODES, short_help="Decide all instances of tables or folders.")
@click.argument("instances", nargs=-1, required=True, type=options.FILE)
@click.option("--timeout", type=options.SECONDS, help="Seconds for each instance, instead of the table's.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Instances at a time.  [default: 1; with --ray as many as the cluster has room for]",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Search for each instance in so many processes of its machine.",
)
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Decide instances on a Ray cluster: HOST:PORT, auto, or local for one of this machine that ends with the command.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The results; a file that has some is gone on with. [default: stdout]",
)
@click.option(
    "--report", type=click.Path(dir_okay=False, path_type=Path), help="An HTML page of the results."
)
@click.option(
    "--compare",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The results of an earlier run, beside which these are shown.",
)
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="The results as JUnit XML.")
@click.option(
    "--sarif",
    type=click.Path(dir_okay=False, path_type=Path),
    help="What is not as it should be, as SARIF 2.1.0.",
)
@click.option(
    "--witnesses", type=click.Path(file_okay=False, path_type=Path), help="A folder for counterexamples."
)
@click.option(
    "--certificates",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder for certificates, which have been checked before a verdict is said.",
)
@click.option(
    "--checkpoint",
    type=click.Path(file_okay=False, path_type=Path),
    help="A folder that keeps the searches at work: killed, the suite goes on with them, too.",
)
@options.MEMORY
@options.DEVICE
@options.PRESET
@click.option(
    "--grace",
    type=options.SECONDS,
    default=10.0,
    show_default=True,
    help="Seconds past the limit after which an instance is killed.",
)
@click.option(
    "--restart",
    type=click.IntRange(min=1),
    default=25,
    show_default=True,
    help="Instances that a worker process decides before a fresh one takes its place.",
)
def suite(
    instances: tuple[Path, ...],
    timeout: float | None,
    out: Path | None,
    witnesses: Path | None,
    certificates: Path | None,
    compare: Path | None,
    **settings: Any,
) -> int:
    """Decide all instances of INSTANCES: csv files of onnx,vnnlib,timeout lines, or folders with an instances.csv.

    A row for each goes to --out (or stdout), in VNN-COMP's columns: folder, network, property, seconds of preparation, result,
    seconds. Rows that the file has are not run again.
    """
    from verify.suite.instances import read_instances
    from verify.suite.results import Results, earlier
    from verify.suite.settings import Settings

    todo = read_instances(instances, timeout)
    before = [] if compare is None else earlier(compare)
    shown = {f"--{name}": settings.pop(name) for name in ("report", "junit", "sarif")}
    read = [*instances, *([] if compare is None else [compare])]
    outputs = _admitted(read, todo, {"--out": out, **shown})
    admit_folder("--witnesses", witnesses)
    proofs = _places_of_proofs(certificates, todo, outputs)
    admit_folder("--checkpoint", settings["checkpoint"])
    with closing(Results(out)) as results:
        if results.unlocked:
            _say(f"{out}: cannot be locked on its file system; let no other suite write to it meanwhile")
        every = Settings(**settings, certificates=proofs)
        return _Suite(todo, results, out is None, witnesses, shown, outputs, before).run(every)


def _places_of_proofs(
    folder: Path | None, todo: Sequence[Instance], outputs: Outputs
) -> dict[tuple[str, str, str], Path]:
    """A file for the certificate of each instance, in folders that there are. Raises InputError and UnwrittenError."""
    if folder is None:
        return {}
    admit_folder("--certificates", folder)
    found = named_paths(folder, todo, ".cert")
    for path in found.values():
        outputs.admit("--certificates", path)
    for parent in {path.parent for path in found.values()}:
        with reported(f"--certificates {parent}"):
            parent.mkdir(parents=True, exist_ok=True)
    return found


def _admitted(
    tables: Sequence[Path], todo: Iterable[Instance], written: Mapping[str, Path | None]
) -> Outputs:
    """What may be written: nothing that is read."""
    inputs = {path / "instances.csv" if path.is_dir() else path for path in tables}
    for one in todo:
        inputs.add(one.specification)
        inputs.update(one.model.values() if isinstance(one.model, dict) else [one.model])
    return options.admitted(inputs, written)


@dataclass
class _Suite:
    """Instances, and where what is found about them goes."""

    instances: Sequence[Instance]
    results: Results
    echo: bool
    witnesses: Path | None
    shown: Mapping[str, Path | None]
    outputs: Outputs = field(default_factory=lambda: Outputs([]))
    before: Sequence[Row] = ()  # of an earlier run

    def run(self, settings: Settings) -> int:
        """Decides what there are no results of, and sums up."""
        from verify.suite.results import judged
        from verify.suite.runner import run

        self._reasons: dict[Row, str] = {}
        self._places = {} if self.witnesses is None else named_paths(self.witnesses, self.instances)
        self._files = {"counterexample": self._places, "certificate": settings.certificates}
        known = judged(self.instances, self.results.rows)
        todo = [one.instance for one in known if one.row is None]
        self._done = len(known) - len(todo)
        if self._done:
            _say(f"{self._done} of {len(known)} instances have results already")
        try:
            with closing(run(todo, settings)) as found:
                for ended in found:
                    self._keep(ended)
                    if (kept := settings.kept(ended.instance)) and ended.answer.result in _DONE:
                        shutil.rmtree(kept, ignore_errors=True)
        finally:
            final = judged(self.instances, self.results.rows, self._reasons, self.before)
            self._sum_up(final)
        return UNDECIDED if any(one.contradiction for one in final) else DECIDED

    def _keep(self, ended: Ended) -> None:
        """A row, a counterexample, a line for who waits."""
        from verify.suite.results import Judged, Row

        row = Row(*ended.instance.key, ended.start_seconds, ended.answer.result, ended.seconds)
        self.results.append(row)
        self._reasons[row] = ended.answer.reason
        self._done += 1
        if self.echo:
            answer(row.line())
        one = Judged(ended.instance, row)
        plain = one.decided and not ended.answer.vacuous
        _say(
            f"[{self._done}/{len(self.instances)}] {row.benchmark} {row.onnx} {row.vnnlib}: {row.result} "
            f"{row.seconds:.2f} s" + ("" if plain else f" ({ended.answer.reason})")
        )
        for note in ended.answer.notes:
            _say(f"  {note}")
        if one.contradiction:
            _say(click.style(one.complaint(), fg="red", bold=True))
        if ended.answer.witness is not None:
            self._write_witness(ended.instance, ended.answer.witness)

    def _write_witness(self, instance: Instance, text: str) -> None:
        if self.witnesses is None:
            return
        path = self._places[instance.key]
        try:
            self.outputs.admit("--witnesses", path)
            write_whole(f"--witnesses {path}", path, text.encode())
        except (InputError, UnwrittenError) as error:
            raise UnwrittenError(f"{error}; the counterexample was:\n{text}") from None

    def _sum_up(self, final: Sequence[Judged]) -> None:
        from verify.reports.suite_report import print_summary, write_report
        from verify.suite.exchange import junit, sarif

        print_summary(final)
        if (report := self.shown.get("--report")) is not None:
            write_report(report, final, self._files)
        for option, made in (("--junit", junit), ("--sarif", sarif)):
            if (path := self.shown.get(option)) is not None:
                write_whole(f"{option} {path}", path, made(final))


def _say(text: str) -> None:
    click.echo(text, err=True)


def named_path(folder: Path, instance: Instance, ending: str = ".counterexample") -> Path:
    """Where a counterexample or the like goes: named as VNN-COMP does, after network and property and the property's own folder."""
    onnx, vnnlib = Path(instance.onnx), Path(instance.vnnlib)
    parents = vnnlib.parts[:-1]
    own = parents[len(parents) - parents[::-1].index("vnnlib") :] if "vnnlib" in parents else ()
    name = "_".join((*own, onnx.name.removesuffix(".onnx"), vnnlib.name.removesuffix(".vnnlib")))
    return folder / instance.benchmark / f"{name}{ending}"


def named_paths(
    folder: Path, instances: Iterable[Instance], ending: str = ".counterexample"
) -> dict[tuple[str, str, str], Path]:
    """Where each instance's goes, by its key: of several with one name, those after the first get a number."""
    found: dict[tuple[str, str, str], Path] = {}
    taken: Counter[Path] = Counter()
    for key, one in {one.key: one for one in instances}.items():
        path = named_path(folder, one, ending)
        taken[path] += 1
        number = f"_{taken[path]}" if taken[path] > 1 else ""
        found[key] = path.with_name(f"{path.stem}{number}{path.suffix}")
    return found
