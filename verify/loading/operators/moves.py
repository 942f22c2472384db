"""Reindexings: what only says which entry goes where.

Such an operation is not described here at all: it is run once on the numbers 1 .. n in the operand's shape, and the numbers that
come out say which entry goes where (0: a padded zero). The builder then finds the cheapest map that does it. So one rule covers
some forty spellings of torch and ONNX, and what is lowered is what onnx2torch would compute.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verify.loading.builder import Builder, Value
from verify.loading.calls import Call, Unsupported, integers, tensor
from verify.loading.products import side_by_side
from verify.loading.registry import converted, grows, known, onnx, torch_call

Result = Value | tuple[Value, ...]
# of torch, as functions and as methods
_SPELLINGS = (
    "chunk flatten flip index_select movedim narrow permute reshape roll select split squeeze swapaxes t tile "
    "transpose unbind unflatten unsqueeze"
).split()


@converted("OnnxDepthToSpace", "DepthToSpace", moves=True)
@converted("OnnxExpand", "Expand", moves=True)
@converted("OnnxGatherElements", "GatherElements", moves=True)
@converted("OnnxGatherND", "GatherND", moves=True)
@converted("OnnxSqueezeDynamicAxes")
@converted("OnnxSqueezeStaticAxes", "Squeeze", alike=13, moves=True)
@converted("OnnxTile", "Tile", moves=True)
@converted("OnnxTranspose", "Transpose", alike=13, moves=True)
@converted("OnnxUnsqueezeDynamicAxes")
@converted("OnnxUnsqueezeStaticAxes", "Unsqueeze", alike=13, moves=True)
@torch_call(nn.Flatten, nn.PixelShuffle, nn.Unflatten, torch.pixel_shuffle, "expand", "repeat", "view")
@torch_call(*_SPELLINGS, *(getattr(torch, name) for name in _SPELLINGS))
def reindex(call: Call) -> Result:
    """See the head of this file."""
    x = call.x
    numbers = torch.arange(1, x.size + 1, dtype=torch.float64).reshape(x.shape)
    moved = call.function(numbers, *call.args[1:], **_without_input(call.kwargs))
    if isinstance(moved, Tensor):
        return call.builder.gather(x, moved.long() - 1)
    return tuple(call.builder.gather(x, part.long() - 1) for part in moved)


def _without_input(kwargs: Any) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in ("input", "x")}


def move(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers an operator that moves entries, by what executes it: a function of the module and its operands."""

    def register(computed: Callable[..., Any]) -> Callable[..., Any]:
        onnx(name, computed=computed, moves=True)(reindex)
        return computed

    return register


@move("Slice")
def _slice(module: Any, x: Tensor, starts: Any, ends: Any, axes: Any, steps: Any, *_: Any) -> Tensor:
    """Slice of all versions: the old ones hold the bounds as attributes."""
    given = module.attributes
    first = integers(given["starts"] if starts is None else starts)
    last = integers(given["ends"] if ends is None else ends)
    chosen = given.get("axes", range(len(first))) if axes is None else axes
    strides = (1,) * len(first) if steps is None else integers(steps)
    for start, end, axis, step in zip(first, last, integers(chosen), strides, strict=True):
        size = x.shape[axis]
        start, end = (bound + size if bound < 0 else bound for bound in (start, end))
        if step > 0:
            begin = min(max(start, 0), size)
            kept = torch.arange(begin, max(min(end, size), begin), step)
        else:
            kept = torch.arange(min(start, size - 1), min(max(end, -1), min(start, size - 1)), step)
        x = x.index_select(axis, kept)
    return x


@move("Split")
def _split(module: Any, x: Tensor, split: Any, *_: Any) -> Tensor | tuple[Tensor, ...]:
    """Split of all versions: sizes as an attribute or operand, or equal parts, one for each result."""
    axis = module.attributes.get("axis", 0)
    sizes = module.attributes.get("split") if split is None else integers(split)
    if sizes is None:
        sizes = -(-x.shape[axis] // module.results)
    parts = torch.split(x, sizes if isinstance(sizes, int) else list(sizes), dim=axis)
    return parts if module.results > 1 else parts[0]


@move("Flatten")
def _flatten(module: Any, x: Tensor, *_: Any) -> Tensor:
    axis = module.attributes.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


@move("Reshape")
def _reshape(module: Any, x: Tensor, shape: Any, *_: Any) -> Tensor:
    """Reshape of all versions: a 0 copies a size, unless it is allowed to be meant."""
    sizes = integers(shape)
    if not module.attributes.get("allowzero", 0):
        sizes = tuple(x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes))
    return x.reshape(sizes)


