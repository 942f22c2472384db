"""Proofs of properties that hold with little to spare, with blocks of every kind, each beside a property that is violated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_data import QUICK, Field, Files, Parts, by_hand, fields, network, numbers, placed, searched
from nets import property_text, random_layers, relu_model
from torch import Tensor

from properties.milp import minimise_margin
from verify.bab.activations import SplitActivations
from verify.bab.effort import Effort, Observation
from verify.bab.loop import BranchAndBound
from verify.bounders.output_constrained import OutputConstrained
from verify.bounders.restricted import Restricted
from verify.checker.question import digest
from verify.state import DualState

Array = np.ndarray[Any, Any]
LOWER, UPPER = [-1.0] * 3, [1.0] * 3
SIZES = (3, 6, 5, 2)
GIVE = 1e-3  # by how much the violated property is violated


@dataclass(frozen=True)
class Kit:
    """A proof, its parts, and the same proof beside a property that is violated."""

    name: str
    files: Files
    parts: Parts
    violated: Files
    fields: tuple[Field, ...]

    def attempt(self, parts: Parts, why: object = "") -> bool:
        """Whether the changed certificate is accepted where it was made; on the violated property it must not be."""
        other = parts.copy()
        if other.metadata.get("vnnlib_sha256") == self.parts.metadata["vnnlib_sha256"]:
            other.metadata["vnnlib_sha256"] = digest(self.violated.property.read_bytes())
        other.write(self.violated.certificate)
        assert not self.violated.accepted(), (self.name, why)
        parts.write(self.files.certificate)
        return self.files.accepted()


def outputs(layers: Sequence[tuple[Array, Array]], count: int = 20_000) -> Array:
    """At random inputs, many of them corners."""
    x = np.random.default_rng(0).uniform(-1, 1, (count, layers[0][0].shape[1])).astype(np.float32)
    x[: count // 4] = np.sign(x[: count // 4])
    for i, (weight, bias) in enumerate(layers):
        x = x @ weight.T + bias
        x = np.maximum(x, 0) if i < len(layers) - 1 else x
    return x


def optimum(model: Path, rows: Array, thresholds: Array) -> tuple[float, Array]:
    """The least value that the largest row has, by a mixed-integer program."""
    bound, gap, x = minimise_margin(model, LOWER, UPPER, rows, thresholds)[:3]
    return float(bound), np.asarray(x) if not np.isscalar(x) else np.array([gap])


def always(search: BranchAndBound) -> None:
    """Bounds over unsafe points whether they pay or not."""
    search.knowledge = replace(search.knowledge, effort=_Eager())


def without_cuts(search: BranchAndBound) -> None:
    """No cutting planes."""
    assert isinstance(search.strategy, SplitActivations)
    search.strategy = replace(search.strategy, cuts=replace(search.strategy.cuts, rounds=0))


def branched_at_once(search: BranchAndBound) -> None:
    """Bounds by trees whether they pay or not, and roots anew."""
    strategy = search.strategy
    assert isinstance(strategy, SplitActivations)
    assert strategy.branched is not None
    branched = replace(strategy.branched, rounds=3, sooner=0.0, later=0.0)
    search.strategy = replace(strategy, branched=branched)
    search.knowledge = search.strategy.begin()


def both(*hooks: Callable[[BranchAndBound], None]) -> Callable[[BranchAndBound], None]:
    """One change after the other."""

    def every(search: BranchAndBound) -> None:
        for hook in hooks:
            hook(search)

    return every


class _Eager(Effort):
    def learned(self, seen: Observation) -> Effort:
        return self

    def chosen(self, technique: str, bound: Tensor, techniques: int = 1) -> Tensor:
        return torch.arange(len(bound))


def in_float32(search: BranchAndBound) -> None:
    """Slopes in a byte refute nothing."""
    assert search.tracer.writes

    def nothing(state: DualState) -> DualState:
        return state.map(torch.Tensor.double) | {
            "constraint_weights": 0 * state["constraint_weights"].double()
        }

    search.tracer.rounded = nothing  # type: ignore[method-assign]


WEAK = replace(
    QUICK,
    root=Restricted(iterations=3),
    child=Restricted(iterations=2, step=0.1, decay=0.7),
    output_constrained=(),
)
CONSTRAINED = replace(WEAK, output_constrained=(OutputConstrained(),))


def texts(layers: Sequence[tuple[Array, Array]], rows: int, spare: float, model: Path) -> tuple[str, str]:
    """Properties of one or two rows: one that holds with something to spare, and one that is violated."""
    y = outputs(layers)
    coefficients = np.array([[1.0, 0.0], [0.0, 1.0]])[:rows]
    second = float(np.round(np.quantile(y[:, 1], 0.6), 3))
    base = np.array([0.0, second])[:rows]
    wide = np.array([1.0, 0.0])[:rows]  # only the first threshold moves
    chosen = y[:, 1] <= second if rows == 2 else np.ones(len(y), dtype=bool)
    least = float(y[chosen, 0].min())
    low, high = (
        least - np.ptp(y[:, 0]),
        least,
    )  # the exact threshold at which the clause can hold, by bisection
    for _ in range(16):
        middle = (low + high) / 2
        bound, _ = optimum(model, coefficients, base + middle * wide)
        low, high = (middle, high) if bound > 1e-5 else (low, middle)
    holds, fails = low - spare * np.ptp(y[:, 0]), high + GIVE
    return tuple(  # type: ignore[return-value]
        property_text(
            LOWER, UPPER, 2, f"(and (<= Y_0 {limit!r})" + (f" (<= Y_1 {second}))" if rows == 2 else ")")
        )
        for limit in (float(holds), float(fails))
    )


def kit(folder: Path, name: str, files: Files, violated_text: str) -> Kit:
    """From a certificate that is accepted."""
    found: list[Field] = []
    with fields(found):
        checked = files.check()
    assert checked.proved, (name, checked.sentence)
    second = folder / "violated"
    second.mkdir()
    violated = placed(second, files.model.read_bytes(), violated_text)
    return Kit(name, files, Parts.read(files.certificate), violated, tuple(found))


def relu_kit(folder: Path, name: str, seed: int, rows: int, spare: float, splits: str, settings: Any, hook: Any = None) -> Kit:  # fmt: skip
    folder = folder / name
    folder.mkdir()
    layers = random_layers(seed, SIZES)
    files = placed(folder, relu_model(layers), "")
    holds, fails = texts(layers, rows, spare, files.model)
    files.property.write_text(holds)
    found = searched(files, splits, settings, prepare_search=hook)
    assert found == ("unsat", None), (name, found)
    return kit(folder, name, files, fails)


def lemma_files(folder: Path) -> Files:
    """A proof with bounds over unsafe points."""
    return relu_kit(folder, "lemmas", 8, 1, 0.02, "activations", CONSTRAINED, both(always, without_cuts)).files  # fmt: skip


def ample(folder: Path, name: str) -> tuple[Sequence[tuple[Array, Array]], Files, str]:
    """A network with a property that holds by far, and the text of one that is violated."""
    folder = folder / name
    folder.mkdir()
    layers = random_layers(1, SIZES)
    least = float(outputs(layers)[:, 0].min())
    holds, fails = (
        property_text(LOWER, UPPER, 2, f"(<= Y_0 {limit!r})") for limit in (least - 40.0, least + GIVE)
    )
    return layers, placed(folder, relu_model(layers), holds), fails


def made_by_hand(folder: Path) -> Kit:
    """A split beyond the box: one half is empty, the other is all; two clauses of one root, and CROWN's own multipliers."""
    _, files, violated = ample(folder, "hand")
    leaf = numbers("<i8", 1, 2) + numbers("<f4", 1.0)
    by_hand(files, [("empty", numbers("<i8", 1, 1)), ("leaves_default", leaf)], splits=[(0, 0, 5.0)])
    return kit(files.model.parent, "hand", files, violated)


