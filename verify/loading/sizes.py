"""Tensors that no machine holds, as a few bytes of a model can ask for, are refused before they are made."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from verify.errors import ResourceError
from verify.memory import budget


def check_size(shape: Sequence[int]) -> None:
    """Raises ResourceError for a tensor of too many entries."""
    if math.prod(shape) > budget().entries:
        raise ResourceError(
            f"a tensor of shape {list(shape)} has more than {budget().entries} entries, which memory does not hold"
        )


def _numbers(tensor: Any) -> list[float]:
    return [float(number) for number in tensor.flatten().tolist()]


def _range(start: Any, limit: Any, delta: Any) -> list[int]:
    (first,), (last,), (step,) = map(_numbers, (start, limit, delta))
    return [math.ceil(max((last - first) / step, 0))]


# Shapes of what operators make that can make much of little, as onnx2torch names them.
_GROWING: dict[str, Callable[..., Sequence[float]]] = {
    "OnnxConstantOfShape": lambda shape: _numbers(shape),
    "OnnxExpand": lambda x, shape: _numbers(shape),
    "OnnxTile": lambda x, repeats: [*x.shape, *_numbers(repeats)],
    "OnnxRange": _range,
}


def check_growth(module: Any, args: Sequence[Any]) -> None:
    """Raises ResourceError where a call of a module would make a tensor of too many entries."""
    grown = _GROWING.get(type(module).__name__)
    if grown is not None:
        check_size([int(size) for size in grown(*args)])
