"""Certificates end to end: what a search refutes its certificate proves, of every kind of network, property and bounder.

Also the other way round: what the certificates say of a violated property is refused, and `sat` needs a real witness.
"""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from make_data import FAMILIES, HERE, Files, Parts, hidden, network, placed, searched
from nets import property_text, relu_model, row_text

import verify
from verify.bab.activations import SplitActivations
from verify.bab.loop import BranchAndBound
from verify.bab.strategy import root_subproblems
from verify.bounders import intermediate
from verify.bounders.ascent import Bounder
from verify.bounders.decoupled import Dvijotham, SupergradientAscent
from verify.bounders.ibp import interval, magnitudes
from verify.bounders.linear_program import LinearProgram
from verify.bounders.proximal import Proximal
from verify.bounders.restricted import Restricted
from verify.checker import witness
from verify.checker.checking import DEPLOYED, Checked, Share, prove_share
from verify.checker.container import read
from verify.checker.dual import Dual
from verify.checker.errors import NotProved, Refused
from verify.checker.multipliers import Arithmetic
from verify.checker.onnx_reader import read_model
from verify.checker.query import read_query
from verify.checker.question import Question, digest
from verify.lagrangian.dual import DualProblem
from verify.problem import prepare
from verify.proof.certificate import CertificateTracer
from verify.proof.recording import recording

Array = np.ndarray[Any, Any]
PIECEWISE = ("relu", "convolution", "residual", "maximum")