def merged(folder: Path) -> Kit:
    """Two roots of one clause, each half of which the other covers."""
    _, files, violated = ample(folder, "merged")
    leaves = [("leaves_default", numbers("<i8", 1, node) + numbers("<f4", 1.0)) for node in (2, 5)]
    covered = ("covered", numbers("<i8", 2, 3, 4, 5, 2))
    by_hand(files, [*leaves, covered], roots=[[0], [0]], splits=[(0, 0, 0.0), (1, 0, 0.0)])
    return kit(files.model.parent, "merged", files, violated)


def afresh(folder: Path) -> Kit:
    """Boxes of inputs as certificates had them before: each bounded from nothing."""
    _, files, violated = ample(folder, "afresh")
    clip = numbers("<i8", 1, 0) + numbers("<u1", 1) + numbers("<f8", *LOWER, *UPPER)
    leaves = numbers("<i8", 2, 1, 2) + numbers("<u1", 1, 3)
    by_hand(files, [("clip", clip), ("input_leaves", leaves)], splits=[(0, 0, 0.0)])
    return kit(files.model.parent, "afresh", files, violated)


def several(folder: Path) -> Kit:
    """Three clauses of one root, two of which are refuted above where the last is."""
    folder = folder / "several"
    folder.mkdir()
    layers = random_layers(2, SIZES)
    y = outputs(layers)
    files = placed(folder, relu_model(layers), "")
    low, spread = float(y[:, 0].min()), float(np.ptp(y[:, 0]))

    def text(limit: float) -> str:
        far = (f"(<= Y_0 {low - share * spread!r})" for share in (0.6, 0.9))
        return property_text(LOWER, UPPER, 2, f"(or (<= Y_0 {limit!r}) {' '.join(far)})")

    files.property.write_text(text(low - 0.05 * spread))
    assert searched(files, "inputs", QUICK, prepare_search=always) == ("unsat", None)
    return kit(folder, "several", files, text(low + GIVE))


