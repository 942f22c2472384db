"""Certificates that are changed in every way prove nothing that is false, and never break the checker.

The proofs are of properties that hold with little to spare. Each change is tried twice: on the problem it was made for, where
only an orderly answer is asked of the checker; and with a threshold at which the property is *violated* (hashes put right), where
nothing may be accepted. Changed networks are judged by a mixed-integer program.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kits import LOWER, MAKERS, UPPER, Kit, changed_numbers, few, optimum
from make_data import Files, numbers, placed
from nets import property_text
from onnx import numpy_helper

from verify.checker.kinds import KINDS
from verify.checker.question import digest

every_kit = pytest.mark.parametrize("name", MAKERS)


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
    places = [(i, 8 + 8 * j) for i, (kind, data) in enumerate(own) if kind not in ("box", "slopes", "lemma", "lemma_cuts", "cuts", "trees", "multipliers")
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
