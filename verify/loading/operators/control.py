"""If, Loop, Scan, SequenceMap and sequences, made static: how often a body runs must hang on constants alone.

A body is lowered in its place, as often as it runs. What goes in and out may be values, constants or sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from verify.deadline import tick
from verify.loading.builder import Builder, Value
from verify.loading.calls import Call, Unsupported, integer, integers, tensor
from verify.loading.operators.comparisons import choose, is_whole
from verify.loading.operators.moves import join, stacked
from verify.loading.registry import onnx

MOST_ROUNDS = 10_000  # of all loops of a model


@onnx("If", static=True)
def if_(call: Call) -> Any:
    """The branch that the condition chooses; where that depends on the input, both branches and a choice between their results."""
    condition, *captured = call.args
    bodies = call.module.bodies
    if not isinstance(condition, Value):
        branch = "then_branch" if bool(condition) else "else_branch"
        return _results(bodies[branch].at(call.builder, captured))
    both = [bodies[branch].at(call.builder, captured) for branch in ("then_branch", "else_branch")]
    mask = call.builder.reshape(condition, ())
    return _results([_chosen(call.builder, mask, a, b) for a, b in zip(*both, strict=True)])


def _chosen(builder: Builder, condition: Value, a: Any, b: Any) -> Value:
    """One of two results of one shape."""
    if (
        len({tuple(getattr(part, "shape", ())) for part in (a, b)}) > 1
        or isinstance(a, list)
        or isinstance(b, list)
    ):
        raise Unsupported(
            "its condition depends on the network's input, and its branches give what differs in shape"
        )
    found = choose(builder, condition, a, b)
    if is_whole(builder, a) and is_whole(builder, b):
        builder.whole.add(found.node)
    return found


@onnx("Loop", static=True)
def loop(call: Call) -> Any:
    """The body as often as the trip count and the condition, which it may compute itself, let it run."""
    operands, captured = _operands(call)
    trips, condition, *state = operands
    if isinstance(trips, Value) or isinstance(condition, Value):
        raise Unsupported("how often its body runs depends on the network's input")
    most, going, rounds = integer(trips), bool(condition), 0
    rows = []
    while going and rounds < most:
        _count_round(call.builder)
        number = torch.tensor(rounds)
        condition, *results = call.module.bodies["body"].at(
            call.builder, [number, torch.tensor(True), *state, *captured]
        )
        if isinstance(condition, Value):
            raise Unsupported("whether its body runs again depends on the network's input")
        state, row = results[: len(state)], results[len(state) :]
        rows.append(row)
        going, rounds = bool(condition), rounds + 1
    return _results([*state, *_scanned(call, rows, call.module.results - len(state))])


@onnx("Scan", static=True)
def scan(call: Call) -> Any:
    """The body once for each entry along the scanned axes."""
    if call.module.opset < 9:
        raise Unsupported("it has an axis of batches, as before opset 9")
    operands, captured = _operands(call)
    given = call.attributes
    count = int(given["num_scan_inputs"])
    state, scanned = operands[: len(operands) - count], operands[len(operands) - count :]
    backwards = given.get("scan_input_directions", [0] * count)
    axes = given.get("scan_input_axes", [0] * count)
    parts = [
        _parts(call.builder, x, axis)[:: -1 if back else 1]
        for x, axis, back in zip(scanned, axes, backwards, strict=True)
    ]
    rows = []
    for entries in zip(*parts, strict=True):
        _count_round(call.builder)
        results = call.module.bodies["body"].at(call.builder, [*state, *entries, *captured])
        state, row = results[: len(state)], results[len(state) :]
        rows.append(row)
    scans = call.module.results - len(state)
    axes = given.get("scan_output_axes", [0] * scans)
    backwards = given.get("scan_output_directions", [0] * scans)
    return _results([*state, *_scanned(call, rows, scans, axes, backwards)])


@onnx("SequenceMap", static=True)
def sequence_map(call: Call) -> Any:
    """The body once for each tensor of the first sequence, with those of other sequences, and with tensors as they are."""
    operands, captured = _operands(call)
    results = []
    for place in range(len(operands[0])):
        _count_round(call.builder)
        given = [operand[place] if isinstance(operand, list) else operand for operand in operands]
        results.append(call.module.bodies["body"].at(call.builder, [*given, *captured]))
    return _results([[row[which] for row in results] for which in range(call.module.results)])


def _operands(call: Call) -> tuple[list[Any], list[Any]]:
    """The operator's own operands, and those that its body takes of the graphs around it (see onnx/bodies.py)."""
    own = len(call.args) - int(call.attributes["captured"])
    return list(call.args[:own]), list(call.args[own:])


def _count_round(builder: Builder) -> None:
    tick()
    builder.rounds += 1
    if builder.rounds > MOST_ROUNDS:
        raise Unsupported(f"loops run more than {MOST_ROUNDS} times in all; export the model with fewer")


def _results(results: Sequence[Any]) -> Any:
    """One result as itself, several as a tuple."""
    return results[0] if len(results) == 1 else tuple(results)