def opposites(folder: Path) -> Kit:
    """Each neuron twice and once more with the opposite sign; of some, ReLUs that nothing is made of but `relu(s) - relu(-s)`."""
    folder = folder / "opposites"
    folder.mkdir()
    random = np.random.default_rng(3)

    def short(*shape: int) -> Array:
        return (random.integers(-8, 9, shape) / 8).astype(np.float32)

    sizes, layers = (3, 4, 3), []
    for i in range(2):
        weight, bias = short(sizes[i + 1], 3 * sizes[i] if i else 3), short(sizes[i + 1])
        if i:
            weight[:, 2] = 0
            weight[:, 2 + 2 * sizes[i]] = -weight[:, 2 + sizes[i]]
        layers.append(tuple(np.concatenate([part, part, -part]) for part in (weight, bias)))
    layers.append((short(2, 9), short(2)))
    files = placed(folder, relu_model(layers), "")
    holds, fails = texts(layers, 1, 0.02, files.model)
    files.property.write_text(holds)
    assert searched(files, "activations", CONSTRAINED, prepare_search=both(always, without_cuts)) == (
        "unsat",
        None,
    )
    found = kit(folder, "opposites", files, fails)
    assert len(found.parts.tensors["merged.variable"]) == 9 + 6
    return found


def curved(folder: Path) -> Kit:
    """Multipliers of all pre-activations, of a network with tanh; the optimum by samples."""
    from test_certificates import outputs_of

    folder = folder / "curved"
    folder.mkdir()
    files = placed(folder, network("tanh", 3, outputs=2), "")
    _, y = outputs_of(files, 3000, LOWER, UPPER)
    least, spread = float(y[:, 0].min()), float(np.ptp(y[:, 0]))
    for spare in (0.1, 0.3, 1.0):
        files.property.write_text(property_text(LOWER, UPPER, 2, f"(<= Y_0 {least - spare * spread!r})"))
        if searched(files, "activations") == ("unsat", None):
            break
    return kit(folder, "curved", files, property_text(LOWER, UPPER, 2, f"(<= Y_0 {least + GIVE!r})"))