def outputs_of(files: Files, count: int, lower: list[float], upper: list[float]) -> tuple[Array, Array]:
    """Random inputs, corners among them, and the outputs ONNX Runtime computes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(files.model, options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    share = np.random.default_rng(0).random((count, len(lower)))
    share[: count // 2] = share[: count // 2].round()
    x = (np.array(lower) + (np.array(upper) - np.array(lower)) * share).astype(np.float32)
    y = [session.run(None, {given.name: row.reshape(given.shape)})[0].ravel() for row in x]
    return x, np.stack(y).astype(float)


def conjunction(rows: Array, thresholds: Array) -> str:
    return f"(and {' '.join(row_text(row, limit) for row, limit in zip(rows, thresholds, strict=True))})"


def out_of_reach(rows: Array, y: Array, spare: float) -> Array:
    """Thresholds such that the rows never hold together at the samples, by a share of the spread."""
    values = y @ rows.T
    middle = np.quantile(values, 0.3, axis=0)
    worst = (values - middle).max(1)
    return np.asarray(np.round(middle + worst.min() - spare * (worst.max() - worst.min()), 6))


def boxes_of(count: int, inputs: int) -> list[tuple[list[float], list[float]]]:
    """Boxes side by side."""
    return [([-1.0 + i] + [-0.5] * (inputs - 1), [0.0 + i] + [0.5] * (inputs - 1)) for i in range(count)]


def property_of(files: Files, form: str, seed: int, inputs: int, outputs: int) -> None:
    """Writes a property of the form that holds at all samples with something to spare."""
    random = np.random.default_rng(seed)
    lower, upper = [-0.5] * inputs, [0.5] * inputs
    rows = np.round(random.standard_normal((3, outputs)), 2)
    _, y = outputs_of(files, 400, lower, upper)
    if form == "row":
        unsafe = conjunction(rows[:1], out_of_reach(rows[:1], y, 0.08))
    elif form == "conjunction":
        unsafe = conjunction(rows[:2], out_of_reach(rows[:2], y, 0.25))
    elif form == "disjunction":
        parts = [conjunction(rows[i : i + 1], out_of_reach(rows[i : i + 1], y, 0.1)) for i in range(3)]
        parts.append(conjunction(rows[:2], out_of_reach(rows[:2], y, 0.3)))
        unsafe = f"(or {' '.join(parts)})"
    elif form == "inputs":  # y0 - x0 below its least value
        x, y = outputs_of(files, 400, lower, upper)
        least = (y[:, 0] - x[:, 0]).min() - 0.1 * np.ptp(y[:, 0] - x[:, 0])
        unsafe = f"(and (<= (- Y_0 X_0) {round(float(least), 6)}) (<= X_1 (+ X_0 0.5)))"
    else:
        parts = []
        for low, high in boxes_of(2, inputs):
            _, y = outputs_of(files, 400, low, high)
            limit = out_of_reach(rows[:1], y, 0.1)
            box = " ".join(f"(>= X_{i} {a}) (<= X_{i} {b})" for i, (a, b) in enumerate(zip(low, high, strict=True)))  # fmt: skip
            parts.append(f"(and {box} {row_text(rows[0], limit[0])})")
        declared = property_text(lower, upper, outputs, "true").split("(assert")[0]
        files.property.write_text(f"{declared}(assert (or {' '.join(parts)}))\n")
        return
    files.property.write_text(property_text(lower, upper, outputs, unsafe))


FORMS = ("row", "conjunction", "disjunction", "inputs", "boxes")
# Some forms of some families take millions; what the others need does not hang on how fast the machine is.
MOST_SUBPROBLEMS = 10_000


@pytest.mark.parametrize("splits", ["inputs", "activations"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_refuted_is_proved(family: str, splits: str, tmp_path: Path) -> None:
    """Every form of property; most are refuted. In rationals, too, where there are such."""
    proved = 0
    for number, form in enumerate(FORMS):
        folder = tmp_path / form
        folder.mkdir()
        files = placed(folder, network(family, number), "")
        property_of(files, form, number, 3, 3)
        verdict, failure = searched(files, splits, most=MOST_SUBPROBLEMS)
        assert failure is None, (form, failure)
        if verdict == "timeout":
            assert not files.certificate.exists()
            continue
        assert verdict in ("unsat", "sat")
        found = files.check()
        assert (found.proved, found.verdict) == (True, verdict), found.sentence
        proved += verdict == "unsat"
        if verdict == "unsat" and form in ("row", "boxes"):
            exact = files.check(exact=True)
            assert exact.proved, exact.sentence
            if family in PIECEWISE and splits == "activations":
                assert exact.summary is not None and exact.summary.in_rationals
    # of sines split by their operands some take more subproblems, with a certificate and without
    assert proved >= (2 if (family, splits) == ("waves", "activations") else 3)


@pytest.mark.parametrize("splits", ["inputs", "activations"])
def test_deep_trees_in_several_processes(splits: str, tmp_path: Path) -> None:
    """A bound that needs many splits; all workers together say what one says."""

    def plain(search: BranchAndBound) -> None:
        """Without what spares splits."""
        if isinstance(search.strategy, SplitActivations):
            cuts = replace(search.strategy.cuts, rounds=0)
            search.strategy = replace(search.strategy, cuts=cuts, branched=None)

    files = placed(tmp_path, hidden(5), "")
    lower, upper = [-1.0] * 4, [1.0] * 4
    _, y = outputs_of(files, 4000, lower, upper)
    threshold = float(y.min() - 0.12 * np.ptp(y))
    files.property.write_text(property_text(lower, upper, 1, f"(<= Y_0 {threshold})"))
    assert searched(files, splits, prepare_search=plain) == ("unsat", None)
    parts = Parts.read(files.certificate)
    assert len(parts.tensors["split.node"]) > 3
    found = [files.check(jobs=jobs) for jobs in (1, 2)]
    assert found[0] == found[1]
    assert found[0].proved and found[0].summary is not None
    assert found[0].summary.leaves == len(parts.tensors["split.node"]) + 1
    parts.blocks = parts.blocks[:-1]
    parts.write(files.certificate)
    assert not files.check(jobs=2).proved


def test_every_share_proves_its_own(tmp_path: Path) -> None:
    """A block that does not hold is found whichever process it falls to."""
    for folder in (HERE / "incorrect").iterdir():
        if (folder / "property.vnnlib").exists() and folder.name == "weight_changed":
            files = Files.of(folder)
            assert [files.check(jobs=jobs).proved for jobs in (1, 2, 3)] == [False] * 3
            return
    raise AssertionError("data/ has no such certificate")


def refuses(files: Files, shares: int) -> bool:
    """Whether at least one of so many processes finds a claim that does not hold (before it misses the rest of the proof)."""
    container, question = read(files.certificate), Question.read(files.model, files.property)
    found = []
    for number in range(shares):
        try:
            prove_share(container, question, Arithmetic(), Share(number, shares))
        except NotProved:
            found.append(number)
        except Refused:
            pass
    return bool(found)


@pytest.mark.parametrize("kind", ["box", "slopes"])
def test_shares_divide_the_claims_of_roots(kind: str, tmp_path: Path) -> None:
    """Each claim is proved by one of the processes: whichever does not hold is found, however many there are."""
    files = Files.of(HERE / "correct" / "activations")
    parts = Parts.read(files.certificate)
    place = next(i for i, block in enumerate(parts.blocks) if block[0] == kind)
    data = parts.blocks[place][1]
    roots = int.from_bytes(data[:8], "little")
    if kind == "box":
        start = 8 + 8 * roots
        count = (len(data) - start) // 16
        ends = np.frombuffer(data[start:], "<f8").reshape(2, count)
        better = [(start + 8 * i, ends[1, i] - 1e-6) for i in range(count) if ends[1, i] - ends[0, i] > 1e-3]
    else:
        start = 16 + 8 * roots
        count = int.from_bytes(data[start : start + 8], "little")
        sides = np.frombuffer(data[start + 8 + 4 * count :], "i1", count)
        start += 8 + 5 * count
        values = np.frombuffer(data[start : start + 8 * count], "<f8")
        better = [(start + 8 * i, values[i] + 100.0 * sides[i]) for i in range(count)]
    own = Files(tmp_path / "c.cert", files.model, files.property)
    assert len(better) > 2
    for at, value in better:
        blocks = parts.blocks[: place + 1]
        blocks[place] = kind, data[:at] + np.float64(value).tobytes() + data[at + 8 :]
        wrong = parts.copy()
        wrong.blocks = blocks
        wrong.write(own.certificate)
        assert [refuses(own, shares) for shares in (1, 2, 3)] == [True] * 3
    container, question = read(files.certificate), Question.read(files.model, files.property)
    claims = [
        sum(
            prove_share(container, question, Arithmetic(), Share(number, shares)).claims
            for number in range(shares)
        )
        for shares in (1, 2, 3)
    ]
    assert claims[0] == claims[1] == claims[2] > 0


def lemma_neurons(block: bytes) -> set[int]:
    """The neurons that it claims bounds of."""
    return set(np.frombuffer(block[24:], "<i4", int.from_bytes(block[16:24], "little")).tolist())


@pytest.mark.parametrize("elements", [1, 1_000_000])
def test_lemmas_are_used(elements: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds over unsafe points alone, at several nodes, of a subproblem's neurons one by one or together; proved in rationals too."""
    from kits import lemma_files

    monkeypatch.setattr("verify.bounders.output_constrained.ELEMENTS", {"cpu": elements})
    files = lemma_files(tmp_path)
    lemmas = [data for kind, data in Parts.read(files.certificate).blocks if kind == "lemma"]
    assert lemmas
    # the claims of a node and a layer are made at once, since slopes are those of what was known before: what comes again is no further part
    for one, other in pairwise(lemmas):
        assert one[:16] != other[:16] or lemma_neurons(one) & lemma_neurons(other)
    assert files.check().proved
    assert files.check(exact=True).proved


