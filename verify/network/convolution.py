"""Convolutions and deconvolutions over one, two or three axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from verify.network.affine import Affine, Shape

_UNFOLDED_BYTES = 4 * 2**20  # of a float64 convolution's images at a time


@dataclass(frozen=True)
class Convolution(Affine):
    """A convolution over `n` trailing axes (n = 1, 2, 3), or with `transposed` its adjoint (a deconvolution).

    Sample shapes are [1, channels, *spatial] or [channels, *spatial]; a leading axis is merged with the batch.
    `input_shape` is the sample shape of the operand, needed to undo strides that do not divide it.
    """

    weight: Tensor
    bias: Tensor | None
    stride: Shape
    padding: Shape
    dilation: Shape
    groups: int
    input_shape: Shape
    transposed: bool = False
    output_padding: Shape = ()
    bias_size: Tensor | None = None  # where folding made the bias: see `bias_terms`

    @property
    def _rank(self) -> int:
        return self.weight.dim() - 2

    @property
    def output_shape(self) -> Shape:
        """The sample shape of the value."""
        lead, sizes = self.input_shape[: -1 - self._rank], self.input_shape[-self._rank :]
        geometry = zip(self.stride, self.padding, self.dilation, self.weight.shape[2:], strict=True)
        if self.transposed:
            extra = self.output_padding or (0,) * self._rank
            full = [
                (n - 1) * s - 2 * p + d * (k - 1) + 1 + e
                for n, e, (s, p, d, k) in zip(sizes, extra, geometry, strict=True)
            ]
            return (*lead, self.weight.shape[1] * self.groups, *full)
        full = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1 for n, (s, p, d, k) in zip(sizes, geometry, strict=True)
        ]
        return (*lead, self.weight.shape[0], *full)

    def _merged(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(-1, *tensor.shape[-1 - self._rank :])

    def _conv(self, tensor: Tensor, bias: Tensor | None) -> Tensor:
        def convolve(part: Tensor) -> Tensor:
            if part.device.type != "cpu":
                return self._elsewhere(part, bias, None)
            return kind(part, self.weight, bias, self.stride, self.padding, self.dilation, self.groups)

        kind = (functional.conv1d, functional.conv2d, functional.conv3d)[self._rank - 1]
        return self._in_parts(convolve, tensor)

    def _deconv(self, tensor: Tensor, bias: Tensor | None, output_padding: Shape) -> Tensor:
        def deconvolve(part: Tensor) -> Tensor:
            if part.device.type != "cpu":
                return self._elsewhere(part, bias, output_padding)
            weight, stride, padding = self.weight, self.stride, self.padding
            return kind(part, weight, bias, stride, padding, output_padding, self.groups, self.dilation)

        kinds = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
        kind = kinds[self._rank - 1]
        return self._in_parts(deconvolve, tensor)

    def _elsewhere(self, tensor: Tensor, bias: Tensor | None, output_padding: Shape | None) -> Tensor:
        """A convolution, or with `output_padding` a transposed one, on a GPU: in float64 without cuDNN, which may transform (by Fourier or
        Winograd) where rounding is charged as that of sums of products; in float32 with it, but not in TF32.

        torch's own functions take these from switches that all threads share.
        """
        found: Tensor = torch._convolution(
            tensor,
            self.weight,
            bias,
            self.stride,
            self.padding,
            self.dilation,
            output_padding is not None,
            output_padding or (0,) * self._rank,
            self.groups,
            benchmark=False,
            deterministic=False,
            cudnn_enabled=tensor.dtype != torch.float64,
            allow_tf32=False,
        )
        return found

    def _in_parts(self, function: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
        """A function of samples, of so many at a time that what torch writes out for it stays in the cache.

        In float64 it unfolds the images first, whole batches at once: up to six times slower than samples one after the other.
        """
        if tensor.dtype != torch.float64 or tensor.device.type != "cpu":
            return function(tensor)
        small = self.input_shape if self.transposed else self.output_shape
        unfolded = math.prod((*self.weight.shape[1:], *small[-self._rank :])) * tensor.dtype.itemsize
        parts = tensor.split(max(1, _UNFOLDED_BYTES // unfolded))
        return function(tensor) if len(parts) < 2 else torch.cat([function(part) for part in parts])

    def _undo_padding(self, small: Tensor) -> Shape:
        """What a deconvolution of `small` must add at the far ends to reach the operand's size."""
        sizes = zip(
            self.input_shape[-self._rank :],
            small.shape[-self._rank :],
            self.stride,
            self.padding,
            self.dilation,
            self.weight.shape[2:],
            strict=True,
        )
        return tuple(full - ((n - 1) * s - 2 * p + d * (k - 1) + 1) for full, n, s, p, d, k in sizes)

    def forward(self, *operands: Tensor) -> Tensor:
        if operands[0].requires_grad and torch.is_grad_enabled() and not self.transposed:
            found: Tensor = _Differentiable.apply(operands[0], self)
            return found
        merged = self._merged(operands[0])
        if self.transposed:
            out = self._deconv(merged, self.bias, self.output_padding)
        else:
            out = self._conv(merged, self.bias)
        return out.reshape(*operands[0].shape[: -1 - self._rank], *out.shape[1:])

    def transpose(self, cotangent: Tensor) -> tuple[Tensor, ...]:
        merged = self._merged(cotangent)
        if self.transposed:
            out = self._conv(merged, None)
        elif self._phases is not None:
            out = self._sub_pixel(merged, self._phases)
        elif self._flipped is not None:
            out = self._flipped._conv(merged, None)
        else:
            out = self._deconv(merged, None, self._undo_padding(merged))
        return (out.reshape(cotangent.shape[0], *self.input_shape),)

    @cached_property
    def _flipped(self) -> Convolution | None:
        """The adjoint as a convolution, which in float64 on the CPU is up to twice as fast as a transposed one."""
        double = self.weight.dtype == torch.float64 and self.weight.device.type == "cpu"
        reach = tuple(d * (k - 1) for d, k in zip(self.dilation, self.weight.shape[2:], strict=True))
        padding = tuple(size - pad for size, pad in zip(reach, self.padding, strict=True))
        places, cotangents = (
            math.prod(shape[-self._rank :]) for shape in (self.input_shape, self.output_shape)
        )
        if (
            not double
            or self.groups > 1
            or set(self.stride) != {1}
            or min(padding) < 0
            or places > cotangents
        ):
            return None
        kernel = self.weight.transpose(0, 1).flip(*range(2, self.weight.dim())).contiguous()
        return Convolution(kernel, None, self.stride, padding, self.dilation, 1, self.output_shape)

    @cached_property
    def _phases(self) -> Tensor | None:
        """The kernel of the sub-pixel form, [channels * stride^2, outputs, taps, taps], where that form is worth it.

        Row `s q + r - p` of the adjoint's result gathers the kernel's rows `r, r + s, ..` from rows `q, q - 1, ..` of the
        cotangent: one dense convolution for all phases r, interleaved by a pixel shuffle. On the CPU it is several times
        faster than a transposed convolution for strided layers with few channels.
        """
        simple = (
            self._rank == 2 and self.groups == 1 and set(self.dilation) == {1} and len(set(self.stride)) == 1
        )
        few = self.weight.shape[1] <= 8
        if not simple or not few or self.stride[0] == 1 or self.weight.device.type != "cpu":
            return None
        stride = self.stride[0]
        outputs, channels, *kernel = self.weight.shape
        taps = [-(-size // stride) for size in kernel]
        fill = functional.pad(self.weight, (0, taps[1] * stride - kernel[1], 0, taps[0] * stride - kernel[0]))
        split = fill.reshape(outputs, channels, taps[0], stride, taps[1], stride)
        phases = split.permute(1, 3, 5, 0, 2, 4).flip(4, 5)
        return phases.reshape(channels * stride * stride, outputs, *taps).contiguous()

    def _sub_pixel(self, cotangent: Tensor, phases: Tensor) -> Tensor:
        """Every phase's pixels straight into the operand's shape, padding left out."""
        stride, taps, (height, width) = self.stride[0], phases.shape[2:], self.input_shape[-2:]
        full = functional.conv2d(cotangent, phases, padding=(taps[0] - 1, taps[1] - 1))
        rows, columns = full.shape[2:]
        full = full.unflatten(1, (self.weight.shape[1], stride, stride))
        image: Tensor = full.new_zeros(full.shape[0], full.shape[1], height, width)
        for a in range(stride):
            top, first_row = (a - self.padding[0]) % stride, -((a - self.padding[0]) // stride)
            count = min(rows - first_row, -(-(height - top) // stride))
            for b in range(stride):
                left, first = (b - self.padding[1]) % stride, -((b - self.padding[1]) // stride)
                wide = min(columns - first, -(-(width - left) // stride))
                part = full[:, :, a, b, first_row : first_row + count, first : first + wide]
                image[:, :, top : top + stride * count : stride, left : left + stride * wide : stride] = part
        return image

    def absolute(self) -> Convolution:
        return replace(self, weight=self.weight.abs(), bias=None, bias_size=None)

    def signed(self, sign: int) -> Convolution:
        return replace(self, weight=(sign * self.weight).clamp(min=0), bias=None, bias_size=None)

    @property
    def terms(self) -> int:
        spatial = math.prod(self.weight.shape[2:])
        return spatial * max(self.weight.shape[0], self.weight.shape[1] * self.groups) + 1

    @property
    def terms_back(self) -> int:
        if self.transposed or set(self.dilation) != {1}:
            return self.terms
        taps = zip(self.weight.shape[2:], self.stride, strict=True)
        return math.prod(-(-size // stride) for size, stride in taps) * self.weight.shape[0] + 1


class _Differentiable(torch.autograd.Function):
    """A convolution whose gradient is its own adjoint, which may be faster than torch's."""

    @staticmethod
    def forward(ctx: Any, operand: Tensor, operator: Convolution) -> Tensor:
        ctx.operator, ctx.shape = operator, operand.shape
        return operator.forward(operand)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        return ctx.operator.transpose(cotangents[0])[0].reshape(ctx.shape), None