def own_multipliers(folder: Path) -> Kit:
    """Bounds of the second layer's neurons by slopes 0 and 1 of the first one's, as tight as these make them; a leaf by multipliers 0."""
    layers, files, violated = ample(folder, "multipliers")
    (first, shift), (second, beyond) = ([part.astype(np.float64) for part in layer] for layer in layers[:2])
    widths = np.abs(first).sum(1)
    ends = shift - widths, shift + widths
    t = np.concatenate([second, -second])
    rho = (t * (ends[1] > -ends[0])).astype(np.float32).astype(np.float64)
    corners = [t * np.maximum(end, 0) - rho * end for end in ends]
    inside = np.where((ends[0] < 0) & (ends[1] > 0), 0.0, np.inf)
    least = np.minimum(np.minimum(*corners), inside).sum(1) + rho @ shift - np.abs(rho @ first).sum(1)
    sides = np.repeat([1, -1], len(second))
    values = sides * (least + sides * np.tile(beyond, 2) - 1e-9)
    head = numbers("<i8", 1, 0, 1, len(sides)) + numbers("<i4", *np.tile(9 + np.arange(len(second)), 2))
    claims = numbers("i1", *sides) + numbers("<f8", *values) + numbers("<f4", *rho.ravel())
    leaf = numbers("<i8", 1, 0) + numbers("<f8", 1.0, *np.zeros(sum(SIZES[1:-1])))
    by_hand(files, [("multipliers", head + claims), ("leaves_rho", leaf)])
    return kit(files.model.parent, "multipliers", files, violated)


MAKERS: dict[str, Callable[[Path], Kit]] = {
    "plain": lambda folder: relu_kit(folder, "plain", 1, 1, 0.02, "activations", WEAK, without_cuts),
    "lemmas": lambda folder: relu_kit(folder, "lemmas", 8, 1, 0.02, "activations", CONSTRAINED, both(always, without_cuts)),
    "single": lambda folder: relu_kit(folder, "single", 3, 2, 0.05, "activations", WEAK, both(in_float32, without_cuts)),
    "cuts": lambda folder: relu_kit(folder, "cuts", 3, 1, 0.02, "activations", CONSTRAINED, always),
    "trees": lambda folder: relu_kit(folder, "trees", 2, 1, 0.02, "activations", WEAK, branched_at_once),
    "cuts in single": lambda folder: relu_kit(folder, "cuts in single", 3, 1, 0.02, "activations", WEAK, in_float32),
    "inputs": lambda folder: relu_kit(folder, "inputs", 2, 1, 0.01, "inputs", QUICK, always),
    "joined": lambda folder: relu_kit(folder, "joined", 3, 2, 0.05, "inputs", QUICK, always),
    "several": several, "afresh": afresh, "curved": curved, "opposites": opposites, "hand": made_by_hand, "merged": merged,
    "multipliers": own_multipliers,
}  # fmt: skip


def few(count: int, most: int = 12) -> list[int]:
    """Numbers below `count`, not too many."""
    return sorted({round(i * (count - 1) / max(most - 1, 1)) for i in range(min(most, count))})


def changed_numbers(kind: str, value: Any) -> Iterator[Any]:
    """Other numbers of a type."""
    if kind in ("<f2", "<f4", "<f8"):
        most = float(np.finfo(kind).max)
        for other in (-value, value * 1.1, value - 0.1, np.nan, np.inf, -most):
            yield other
    else:
        info = np.iinfo(kind)
        for other in (-1, int(value) + 1, info.max, info.min):
            if info.min <= other <= info.max and other != value:
                yield other