@pytest.mark.parametrize("together", [1, 3, 96])
def test_every_claim_of_every_lemma_is_proved(
    together: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are proved at a time, and by however many processes: a claim that does not hold is found, and named."""
    from kits import lemma_files

    monkeypatch.setattr("verify.checker.lemmas._TOGETHER", together)
    files = lemma_files(tmp_path)
    parts = Parts.read(files.certificate)
    assert files.check().proved
    own = Files(tmp_path / "wrong.cert", files.model, files.property)
    places = [i for i, (kind, _) in enumerate(parts.blocks) if kind == "lemma"]
    tried = 0
    for place in places:
        data = parts.blocks[place][1]
        node, count = (int.from_bytes(data[at : at + 8], "little") for at in (0, 16))
        sides = np.frombuffer(data[24 + 4 * count :], "i1", count)
        start = 24 + 5 * count
        for i in range(count):
            at = start + 4 * i
            value = np.frombuffer(data[at : at + 4], "<f4") + np.float32(100.0 * sides[i])
            wrong = parts.copy()
            wrong.blocks = [*wrong.blocks[:place], ("lemma", data[:at] + value.tobytes() + data[at + 4 :])]
            wrong.write(own.certificate)
            assert f"lemma of node {node}: " in own.check().sentence
            assert [refuses(own, shares) for shares in (1, 2, 3)] == [True] * 3
            tried += 1
    assert tried > 5


# -- any bounder's dual points


BOUNDERS: dict[str, Bounder | None] = {
    "crown": None, "dsg": Dvijotham(iterations=30), "supergradient": SupergradientAscent(iterations=30),
    "proximal": Proximal(iterations=20), "restricted": Restricted(iterations=20), "lp": LinearProgram(),
}  # fmt: skip


@pytest.mark.parametrize("family", ["relu", "residual", "convolution", "tanh", "clip", "product"])
@pytest.mark.parametrize("name", BOUNDERS)
def test_dual_points_convert(name: str, family: str, tmp_path: Path) -> None:
    """A leaf by the multipliers that a point stands for: the checker's bound is no worse than the bounder's."""
    if name == "lp" and family in ("tanh", "product"):
        pytest.skip("no linear program")
    files = placed(tmp_path, network(family, 7), "")
    lower, upper = [-0.3] * 3, [0.4] * 3
    _, y = outputs_of(files, 400, lower, upper)
    rows = np.round(np.random.default_rng(3).standard_normal((2, 3)), 2)
    limits = out_of_reach(rows, y, 0.9)
    files.property.write_text(property_text(lower, upper, 3, conjunction(rows, limits)))
    problem = prepare(files.model, files.property)
    net = problem.model.network
    bounds, _ = interval(net, *problem.boxes([0]))
    dual = DualProblem(net, bounds, problem.objective([0]))
    state = dual.initial()
    optimiser = BOUNDERS[name]
    if optimiser is not None:
        state = dual.clamp(optimiser.ascend(dual, state).state)
    wanted = float(dual.evaluate(state, magnitudes(net, bounds)).bound)
    with recording(files.certificate, files.model, files.property, problem) as record:
        tracer = CertificateTracer(net, problem.rows, record.writer)
        subproblems = root_subproblems(problem.rows, [0], net.alphas, net.device)
        subproblems = tracer.roots(
            replace(subproblems, state=state.map(torch.Tensor.float)),
            subproblems.clause[:, None],
        )
        tracer.leaves_by_multipliers(subproblems, dual, state)
        failure = record.close_unsat(problem)
    if wanted <= 0:
        assert failure is not None and "no bound above 0" in failure
        return
    assert failure is None
    found = files.check()
    assert found.summary is not None
    assert found.summary.margin >= wanted - 1e-6 * abs(wanted)  # it may know better intervals
    assert [kind for kind, _ in Parts.read(files.certificate).blocks] == ["leaves_rho"]


@pytest.mark.parametrize("family", ["relu", "residual", "convolution", "sigmoid"])
def test_proved_points_are_written(family: str, tmp_path: Path) -> None:
    """`CertificateTracer.refuted`: by slopes in bytes where there are such; only what it wrote counts as refuted."""
    for spare, expected in ((0.9, True), (-0.5, False)):
        folder = tmp_path / str(expected)
        folder.mkdir()
        files = placed(folder, network(family, 11), "")
        lower, upper = [-0.2] * 3, [0.3] * 3
        _, y = outputs_of(files, 400, lower, upper)
        rows = np.round(np.random.default_rng(3).standard_normal((1, 3)), 2)
        limits = out_of_reach(rows, y, spare)
        files.property.write_text(property_text(lower, upper, 3, conjunction(rows, limits)))
        problem = prepare(files.model, files.property)
        net = problem.model.network
        with recording(files.certificate, files.model, files.property, problem) as record:
            tracer = CertificateTracer(net, problem.rows, record.writer)
            subproblems = root_subproblems(problem.rows, [0], net.alphas, net.device)
            subproblems = tracer.roots(subproblems, subproblems.clause[:, None])
            box = tracer.boxes(subproblems.clause, torch.zeros(1, dtype=torch.int64), 1)
            bounds = box.settled(interval(net, *problem.boxes([0]))[0])
            box.known(bounds)
            dual = DualProblem(net, bounds, problem.objective([0]))
            sizes = magnitudes(net, bounds)
            refuted = tracer.refuted(subproblems, dual, dual.initial(), sizes)
            assert bool(refuted.all()) == expected
            failure = record.close_unsat(problem)
        assert (failure is None) == expected
        if expected:
            kinds = [kind for kind, _ in Parts.read(files.certificate).blocks]
            assert kinds == ["box", "leaves_rho" if family == "sigmoid" else "leaves8"]


@pytest.mark.parametrize("family", ["sigmoid", "leaky"])
def test_intermediate_bounds_of_other_activations_are_optimised(family: str, tmp_path: Path) -> None:
    """As they are without a certificate: each is a claim with multipliers of its own."""
    lower, upper = [-1.0] * 3, [1.0] * 3
    files = placed(tmp_path, network(family, 3, outputs=2), "")
    _, y = outputs_of(files, 3000, lower, upper)
    limit = float(y[:, 0].min() - 0.01 * np.ptp(y[:, 0]))
    files.property.write_text(property_text(lower, upper, 2, f"(<= Y_0 {limit!r})"))
    assert searched(files, "activations") == ("unsat", None)
    assert "multipliers" in {kind for kind, _ in Parts.read(files.certificate).blocks}
    assert files.check(exact=True).proved


# -- properties that are violated


@pytest.mark.parametrize("splits", ["inputs", "activations"])
@pytest.mark.parametrize("seed", range(3))
def test_proofs_of_violated_properties_do_not_hold(splits: str, seed: int, tmp_path: Path) -> None:
    """The certificate of a property with a lower threshold, hash put right, proves nothing of one that is violated."""
    files = placed(tmp_path, hidden(seed, 3), "")
    lower, upper = [-1.0] * 3, [1.0] * 3
    _, y = outputs_of(files, 2000, lower, upper)
    least = float(y.min())
    files.property.write_text(property_text(lower, upper, 1, f"(<= Y_0 {least - 0.1 * np.ptp(y)})"))
    assert searched(files, splits) == ("unsat", None)
    for beyond in (1e-6, 1e-3, 0.1):
        files.property.write_text(property_text(lower, upper, 1, f"(<= Y_0 {least + beyond})"))
        parts = Parts.read(files.certificate)
        parts.metadata["vnnlib_sha256"] = digest(files.property.read_bytes())
        parts.write(files.certificate)
        for exact in (False, True):
            assert not files.accepted(exact=exact)


# -- witnesses


@pytest.fixture
def witnessed(tmp_path: Path) -> Files:
    """A certificate of sat."""
    files = placed(tmp_path, hidden(1, 2), "")
    _, y = outputs_of(files, 2000, [-1.0] * 2, [1.0] * 2)
    limit = float(np.quantile(y, 0.02))
    files.property.write_text(property_text([-1.0] * 2, [1.0] * 2, 1, f"(<= Y_0 {limit})"))
    assert searched(files) == ("sat", None)
    return files


def with_metadata(files: Files, **changes: str) -> Checked | None:
    """What the checker says of a changed header; None where it refuses to read."""
    original = files.certificate.read_bytes()
    parts = Parts.read(files.certificate)
    parts.metadata.update(changes)
    parts.write(files.certificate)
    try:
        return files.check()
    except Refused:
        return None
    finally:
        files.certificate.write_bytes(original)


def hexadecimal(values: Any) -> str:
    return json.dumps([float(value).hex() for value in np.ravel(values)])


def test_witnesses_are_confirmed(witnessed: Files) -> None:
    for options in ({}, {"semantics": DEPLOYED}, {"exact": True}):
        found = witnessed.check(**options)
        assert (found.proved, found.verdict) == (True, "sat")
        assert "over the reals: confirmed" in found.sentence
        assert "ONNX Runtime: confirmed" in found.sentence
        assert "other outputs" not in found.sentence


def test_witnesses_that_are_moved(witnessed: Files) -> None:
    """To where the property holds, out of the box, to no number."""
    x, y = outputs_of(witnessed, 2000, [-1.0] * 2, [1.0] * 2)
    safe = x[int(y.argmax())]
    own = [float.fromhex(text) for text in json.loads(Parts.read(witnessed.certificate).metadata["inputs"])]
    wrong = {
        "safe": hexadecimal(safe), "outside": hexadecimal([own[0], 1.0000001]), "far": hexadecimal([1e30, 0.0]),
        "NaN": json.dumps(["nan", "0x0p0"]), "infinity": json.dumps(["inf", "0x0p0"]), "one": hexadecimal(own[:1]),
        "three": hexadecimal([*own, 0.0]), "none": "[]", "text": json.dumps(["a", "b"]), "number": "3",
        "numbers": json.dumps([0.5, 0.5]), "null": "null", "damaged": "[", "deep": "[" * 100_000, "empty": "",
        "overflow": json.dumps(["0x1p5000", "0x0p0"]),
    }  # fmt: skip
    for name, text in wrong.items():
        found = with_metadata(witnessed, inputs=text)
        assert found is None or not found.proved, name


def test_what_float64_leaves_open_is_evaluated_exactly(witnessed: Files) -> None:
    """A threshold that is the exact output itself: intervals cannot tell, rationals can; one a hair below is not met."""
    network = read_model(witnessed.model.read_bytes())
    point = [Fraction("0.3"), Fraction("-0.7")]
    dual = Dual(network, Arithmetic(exact=True))
    x = dual.arithmetic.array(np.array(point, dtype=object)[None])
    ((y,),) = dual.node_intervals(x, x)[1][-1][0].tolist()
    for threshold, violated in ((y, True), (y - Fraction(1, 10**40), False)):
        value = Fraction(int(threshold.numerator), int(threshold.denominator))
        scaled = f"(<= (* {value.denominator} Y_0) {value.numerator})"
        query = read_query(property_text([-1.0] * 2, [1.0] * 2, 1, scaled))
        assert not witness._violates_in(Arithmetic(), network, query, point)
        assert witness._violates(network, query, point, False) is violated
        assert witness._violates(network, query, point, True) is violated
    query = read_query(property_text([-1.0] * 2, [1.0] * 2, 1, f"(<= Y_0 {float(value) + 1e-6})"))
    assert witness._violates_in(Arithmetic(), network, query, point)


def test_recorded_outputs(witnessed: Files) -> None:
    """Doubtful: outputs that ONNX Runtime does not compute are told of, but what is proved does not rest on them."""
    found = with_metadata(witnessed, outputs=hexadecimal([1e6]))
    assert found is not None
    assert not found.proved or "other outputs than recorded" in found.sentence
    for text in (hexadecimal([1.0, 2.0]), "[]", json.dumps(["nan"]), "x"):
        found = with_metadata(witnessed, outputs=text)
        assert found is None or not found.proved, text


@pytest.mark.parametrize("kind", ["float64", "float16", "", "x"])
def test_element_types(kind: str, witnessed: Files) -> None:
    """Bug found: a type that is not the model's ends in ONNX Runtime's own exception."""
    found = with_metadata(witnessed, element_type=kind)
    assert found is None or not found.proved


def test_witnesses_of_other_files(witnessed: Files, tmp_path: Path) -> None:
    for key in ("onnx_sha256", "vnnlib_sha256", "format", "verdict"):
        for value in ("", "0" * 64, Parts.read(witnessed.certificate).metadata[key].upper() + "x"):
            found = with_metadata(witnessed, **{key: value})
            assert found is None or not found.proved, (key, value)
    witnessed.property.write_text(witnessed.property.read_text() + "; more\n")
    assert not witnessed.accepted()


def test_witnesses_are_numbers_of_the_models_type(tmp_path: Path) -> None:
    """Bug found: ONNX Runtime is given a rounded input, but the property is judged at the input before rounding.

    The network is the identity. Of float32 inputs none violates: those above 0.5 + 2^-40 are above 0.5.
    """
    one, none = np.ones((1, 1), np.float32), np.zeros(1, np.float32)
    low = format(Decimal(0.5 + 2.0**-40), "f")  # all its digits
    text = property_text([0.0], [1.0], 1, "(<= Y_0 0.5)").replace(">= X_0 0.0", f">= X_0 {low}")
    files = placed(tmp_path, relu_model([(one, none), (one, none)]), text)
    _write_witness(files, [0.5 + 2.0**-40], [0.5])
    assert not files.accepted()
    assert not files.accepted(semantics=DEPLOYED)


def test_points_that_no_float_holds(tmp_path: Path) -> None:
    """For 0.1 stands the float32 number next to it, and no other number, nor 0.1 itself."""
    one, none = np.ones((1, 1), np.float32), np.zeros(1, np.float32)
    files = placed(tmp_path, relu_model([(one, none), (one, none)]), property_text([0.1], [0.1], 1, "(>= Y_0 0.05)"))  # fmt: skip
    near = float(np.float32(0.1))
    _write_witness(files, [near], [near])
    found = files.check()
    assert found.proved and "1 inputs are the nearest numbers" in found.sentence
    for far in (0.1, float(np.nextafter(np.float32(0.1), np.float32(0))), 0.1001, 0.09, -0.1):
        _write_witness(files, [far], [far])
        assert not files.accepted()


def _write_witness(files: Files, inputs: list[float], outputs: list[float]) -> None:
    from verify.checker.container import FORMAT

    Parts(
        {
            "format": FORMAT, "verdict": "sat", "element_type": "float32", "inputs": hexadecimal(inputs),
            "outputs": hexadecimal(outputs), "onnx_sha256": digest(files.model.read_bytes()),
            "vnnlib_sha256": digest(files.property.read_bytes()),
        },
        {},
    ).write(files.certificate)  # fmt: skip


def test_witness_behind_a_square_root(tmp_path: Path) -> None:
    """Bug found: an irrational output is an interval, of which only the lower end is judged.

    The true output is 1 / sqrt 2; the threshold is less than that by 4e-58, so nothing violates.
    """
    from math import isqrt

    from onnx import TensorProto, helper, numpy_helper

    constants = [numpy_helper.from_array(np.array([value], np.float32), name) for name, value in {"s": 1, "b": 0, "m": 0, "v": 2}.items()]  # fmt: skip
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in ("X", "Y")]
    node = helper.make_node("BatchNormalization", ["X", "s", "b", "m", "v"], ["Y"], epsilon=0.0)
    graph = helper.make_graph([node], "test", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    digits = 250
    true = isqrt(10 ** (2 * digits) // 2)  # in units of 10^-250, rounded down
    threshold = true - 4 * 10 ** (digits - 58)
    text = property_text([1.0], [1.0], 1, f"(<= Y_0 0.{threshold:0{digits}d})")
    assert Fraction(threshold, 10**digits) ** 2 * 2 < 1
    files = placed(tmp_path, model, text)
    _write_witness(files, [1.0], [float(np.float32(0.5**0.5))])
    found = files.check()
    assert not found.proved or "over the reals: not confirmed" in found.sentence, found.sentence


# -- what the sentence says


@pytest.mark.parametrize(("family", "splits"), [("sigmoid", "activations"), ("relu", "inputs")])
def test_sentences_tell_the_arithmetic(family: str, splits: str, tmp_path: Path) -> None:
    """Bug found: with `exact` the sentence speaks of rationals though all was decided in float64.

    (Sigmoids have no rational values; blocks about inputs are bounded in float64 in any case.)
    """
    files = placed(tmp_path, network(family, 2), "")
    property_of(files, "row", 2, 3, 3)
    assert searched(files, splits) == ("unsat", None)
    found = files.check(exact=True)
    if found.proved:
        assert found.summary is not None
        assert "exact rational arithmetic" not in found.sentence or found.summary.in_rationals


def test_maps_that_follow_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first activation intervals lose through two maps, so the checker makes a pass as the search does: 2 x_0 and 2 x_1 by way of sums.

    Nothing rests on bounds that are carried forward, which the checker does not know.
    """
    monkeypatch.delattr(intermediate, "_carried_forward")
    turn = np.array([[1, 1], [1, -1]], dtype=np.float32)
    node = onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [
            node("MatMul", ["x", "turn"], ["h"]),
            node("MatMul", ["h", "turn"], ["z"]),
            node("Relu", ["z"], ["r"]),
            node("MatMul", ["r", "ones"], ["y"]),
        ],
        "turned",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 2])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 1])],
        [
            onnx.numpy_helper.from_array(turn, "turn"),
            onnx.numpy_helper.from_array(np.ones((2, 1), np.float32), "ones"),
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "spec.vnnlib").write_text(property_text([0, 0], [1, 1], 1, "(>= Y_0 4.2)"))
    proof = tmp_path / "proof"
    result = verify.verify(tmp_path / "model.onnx", tmp_path / "spec.vnnlib", certificate=proof)
    assert result.verdict == "unsat" and result.statistics["subproblems"] == 1


def test_data_folders() -> None:
    """Those of data/correct are proved, in rationals too; of the others nothing is, and some are unreadable."""
    seen = 0
    for folder in sorted((HERE / "correct").iterdir()):
        files = Files.of(folder)
        for options in ({}, {"exact": True}):
            found = files.check(**options)
            assert found.proved, (folder.name, found.sentence)
        seen += 1
    for folder in sorted((HERE / "incorrect").iterdir()):
        found = Files.of(folder).check()
        assert not found.proved and found.sentence.startswith("not proved: "), folder.name
        seen += 1
    for folder in sorted((HERE / "parsing_failure").iterdir()):
        files = Files.of(folder)
        with pytest.raises(Refused, match=str(files.certificate)):
            files.check()
        seen += 1
    assert seen >= 15
    assert all(path.stat().st_size < 20_000 for path in HERE.rglob("*") if path.is_file())