def _scanned(
    call: Call,
    rows: Sequence[Sequence[Any]],
    count: int,
    axes: Sequence[int] = (),
    backwards: Sequence[int] = (),
) -> list[Any]:
    """What every round gives, side by side on a new axis."""
    if count and not rows:
        raise Unsupported("its body never runs, so the shape of its results is not known")
    found = []
    for place in range(count):
        parts = [row[place] for row in rows]
        if place < len(backwards) and backwards[place]:
            parts.reverse()
        found.append(side_by_side(call.builder, parts, axes[place] if place < len(axes) else 0, new=True))
    return found


def side_by_side(builder: Builder, parts: Sequence[Any], axis: int, new: bool) -> Any:
    """Values and constants concatenated, or stacked on a new axis; of constants alone a constant."""
    if not any(isinstance(part, Value) for part in parts):
        return torch.stack(list(parts), axis) if new else torch.cat(list(parts), axis)
    if not new:
        return join(builder, parts, axis)
    values = [part if isinstance(part, Value) else builder.constant(tensor(part)) for part in parts]
    if len({value.shape for value in values}) > 1:
        raise Unsupported("tensors of different shapes side by side")
    return stacked(builder, values, axis % (len(values[0].shape) + 1))


def _parts(builder: Builder, x: Any, axis: int) -> list[Any]:
    """The entries along an axis, without it."""
    if not isinstance(x, Value):
        return list(torch.unbind(x, axis))
    axis %= len(x.shape)
    rest = (*x.shape[:axis], *x.shape[axis + 1 :])
    return [builder.reshape(builder.slice(x, axis, k, k + 1), rest) for k in range(x.shape[axis])]


# sequences: lists of values and constants


@onnx("SequenceConstruct", static=True)
def sequence_construct(call: Call) -> list[Any]:
    """A sequence of its operands."""
    return list(call.args)


@onnx("SequenceEmpty", static=True)
def sequence_empty(call: Call) -> list[Any]:
    """A sequence of nothing."""
    return []


@onnx("SequenceAt", static=True)
def sequence_at(call: Call) -> Any:
    """A tensor of a sequence."""
    found = _sequence(call)
    return found[_place(call, 1, found, len(found) - 1)]


@onnx("SequenceInsert", static=True)
def sequence_insert(call: Call) -> list[Any]:
    """A sequence with one tensor more, at its end by default."""
    found = list(_sequence(call))
    place = _place(call, 2, found, len(found)) if call.argument(2, "c") is not None else len(found)
    return [*found[:place], call.argument(1, "b"), *found[place:]]


@onnx("SequenceErase", static=True)
def sequence_erase(call: Call) -> list[Any]:
    """A sequence with one tensor less, the last by default."""
    found = _sequence(call)
    place = -1 if call.argument(1, "b") is None else _place(call, 1, found, len(found) - 1)
    return [tensor for number, tensor in enumerate(found) if number != place % len(found)]


@onnx("SequenceLength", static=True)
def sequence_length(call: Call) -> Any:
    """How many tensors there are."""
    return torch.tensor(len(_sequence(call)))


@onnx("ConcatFromSequence", static=True)
def concat_from_sequence(call: Call) -> Any:
    """The tensors side by side, on a new axis or not."""
    found, given = _sequence(call), call.attributes
    return side_by_side(call.builder, found, int(given["axis"]), bool(given.get("new_axis", 0)))


@onnx("SplitToSequence", static=True)
def split_to_sequence(call: Call) -> list[Any]:
    """Parts along an axis: of given sizes, of one size but for the last, or single entries."""
    x, split = call.args[0], call.constant(1, "b")
    axis, keeps = int(call.attributes.get("axis", 0)), bool(call.attributes.get("keepdims", 1))
    axis %= len(x.shape)
    if split is None and not keeps:
        return _parts(call.builder, x, axis)
    size = x.shape[axis]
    if split is None or not split.dim():
        each = 1 if split is None else integer(split)
        sizes = [min(each, size - start) for start in range(0, size, each)]
    else:
        sizes = list(integers(split))
    if sum(sizes) != size or min(sizes, default=0) < 0:
        raise Unsupported(f"it splits {size} entries into {sizes}")
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    if not isinstance(x, Value):
        return [x.narrow(axis, start, length) for start, length in zip(starts, sizes, strict=True)]
    return [
        call.builder.slice(x, axis, start, start + length)
        for start, length in zip(starts, sizes, strict=True)
    ]


@onnx("Optional", static=True)
def optional(call: Call) -> Any:
    """What it is given, or nothing."""
    return call.args[0] if call.args else None


@onnx("OptionalHasElement", static=True)
def optional_has_element(call: Call) -> Any:
    """Whether there is something."""
    return torch.tensor(bool(call.args) and call.args[0] is not None)


@onnx("OptionalGetElement", static=True)
def optional_get_element(call: Call) -> Any:
    """What there is."""
    if call.args[0] is None:
        raise Unsupported("there is nothing in the optional that it opens")
    return call.args[0]


def _sequence(call: Call) -> list[Any]:
    found = call.argument(0, "a")
    if not isinstance(found, list):
        raise Unsupported("its first operand is no sequence")
    return found


def _place(call: Call, operand: int, found: list[Any], most: int) -> int:
    """A position in a sequence, counted from the front, up to `most`."""
    given = call.constant(operand, "abc"[operand])
    place = integer(given)
    place += len(found) if place < 0 else 0
    if not 0 <= place <= most:
        raise Unsupported(f"position {integer(given)} in a sequence of {len(found)}")
    return place
