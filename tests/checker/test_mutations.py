"""Certificates that are changed in every way prove nothing that is false, and never break the checker.

The proofs are of properties that hold with little to spare. Each change is tried twice: on the problem it was made for, where
only an orderly answer is asked of the checker; and with a threshold at which the property is *violated* (hashes put right), where
nothing may be accepted. Changed networks are judged by a mixed-integer program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from make_data import QUICK, Field, Files, Parts, by_hand, fields, network, numbers, placed, searched
from nets import property_text, random_layers, relu_model
from onnx import numpy_helper
from torch import Tensor

from properties.milp import minimise_margin
from verify.bab.activations import SplitActivations
from verify.bab.effort import Effort, Observation
from verify.bab.loop import BranchAndBound
from verify.bounders.output_constrained import OutputConstrained
from verify.bounders.restricted import Restricted
from verify.checker.kinds import KINDS
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


def made_by_hand(folder: Path) -> Kit:
    """A split beyond the box: one half is empty, the other is all; two clauses of one root, and CROWN's own multipliers."""
    folder = folder / "hand"
    folder.mkdir()
    layers = random_layers(1, SIZES)
    y = outputs(layers)[:, 0]
    low, high = float(y.min()) - 40.0, float(y.min()) + GIVE
    files = placed(folder, relu_model(layers), property_text(LOWER, UPPER, 2, f"(<= Y_0 {low!r})"))
    leaf = numbers("<i8", 1, 2) + numbers("<f4", 1.0)
    by_hand(files, [("empty", numbers("<i8", 1, 1)), ("leaves_default", leaf)], splits=[(0, 0, 5.0)])
    return kit(folder, "hand", files, property_text(LOWER, UPPER, 2, f"(<= Y_0 {high!r})"))


def merged(folder: Path) -> Kit:
    """Two roots of one clause, each half of which the other covers."""
    folder = folder / "merged"
    folder.mkdir()
    layers = random_layers(1, SIZES)
    y = outputs(layers)[:, 0]
    low, high = float(y.min()) - 40.0, float(y.min()) + GIVE
    files = placed(folder, relu_model(layers), property_text(LOWER, UPPER, 2, f"(<= Y_0 {low!r})"))
    leaves = [("leaves_default", numbers("<i8", 1, node) + numbers("<f4", 1.0)) for node in (2, 5)]
    covered = ("covered", numbers("<i8", 2, 3, 4, 5, 2))
    by_hand(files, [*leaves, covered], roots=[[0], [0]], splits=[(0, 0, 0.0), (1, 0, 0.0)])
    return kit(folder, "merged", files, property_text(LOWER, UPPER, 2, f"(<= Y_0 {high!r})"))


def afresh(folder: Path) -> Kit:
    """Boxes of inputs as certificates had them before: each bounded from nothing."""
    folder = folder / "afresh"
    folder.mkdir()
    layers = random_layers(1, SIZES)
    y = outputs(layers)[:, 0]
    low, high = float(y.min()) - 40.0, float(y.min()) + GIVE
    files = placed(folder, relu_model(layers), property_text(LOWER, UPPER, 2, f"(<= Y_0 {low!r})"))
    clip = numbers("<i8", 1, 0) + numbers("<u1", 1) + numbers("<f8", *LOWER, *UPPER)
    leaves = numbers("<i8", 2, 1, 2) + numbers("<u1", 1, 3)
    by_hand(files, [("clip", clip), ("input_leaves", leaves)], splits=[(0, 0, 0.0)])
    return kit(folder, "afresh", files, property_text(LOWER, UPPER, 2, f"(<= Y_0 {high!r})"))


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


