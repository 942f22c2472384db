"""Resize and Upsample: every mode is linear, an axis at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from verify.loading.builder import Value
from verify.loading.calls import Call, Unsupported, integers
from verify.loading.operators.matrices import along
from verify.loading.registry import onnx

_OLD = 11  # the opset that brought Resize its attributes


def _interpolates(attributes: dict[str, bytes]) -> bool:
    return attributes.get("mode", b"nearest") != b"nearest"


@onnx("Resize", "Upsample", truncates=_interpolates)
def resize(call: Call) -> Value:
    """Resize and Upsample: to the nearest entry, in all ways of rounding, or by lines or cubic curves between entries."""
    attributes, x = call.attributes, call.x
    for name in ("antialias", "exclude_outside"):
        if attributes.get(name, 0):
            raise Unsupported(name)
    mode, axes = attributes.get("mode", "nearest"), list(_changed(call))
    if mode == "nearest":
        rounding = "floor" if _is_old(call) else attributes.get("nearest_mode", "round_prefer_floor")
        numbers = torch.arange(x.size).reshape(x.shape)
        for axis, source in axes:
            shown = _ROUNDINGS[rounding](source).long().clamp(0, x.shape[axis] - 1)
            numbers = numbers.index_select(axis, shown)
        return call.builder.gather(x, numbers)
    if mode not in ("linear", "cubic"):
        raise Unsupported(f"mode {mode!r}")
    curve = attributes.get("cubic_coeff_a", -0.75)
    for axis, source in axes:
        kernel = _line if mode == "linear" else lambda distance: _cubic(distance, curve)
        x = along(call.builder, x, axis, _weights(source, x.shape[axis], kernel))
    return x


_ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round_prefer_floor": lambda x: torch.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: torch.floor(x + 0.5),
}


def _is_old(call: Call) -> bool:
    return bool(call.module.operator == "Upsample" or call.module.opset < _OLD)


def _changed(call: Call) -> Iterator[tuple[int, Tensor]]:
    """The axes that change, each with the places among its entries that are shown."""
    attributes = call.attributes
    kind = "asymmetric" if _is_old(call) else attributes.get("coordinate_transformation_mode", "half_pixel")
    scales, sizes = _targets(call)
    for axis, size in enumerate(call.x.shape):
        out = int(sizes[axis]) if sizes is not None else math.floor(size * scales[axis])
        scale = out / size if sizes is not None else scales[axis]
        if (out, scale) != (size, 1):
            yield axis, _sources(size, out, scale, kind)


def _targets(call: Call) -> tuple[Any, Any]:
    """(scales, sizes) for all axes, one of them None."""
    attributes, rank = call.attributes, len(call.x.shape)
    if _is_old(call):
        scales, sizes = call.constant(1, "b"), None
        scales = attributes.get("scales") if scales is None else scales.flatten().tolist()
    else:
        scales, sizes = call.constant(2, "c"), call.constant(3, "d")
        scales = None if scales is None or scales.numel() == 0 else scales.flatten().tolist()
        sizes = None if sizes is None or sizes.numel() == 0 else integers(sizes)
        if attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise Unsupported("keep_aspect_ratio_policy")
    axes = attributes.get("axes")
    if axes is not None:
        places = {axis % rank: place for place, axis in enumerate(axes)}
        if scales is not None:
            scales = [scales[places[axis]] if axis in places else 1.0 for axis in range(rank)]
        if sizes is not None:
            sizes = [sizes[places[axis]] if axis in places else call.x.shape[axis] for axis in range(rank)]
    return scales, sizes


def _sources(size: int, out: int, scale: float, transform: str) -> Tensor:
    """The place among `size` entries that each of `out` places shows."""
    places = torch.arange(out, dtype=torch.float64)
    if transform == "asymmetric":
        return places / scale
    if transform == "half_pixel" or (transform == "pytorch_half_pixel" and out > 1):
        return (places + 0.5) / scale - 0.5
    if transform == "align_corners":
        return places * (size - 1) / (out - 1) if out > 1 else torch.zeros_like(places)
    if transform == "pytorch_half_pixel":
        return torch.zeros_like(places)
    raise Unsupported(f"coordinate transformation {transform!r}")


def _weights(source: Tensor, size: int, kernel: Callable[[Tensor], Tensor]) -> Tensor:
    """What each entry adds to each place [places, size]; an entry beyond an end is the one at that end."""
    around = source.floor()[:, None] + torch.arange(-1, 3, dtype=torch.float64)
    weights = torch.zeros(len(source), size, dtype=torch.float64)
    return weights.scatter_add(1, around.long().clamp(0, size - 1), kernel((source[:, None] - around).abs()))


def _line(distance: Tensor) -> Tensor:
    return (1 - distance).clamp(min=0)


def _cubic(distance: Tensor, a: float) -> Tensor:
    """Keys' kernel."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))
