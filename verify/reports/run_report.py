"""The page of one run: the question in plain words, the answer and what it means, the evidence, and how the search went."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from datetime import datetime
from html import escape
from pathlib import Path

import numpy as np

from verify.output import write_whole
from verify.reports.page import Axes, Cell, as_image, document, picture, table
from verify.result import Account, Moment, Result
from verify.specification.base import many

_ROWS = 40  # of the region and of tensors, before the rest is left out
_OPEN = 12  # rows of a table that is not folded
_ANSWERS = {
    "unsat": ("holds", "The property holds: for every real-valued input of the region, as the model's weights define its function. "
              "This is a proof, not a test: no input was left out."),
    "sat": ("is violated", "The property does not hold. The input below is in the region, and the model as it runs maps it to an output that the "
            "property forbids."),
    "unknown": ("is undecided", "Neither a proof nor a counterexample was found, and more time would not help by itself."),
    "timeout": ("is undecided", "Neither a proof nor a counterexample was found in the time given. That says nothing about the property."),
}  # fmt: skip


def write_run(path: Path, result: Result) -> None:
    """The page in a file. Raises InputError and UnwrittenError."""
    write_whole(f"--report {path}", path, run_page(result).encode(errors="backslashreplace"))


def run_page(result: Result) -> str:
    """The whole page."""
    account = result.account
    word, meaning = _ANSWERS[result.verdict]
    when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    name = Path(account.model).name if account is not None else "the model"
    body = [
        f"<h1>{escape(name)}: the property {word}</h1>",
        f'<p class="faint">verify, {escape(when)}</p>',
        *_question(account),
        "<h2>Answer</h2>",
        f'<p><span class="verdict {result.verdict}">{result.verdict}</span></p><p>{escape(meaning)}</p>',
        f'<p class="faint">{escape(result.reason)} ({result.seconds:.2f} s)</p>',
        *(f'<div class="card warning">{escape(warning)}</div>' for warning in result.warnings),
        *_witness(result),
        *_evidence(result),
        *_course(result),
        *_files(account),
    ]
    return document(f"{name}: {result.verdict}", "\n".join(body))


def _question(account: Account | None) -> Iterator[str]:
    if account is None:
        return
    yield "<h2>Question</h2>"
    if account.sentence is not None:
        yield f'<div class="card">{escape(account.sentence)} Is that so?</div>'
    else:
        yield (
            f"<p>Is there an input x in the region for which the output y is unsafe, as {escape(account.specification)} says? If there "
            "is none, the property holds.</p>"
        )
    yield from _unsafe(account)
    yield from _region(account)
    if account.text:
        yield f"<details><summary>The property as VNN-LIB</summary><pre>{escape(account.text)}</pre></details>"


def _unsafe(account: Account) -> Iterator[str]:
    """When an output is unsafe."""
    if not account.written:
        return
    more = account.clauses - len(account.written)
    items = "".join(f"<li><code>{escape(clause)}</code></li>" for clause in account.written)
    rest = f"<li>and {more} more</li>" if more else ""
    any_of = "any of these holds" if account.clauses > 1 else "this holds"
    yield f"<p>An output is unsafe where {any_of}:</p><ul>{items}{rest}</ul>"


def _region(account: Account) -> Iterator[str]:
    """The first box, as pictures where the input is an image."""
    lower, upper = np.array(account.lower), np.array(account.upper)
    if not lower.size:
        return
    several = f"The region has {account.boxes} boxes; this is the first. " if account.boxes > 1 else ""
    free = int((upper > lower).sum())
    widest = float((upper - lower).max())
    yield f"<h3>Region</h3><p>{several}{free} of {lower.size} inputs vary, by at most {widest:.6g}.</p>"
    images = (
        [] if account.of_query else [as_image(end.reshape(account.input_shape)) for end in (lower, upper)]
    )
    if images and all(image is not None for image in images):
        low, high = float(lower.min()), float(upper.max())
        shown = "".join(
            f"<figure>{picture(image, low, high, words)}<figcaption>{words}</figcaption></figure>"
            for image, words in zip(images, ("lowest", "highest"), strict=True)
            if image is not None
        )
        yield f'<div class="trio" style="max-width:22rem">{shown}</div>'
    rows = [
        (f"x[{i}]", f"{low:.9g}", f"{high:.9g}")
        for i, (low, high) in enumerate(zip(lower, upper, strict=True))
    ]
    yield _long_table(["input", "from", "to"], rows, 2, "The box, input by input")


def _long_table(heading: Sequence[str], rows: Sequence[Sequence[str]], numbers: int, summary: str) -> str:
    """A table, folded where it is long."""
    shown = table(heading, rows[:_ROWS], numbers)
    if len(rows) > _ROWS:
        shown += f'<p class="faint">and {len(rows) - _ROWS} more</p>'
    return shown if len(rows) <= _OPEN else f"<details><summary>{escape(summary)}</summary>{shown}</details>"


def _witness(result: Result) -> Iterator[str]:
    """The counterexample: pictures where it has some, and numbers."""
    witness = result.witness
    if witness is None:
        return
    yield "<h2>Counterexample</h2>"
    for name, values in witness.variables.items():
        image = as_image(np.asarray(values, dtype=np.float64))
        if image is not None:
            shown = picture(image, float(image.min()), float(image.max()), f"{name}, as a picture")
            yield f'<figure style="max-width:14rem">{shown}<figcaption>{escape(name)}</figcaption></figure>'
        flat = np.ravel(values)
        rows = [(f"{name}[{i}]", str(value)) for i, value in enumerate(flat)]
        shape = " x ".join(map(str, np.shape(values)))
        yield f"<h3>{escape(name)}</h3><p class='faint'>{values.dtype.name}, {shape}</p>"
        yield _long_table(["entry", "value"], rows, 1, f"All {len(rows)} values of {name}")


def _evidence(result: Result) -> Iterator[str]:
    account = result.account
    if result.certificate is None or account is None:
        return
    yield "<h2>Evidence</h2><p>The certificate was proved by a checker that shares no code with the search. Whoever has these files can prove it again:</p>"
    yield f"<pre>{escape(shlex.join(['verify', 'check', *check_command(result)]))}</pre>"
    if result.export is not None:
        yield f"<p>The proof is of an {escape(str(result.export))}. That the file is what the module computes is compared, not proved.</p>"


def check_command(result: Result) -> list[str]:
    """The arguments with which a run's certificate is checked."""
    account = result.account
    assert account is not None
    semantics = account.settings.get("semantics", "real")
    extra = [] if semantics == "real" else ["--semantics", str(semantics)]
    for name, path in account.networks.items():
        extra += ["--network", f"{name}={path}"]
    return [str(result.certificate), account.model, account.specification, *extra]