MAKERS: dict[str, Callable[[Path], Kit]] = {
    "plain": lambda folder: relu_kit(folder, "plain", 1, 1, 0.02, "activations", WEAK, without_cuts),
    "lemmas": lambda folder: relu_kit(folder, "lemmas", 8, 1, 0.02, "activations", CONSTRAINED, both(always, without_cuts)),
    "single": lambda folder: relu_kit(folder, "single", 3, 2, 0.05, "activations", WEAK, both(in_float32, without_cuts)),
    "cuts": lambda folder: relu_kit(folder, "cuts", 3, 1, 0.02, "activations", CONSTRAINED, always),
    "trees": lambda folder: relu_kit(folder, "trees", 2, 1, 0.02, "activations", WEAK, branched_at_once),
    "cuts in single": lambda folder: relu_kit(folder, "cuts in single", 3, 1, 0.02, "activations", WEAK, in_float32),
    "inputs": lambda folder: relu_kit(folder, "inputs", 2, 1, 0.01, "inputs", QUICK, always),
    "joined": lambda folder: relu_kit(folder, "joined", 3, 2, 0.05, "inputs", QUICK, always),
    "several": several, "afresh": afresh, "curved": curved, "hand": made_by_hand, "merged": merged,
}  # fmt: skip
every_kit = pytest.mark.parametrize("name", MAKERS)


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kit]:
    """All of them; made once."""
    folder = tmp_path_factory.mktemp("kits")
    return {name: make(folder) for name, make in MAKERS.items()}


def test_all_kinds_of_blocks_are_there(kits: dict[str, Kit]) -> None:
    """The tests below would be empty if the proofs were."""
    kinds = [kind for one in kits.values() for kind, _ in one.parts.blocks]
    assert set(kinds) == set(KINDS), set(KINDS) - set(kinds)
    assert sum(len(one.parts.tensors["split.node"]) for one in kits.values()) > 20


@every_kit
def test_unchanged_proofs_stand(name: str, kits: dict[str, Kit]) -> None:
    """And none of them stands for the violated property."""
    one = kits[name]
    assert one.attempt(one.parts)
    assert one.files.accepted(exact=True)
    assert not one.violated.accepted(exact=True)


@every_kit
def test_headers(name: str, kits: dict[str, Kit]) -> None:
    one = kits[name]
    for key, own in one.parts.metadata.items():
        for value in (None, "", own + " ", own.upper(), own[1:], "0", "1", "-1", "2", "99", "1000001", "1e3", "²", "sat", "unsat", "real", "NaN", "9" * 5000):  # fmt: skip
            parts = one.parts.copy()
            if value is None:
                del parts.metadata[key]
            else:
                parts.metadata[key] = value
            accepted = one.attempt(parts, (key, value))
            if value != own and (key != "rows" or value in (None, "", "0", "-1")):
                assert not accepted, (key, value)


@every_kit
def test_tensors(name: str, kits: dict[str, Kit]) -> None:
    """Left out, split, prolonged, of another type or rank."""
    one = kits[name]
    for key, own in one.parts.tensors.items():
        changes = [
            None,
            own[:-1],
            own[1:],
            np.concatenate([own, own[:1]]),
            np.concatenate([own, np.zeros(1, own.dtype)]),
        ]
        changes += [
            own[:0],
            own[None],
            own.astype("<f4"),
            own.astype("u1" if own.dtype != np.uint8 else "i1"),
        ]
        for number, changed in enumerate(changes):
            if changed is not None and changed.dtype == own.dtype and np.array_equal(changed, own):
                continue
            parts = one.parts.copy()
            if changed is None:
                del parts.tensors[key]
            else:
                parts.tensors[key] = np.ascontiguousarray(changed)
            assert not one.attempt(parts, (key, number)), (key, number)


def few(count: int, most: int = 12) -> list[int]:
    """Numbers below `count`, not too many."""
    return sorted({round(i * (count - 1) / max(most - 1, 1)) for i in range(min(most, count))})


