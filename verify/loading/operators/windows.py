"""The geometry of what slides a window.

ONNX pads each side by its own width and may leave the widths to be worked out (`auto_pad`); `Window` holds them explicitly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from verify.loading.calls import integers
from verify.network.affine import Shape


@dataclass(frozen=True)
class Window:
    """A window's geometry, one number for each spatial axis."""

    kernel: Shape
    stride: Shape
    dilation: Shape
    begin: Shape
    end: Shape
    ceil: bool = False

    @property
    def rank(self) -> int:
        return len(self.kernel)

    @property
    def reach(self) -> Shape:
        """How many entries a window spans."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def positions(self, sizes: Shape) -> Shape:
        """How many windows there are along each axis; one that would start beyond the entries is dropped."""
        counts = []
        geometry = zip(sizes, self.stride, self.begin, self.end, self.reach, strict=True)
        for size, stride, begin, end, reach in geometry:
            room = size + begin + end - reach
            count = (-(-room // stride) if self.ceil else room // stride) + 1
            if self.ceil and (count - 1) * stride >= size + begin:
                count -= 1
            counts.append(count)
        return tuple(counts)


def onnx_window(attributes: Mapping[str, Any], sizes: Shape, kernel: Shape) -> Window:
    """The window of an ONNX operator on an operand of the given spatial sizes."""
    rank = len(kernel)
    stride = tuple(attributes.get("strides", (1,) * rank))
    dilation = tuple(attributes.get("dilations", (1,) * rank))
    pads = tuple(attributes.get("pads", (0,) * 2 * rank))
    ceil = bool(attributes.get("ceil_mode", 0))
    auto = attributes.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        return Window(kernel, stride, dilation, pads[:rank], pads[rank:], ceil)
    zeros = (0,) * rank
    window = Window(kernel, stride, dilation, zeros, zeros)
    if auto == "VALID":
        return window
    begin, end = [], []
    for size, step, reach in zip(sizes, stride, window.reach, strict=True):
        needed = max((-(-size // step) - 1) * step + reach - size, 0)
        smaller, larger = needed // 2, needed - needed // 2
        begin.append(smaller if auto == "SAME_UPPER" else larger)
        end.append(larger if auto == "SAME_UPPER" else smaller)
    return Window(kernel, stride, dilation, tuple(begin), tuple(end))


def torch_window(
    kernel: Any, stride: Any, padding: Any, dilation: Any, rank: int, sizes: Shape, ceil: bool = False
) -> Window:
    """The window of a torch operator."""
    kernel = integers(kernel, rank)
    stride = kernel if stride is None or stride == [] else integers(stride, rank)
    if isinstance(padding, str):
        attributes = {"strides": stride, "dilations": integers(dilation, rank)}
        # torch puts the odd zero of `same` at the end, as SAME_UPPER does
        auto = {"same": "SAME_UPPER", "valid": "VALID"}[padding]
        return onnx_window({**attributes, "auto_pad": auto}, sizes, kernel)
    sides = integers(padding, rank)
    return Window(kernel, stride, integers(dilation, rank), sides, sides, ceil)