@move("Trilu")
def _trilu(module: Any, x: Tensor, diagonal: Any, *_: Any) -> Tensor:
    place = 0 if diagonal is None else int(diagonal)
    return torch.triu(x, place) if module.attributes.get("upper", 1) else torch.tril(x, place)


@move("SpaceToDepth")
def _space_to_depth(module: Any, x: Tensor, *_: Any) -> Tensor:
    """Blocks of an image's places, one place's entries after the other, as channels."""
    block = module.attributes["blocksize"]
    batch, depth, height, width = x.shape
    blocks = x.reshape(batch, depth, height // block, block, width // block, block)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(batch, -1, height // block, width // block)


@torch_call(operator.getitem)
def pick(call: Call) -> Any:
    """`operands[key]`: one of several results, or indexing of a tensor."""
    if isinstance(call.args[0], tuple | list):
        return call.args[0][call.args[1]]
    return reindex(call)


# nothing moves


@converted("OnnxCopyIdentity", "Identity", alike=16, static=True)
def onnx_identity(call: Call) -> Any:
    """Also of constants and sequences."""
    return call.argument(0, "x")


@torch_call(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity)
@torch_call(torch.clone, "clone", "contiguous", "detach", "float", "double")
def identity(call: Call) -> Value:
    """Operations that change nothing in the real-number function: dropout, casts between floats, clones."""
    return call.x


@converted("OnnxDropoutDynamic", "Dropout", alike=10, moves=True)
def onnx_dropout(call: Call) -> Value:
    """Dropout, unless it is told to drop."""
    training = call.constant(2, "training_mode")
    if training is not None and bool(training):
        raise Unsupported("training mode")
    return call.x


@torch_call(F.dropout, F.dropout2d)
def dropout(call: Call) -> Value:
    """torch.nn.functional.dropout, which drops in evaluation mode too unless told otherwise."""
    if call.constant(2, "training", default=True):
        raise Unsupported("it drops values at random; give it training=self.training")
    return call.x


@converted("OnnxShape", "Shape", alike=15, moves=True)
def shape_of(call: Call) -> Any:
    """Shape of a value: a constant."""
    return torch.tensor(call.x.shape[call.module._start : call.module._end])


@onnx("Size", moves=True, computed=lambda module, x, *_: torch.tensor(x.numel()))
def size_of(call: Call) -> Any:
    """How many entries a value has: a constant."""
    return torch.tensor(call.x.size)


# several operands


def join(builder: Builder, parts: Any, axis: int) -> Value:
    """Concatenation of values and constants."""
    values = [part if isinstance(part, Value) else builder.constant(tensor(part)) for part in parts]
    values = [value for value in values if value.size]
    return builder.concatenate(values, axis % len(values[0].shape))


@torch_call(torch.cat, torch.concat)
def concatenate(call: Call) -> Value:
    """torch.cat."""
    axis = call.constant(1, "dim", "axis", default=0)
    return join(call.builder, call.argument(0, "tensors"), axis)


@converted("OnnxConcat", "Concat", moves=True)
def onnx_concatenate(call: Call) -> Value:
    """ONNX Concat."""
    return join(call.builder, call.args, call.module.axis)


@torch_call(torch.stack)
def stack(call: Call) -> Value:
    """torch.stack."""
    parts = [
        p if isinstance(p, Value) else call.builder.constant(tensor(p)) for p in call.argument(0, "tensors")
    ]
    return stacked(
        call.builder, parts, call.constant(1, "dim", "axis", default=0) % (len(parts[0].shape) + 1)
    )


def stacked(builder: Builder, parts: Sequence[Value], axis: int) -> Value:
    """Values of one shape side by side on a new axis (>= 0)."""
    shape = (*parts[0].shape[:axis], 1, *parts[0].shape[axis:])
    return builder.concatenate([builder.reshape(part, shape) for part in parts], axis)


@onnx("ScatterElements", "ScatterND")
def scatter(call: Call) -> Value:
    """ScatterElements and ScatterND to constant places, found by scattering numbers (see `reindex`)."""
    if call.attributes.get("reduction", "none") != "none":
        raise Unsupported("a reduction")
    given = [call.argument(place, name) for place, name in ((0, "a"), (2, "c"))]
    parts = [part if isinstance(part, Value) else call.builder.constant(tensor(part)) for part in given]
    total = sum(part.size for part in parts)
    split = torch.arange(1, total + 1, dtype=torch.float64).split([part.size for part in parts])
    data, updates = (numbers.reshape(part.shape) for numbers, part in zip(split, parts, strict=True))
    moved = call.function(data, call.constant(1, "b"), updates)
    return call.builder.gather(side_by_side(call.builder, parts), moved.long() - 1)


# padding


def padded(builder: Builder, x: Value, index: Tensor, value: float) -> Value:
    """A padding given as `index` (-1: padded) with a constant."""
    found = builder.gather(x, index)
    if value == 0:
        return found
    if not math.isfinite(value):
        raise Unsupported(f"padding with {value}")
    return builder.scale(found, None, (index < 0).double() * value)


@torch_call(nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d)
@torch_call(nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ZeroPad2d, F.pad)
def torch_pad(call: Call) -> Value:
    """torch.nn.functional.pad and the padding modules."""
    x, builder = call.x, call.builder
    numbers = torch.arange(1, x.size + 1, dtype=torch.float64).reshape(x.shape)
    module = call.module
    if module is not None:
        widths, mode, value = (
            module.padding,
            getattr(module, "mode", "constant"),
            getattr(module, "value", 0.0),
        )
        mode = {"ReflectionPad": "reflect", "ReplicationPad": "replicate"}.get(
            type(module).__name__[:-2], mode
        )
    else:
        widths = call.constant(1, "pad")
        mode, value = call.constant(2, "mode", default="constant"), call.constant(3, "value", default=None)
    if mode == "constant":
        numbers = torch.nn.functional.pad(numbers, tuple(widths))
        return padded(builder, x, numbers.long() - 1, float(value or 0.0))
    return builder.gather(x, torch.nn.functional.pad(numbers, tuple(widths), mode=mode).long() - 1)


@onnx("Pad", chooses=True)
def pad(call: Call) -> Value:
    """Pad, in all modes."""
    attributes, x = call.attributes, call.x
    pads, value, axes = call.constants("bcd")
    widths = integers(attributes.get("pads", attributes.get("paddings")) if pads is None else pads)
    chosen = range(len(x.shape)) if axes is None else [axis % len(x.shape) for axis in integers(axes)]
    sides = [(0, 0)] * len(x.shape)
    for place, axis in enumerate(chosen):
        sides[axis] = (widths[place], widths[place + len(widths) // 2])
    number = float(tensor(attributes.get("value", 0.0) if value is None else value))
    index = padded_index(x.shape, sides, attributes.get("mode", "constant"))
    return padded(call.builder, x, index, number)


def padded_index(shape: tuple[int, ...], sides: list[tuple[int, int]], mode: str) -> Tensor:
    """The entry that each place of the padded tensor holds, -1 for the constant."""
    numbers = np.arange(math.prod(shape)).reshape(shape)
    crop = tuple(
        slice(max(-begin, 0), size - max(-end, 0)) for size, (begin, end) in zip(shape, sides, strict=True)
    )
    grown = [(max(begin, 0), max(end, 0)) for begin, end in sides]
    kinds: dict[str, Any] = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    if mode == "constant":
        padded = np.pad(numbers[crop], grown, constant_values=-1)
    elif mode in kinds:
        padded = np.pad(numbers[crop], grown, mode=kinds[mode])
    else:
        raise Unsupported(f"mode {mode!r}")
    return torch.from_numpy(padded)


# of constants alone


known("Constant", alike=13, moves=True)
known("ConstantOfShape", alike=9, moves=True)
grows("OnnxConstantOfShape")(lambda shape: _numbers(shape))
grows("OnnxExpand")(lambda x, shape: _numbers(shape))
grows("OnnxTile")(lambda x, repeats: [*x.shape, *_numbers(repeats)])


@grows("OnnxRange")
def _range(start: Any, limit: Any, delta: Any) -> list[int]:
    (first,), (last,), (step,) = map(_numbers, (start, limit, delta))
    return [math.ceil(max((last - first) / step, 0))]


def _numbers(given: Tensor) -> list[float]:
    return [float(number) for number in given.flatten().tolist()]