def _course(result: Result) -> Iterator[str]:
    """How the search went: bounds and open subproblems over time, and where the time went."""
    account, counts = result.account, result.statistics
    if not counts:
        return
    yield "<h2>Search</h2>"
    yield (
        f"<p>{many(counts['clauses'], 'alternative')}, {many(counts['subproblems'], 'subproblem')} bounded, "
        f"{many(counts['depth'], 'split')} deep at most.</p>"
    )
    if account is not None:
        yield from _charts(account.moments)
    phases = [(name, f"{seconds:.3f}") for name, seconds in counts["seconds_by_phase"].items()]
    if phases:
        yield table(["phase", "seconds"], phases, 1)
    techniques = [
        (name, str(one["calls"]), str(one["subproblems"]), f"{one['seconds']:.3f}", str(one["refuted"]))
        for name, one in counts["techniques"].items()
    ]
    if techniques:
        heading = ["technique", "calls", "subproblems", "seconds", "refuted"]
        yield (
            _long_table(heading, techniques, 4, "Techniques")
            if len(techniques) > _OPEN
            else table(heading, techniques, 4)
        )


def _charts(moments: Sequence[Moment]) -> Iterator[str]:
    """Nothing where the search was over at once."""
    branching = [moment for moment in moments if moment.waiting]
    if len(branching) < 4:
        return
    span = branching[0].seconds, branching[-1].seconds
    worst = [(moment.seconds, moment.worst) for moment in branching if math.isfinite(moment.worst)]
    if len(worst) > 3:
        axes = Axes(span, (min(y for _, y in worst), max(0.0, *(y for _, y in worst))), ("seconds", "bound"))
        axes.line([(span[0], 0.0), (span[1], 0.0)], "var(--goodfill)", dots=False, dashed=True)
        axes.line(worst, "var(--accent)", dots=False)
        legend = [("worst bound that waits", "var(--accent)"), ("0: refuted", "var(--goodfill)")]
        yield axes.svg(legend, "the worst bound over time")
    waiting = [(moment.seconds, float(moment.waiting)) for moment in branching]
    axes = Axes(span, (0.0, max(y for _, y in waiting)), ("seconds", "subproblems"))
    axes.line(waiting, "var(--openfill)", dots=False)
    yield axes.svg([("open subproblems", "var(--openfill)")], "open subproblems over time")


def _files(account: Account | None) -> Iterator[str]:
    """Hashes, settings, versions and the machine."""
    if account is None:
        return
    yield "<h2>What was run</h2>"
    files = [
        ("model", account.model, account.model_sha256 or "not a file"),
        *(
            (f"model of {name}", path, account.networks_sha256.get(name) or "not a file")
            for name, path in account.networks.items()
        ),
        ("property", account.specification, account.specification_sha256 or "not a file"),
    ]
    yield table(["", "name", "SHA-256"], [(a, b, Cell.of(c, "hash")) for a, b, c in files])
    shape = f"{account.element_type} {list(account.input_shape)} to {list(account.output_shape)}"
    pairs = [
        ("model's tensors", shape),
        *((key, "none" if value is None else str(value)) for key, value in account.settings.items()),
    ]
    yield table(["setting", "value"], pairs)
    yield table(["", ""], [*account.versions.items(), *account.machine.items()])