@every_kit
def test_splits(name: str, kits: dict[str, Kit]) -> None:
    one = kits[name]
    for key in ("split.node", "split.variable", "split.value", "root.clause", "root.count"):
        own = one.parts.tensors[key]
        for place in few(len(own), 4):
            for value in (-1, 0, own[place] + 1, -own[place], 2.0**31 - 1):
                if value == own[place] or (own.dtype == "<i4" and abs(value) >= 2**31):
                    continue
                parts = one.parts.copy()
                parts.tensors[key][place] = value
                accepted = one.attempt(parts, (key, place, value))
                if key in ("split.node", "root.clause", "root.count"):
                    assert not accepted or key == "split.node", (key, place, value)
    if len(one.parts.tensors["split.value"]):
        for value in (np.nan, np.inf, -np.inf, 1e308):
            parts = one.parts.copy()
            parts.tensors["split.value"][0] = value
            accepted = one.attempt(parts, value)
            assert not accepted or np.isfinite(value)


@every_kit
def test_blocks(name: str, kits: dict[str, Kit]) -> None:
    """Dropped, doubled, swapped with the next, split, prolonged, of another kind."""
    one = kits[name]
    own = one.parts.blocks
    for place in few(len(own), 6):
        kind, data = own[place]
        closes = kind.startswith("leaves") or kind in ("empty", "input_leaves", "box_leaves", "covered")
        variants: dict[str, list[tuple[str, bytes]]] = {
            "dropped": [*own[:place], *own[place + 1 :]],
            "doubled": [*own[: place + 1], *own[place:]],
            "swapped": [*own[:place], *own[place + 1 : place + 2], own[place], *own[place + 2 :]],
            "first": [own[place], *own[:place], *own[place + 1 :]],
            "cut": [*own[:place], (kind, data[:-1]), *own[place + 1 :]],
            "halved": [*own[:place], (kind, data[: len(data) // 2]), *own[place + 1 :]],
            "prolonged": [*own[:place], (kind, data + b"\0"), *own[place + 1 :]],
            "emptied": [*own[:place], (kind, b""), *own[place + 1 :]],
        }
        variants |= {other: [*own[:place], (other, data), *own[place + 1 :]] for other in KINDS[len(kind) % 3 :: 3] if other != kind}  # fmt: skip
        for what, blocks in variants.items():
            parts = one.parts.copy()
            parts.blocks = blocks
            accepted = one.attempt(parts, (place, kind, what))
            must_fail = ("cut", "halved", "prolonged", "emptied", *(("dropped", "doubled") if closes else ()))
            assert not (accepted and what in must_fail), (place, kind, what)


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


@every_kit
def test_numbers(name: str, kits: dict[str, Kit]) -> None:
    """Some numbers of every field of every block of a kind."""
    one = kits[name]
    own = one.parts.blocks
    # these have what others have as well
    seen = (
        dict.fromkeys(("box", "slopes", "leaves8"), 1) if name in ("cuts", "cuts in single", "trees") else {}
    )
    for block, (kind, data) in enumerate(own):
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] > 1:
            continue
        for start, dtype, count in dict.fromkeys(
            (f.start, f.kind, f.count) for f in one.fields if f.block == block
        ):
            size = np.dtype(dtype).itemsize
            for place in few(count, 2):
                at = start + place * size
                value = np.frombuffer(data[at : at + size], dtype)[0]
                for other in changed_numbers(dtype, value):
                    if other == value:
                        continue
                    with np.errstate(over="ignore"):
                        new = np.array([other]).astype(dtype)
                    changed = list(own)
                    changed[block] = kind, data[:at] + new.tobytes() + data[at + size :]
                    parts = one.parts.copy()
                    parts.blocks = changed
                    accepted = one.attempt(parts, (block, kind, start, dtype, place, value, other))
                    if dtype.startswith("<f") and not np.isfinite(new[0]):
                        unused = kind in ("box", "clip", "boxes") and np.isinf(new[0])  # a claim of nothing
                        unused = unused or kind == "leaves32"  # a slope below where the chord above is taken
                        assert unused or not accepted, (kind, value, other)


@every_kit
def test_leaves_that_are_exchanged(name: str, kits: dict[str, Kit]) -> None:
    """Two nodes of a block, or of two blocks, change places; a claim goes to another subtree."""
    one = kits[name]
    own = one.parts.blocks
    places = [(i, 8 + 8 * j) for i, (kind, data) in enumerate(own) if kind not in ("box", "slopes", "lemma", "lemma_cuts", "cuts", "trees")
              for j in range(int(np.frombuffer(data[:8], "<i8")[0]))]  # fmt: skip
    random = np.random.default_rng(0)
    for _ in range(min(10, len(places) ** 2)):
        first, second = (places[i] for i in random.integers(len(places), size=2))
        blocks = [bytearray(data) for _, data in own]
        a, b = blocks[first[0]][first[1] : first[1] + 8], blocks[second[0]][second[1] : second[1] + 8]
        blocks[first[0]][first[1] : first[1] + 8], blocks[second[0]][second[1] : second[1] + 8] = b, a
        parts = one.parts.copy()
        parts.blocks = [(kind, bytes(data)) for (kind, _), data in zip(own, blocks, strict=True)]
        one.attempt(parts, (first, second))
    total = len(np.unique(one.parts.tensors["root.clause"])) + 2 * len(one.parts.tensors["split.node"])
    for place in [i for i, (kind, _) in enumerate(own) if kind in ("lemma", "clip", "boxes")][:2]:
        kind, data = own[place]
        at = 0 if kind == "lemma" else 8
        for node in few(total, 8):
            parts = one.parts.copy()
            parts.blocks = [
                *own[:place],
                (kind, data[:at] + numbers("<i8", node) + data[at + 8 :]),
                *own[place + 1 :],
            ]
            one.attempt(parts, (place, node))


# -- changed problems


def judged(files: Files, name: str, rows: int, text: str) -> None:
    """If the certificate is accepted, the property holds by the mixed-integer program."""
    if not files.accepted():
        return
    limits = [float(part.split(")")[0]) for part in text.split("<= Y_")[1:] for part in [part[2:]]]
    bound, _ = optimum(files.model, np.eye(2)[:rows], np.array(limits[:rows]))
    assert bound > -1e-5, (name, bound)


@pytest.mark.parametrize(
    ("name", "rows"), [("plain", 1), ("lemmas", 1), ("inputs", 1), ("single", 2), ("joined", 2)]
)
def test_other_networks(name: str, rows: int, kits: dict[str, Kit], tmp_path: Path) -> None:
    """One weight moved by a unit in the last place, by a tenth, and far: hash put right."""
    one = kits[name]
    model = onnx.load_from_string(one.files.model.read_bytes())
    text = one.files.property.read_text()
    random = np.random.default_rng(1)
    accepted = 0
    for tensor in range(len(model.graph.initializer)):
        for change in ("ulp", "tenth", "far"):
            changed = onnx.ModelProto()
            changed.CopyFrom(model)
            values = numpy_helper.to_array(changed.graph.initializer[tensor]).copy()
            place = tuple(random.integers(size) for size in values.shape)
            old = values[place]
            values[place] = {"ulp": np.nextafter(old, np.float32(9)), "tenth": old * np.float32(1.1), "far": old + np.float32(1)}[change]  # fmt: skip
            changed.graph.initializer[tensor].CopyFrom(numpy_helper.from_array(values, changed.graph.initializer[tensor].name))  # fmt: skip
            folder = tmp_path / f"{tensor}{change}"
            folder.mkdir()
            files = placed(folder, changed, text)
            one.parts.write(files.certificate)
            assert not files.accepted(), "the hash is another"
            parts = one.parts.copy()
            parts.metadata["onnx_sha256"] = digest(files.model.read_bytes())
            parts.write(files.certificate)
            accepted += files.accepted()
            judged(files, f"{name} {tensor} {change}", rows, text)
    assert accepted, "some changes do not matter"


@pytest.mark.parametrize("name", ["plain", "lemmas", "inputs"])
def test_other_thresholds(name: str, kits: dict[str, Kit], tmp_path: Path) -> None:
    """From where the proof is certain to where the property is violated: no acceptance beyond the optimum."""
    one = kits[name]
    own = float(one.files.property.read_text().rsplit("Y_0 ", 1)[1].split(")")[0])
    fails = float(one.violated.property.read_text().rsplit("Y_0 ", 1)[1].split(")")[0])
    decisions = []
    for share in (-1.0, -0.1, 0.0, 0.01, 0.1, 0.3, 0.6, 0.9, 0.99, 1.0, 1.5):
        text = property_text(LOWER, UPPER, 2, f"(and (<= Y_0 {own + share * (fails - own)!r}))")
        folder = tmp_path / str(share)
        folder.mkdir()
        files = placed(folder, one.files.model.read_bytes(), text)
        parts = one.parts.copy()
        parts.metadata["vnnlib_sha256"] = digest(files.property.read_bytes())
        parts.write(files.certificate)
        decisions.append(files.accepted())
        judged(files, f"{name} {share}", 1, text)
        assert not (decisions[-1] and share >= 1)
    assert decisions[2] and not decisions[-1]


def test_clauses_that_are_not_spoken_of(kits: dict[str, Kit], tmp_path: Path) -> None:
    """A property with one more clause, or with a wider box for one of them, needs more."""
    one = kits["plain"]
    own = one.files.property.read_text()
    limit = float(own.rsplit("Y_0 ", 1)[1].split(")")[0])
    wider = property_text([-1.5] * 3, [1.5] * 3, 2, f"(<= Y_0 {limit!r})")
    more = property_text(LOWER, UPPER, 2, f"(or (<= Y_0 {limit!r}) (<= Y_0 {limit + 100!r}))")
    for number, text in enumerate((wider, more)):
        folder = tmp_path / str(number)
        folder.mkdir()
        files = placed(folder, one.files.model.read_bytes(), text)
        for clause in ([0], [0, 1], [1, 0]):
            parts = one.parts.copy()
            parts.metadata["vnnlib_sha256"] = digest(files.property.read_bytes())
            parts.tensors["root.clause"] = np.array(clause, "<i8")
            parts.tensors["root.count"] = np.array([len(clause)], "<i8")
            parts.write(files.certificate)
            assert not files.accepted(), (number, clause)


def test_counts_that_overflow(kits: dict[str, Kit]) -> None:
    """Roots' counts whose sum is right in 64 bits alone, and ends of blocks whose differences are."""
    one = kits["plain"]
    for counts in ([2**63 - 1, 1, 1], [2**62] * 4 + [1], [1, 2**63 - 1, 2**62, 2**62 + 1]):
        parts = one.parts.copy()
        parts.tensors["root.count"] = np.array(counts, "<i8")
        assert not one.attempt(parts, counts)
    own = one.parts.tensors["block.end"]
    for first in (2**63 - 1, -(2**63)):
        parts = one.parts.copy()
        parts.tensors["block.end"] = np.concatenate([[first], own[1:]]).astype("<i8")
        assert not one.attempt(parts, first)


@settings(max_examples=120)
@given(st.data())
def test_random_bytes(kits: dict[str, Kit], data: st.DataObject) -> None:
    """Flipped, removed or put in anywhere in the file."""
    one = kits[data.draw(st.sampled_from(sorted(kits)))]
    parts = one.parts.copy()
    parts.metadata["vnnlib_sha256"] = digest(one.violated.property.read_bytes())
    for files, own in ((one.violated, parts), (one.files, one.parts)):
        own.write(files.certificate)
        content = bytearray(files.certificate.read_bytes())
        header = int.from_bytes(content[:8], "little") + 8
        for _ in range(data.draw(st.integers(1, 4))):
            start = data.draw(st.sampled_from([0, header]))
            place = data.draw(st.integers(start, len(content) - 1))
            change = data.draw(st.sampled_from(["flip", "flip", "flip", "set", "remove", "insert"]))
            if change == "flip":
                content[place] ^= 1 << data.draw(st.integers(0, 7))
            elif change == "set":
                content[place] = data.draw(st.integers(0, 255))
            elif change == "remove":
                del content[place]
            else:
                content.insert(place, data.draw(st.integers(0, 255)))
        files.certificate.write_bytes(bytes(content))
        accepted = files.accepted()
        assert not (accepted and files is one.violated)
