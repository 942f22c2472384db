"""What the checker knows of activations: where `t sigma(z) - rho z` can have its minimum on a box, and no more.

Arrays are [subproblems, objectives, neurons]; bounds have one objective for all. Float64, or objects that hold exact rationals.
In float64 the values are as accurate as the operations are; the caller charges for them (`dual.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.network import apply, rational

Array = NDArray[Any]
Parameters = tuple[Any, ...]
PIECEWISE = ("relu", "leaky", "clip", "abs")
EXACT = (*PIECEWISE, "product", "square", "reciprocal")  # sigmoid and tanh have no rational values
_ULPS = 16 * 2.0**-53  # what an elementary function of numpy may be off by, generously
_FLATTEST = (
    1e-300  # slopes below it are those of points so far out that the function moves by less than `_SMALL`
)
_SMALL = 2.0**-490
_TANGENTS = 9


def breakpoints(kind: str, parameters: Parameters) -> tuple[Any, ...]:
    """Where a piecewise linear activation bends."""
    if kind == "clip":
        return tuple(end for end in parameters if end not in (float("inf"), -float("inf")))
    return (Fraction(0),)


def within(point: Any, lower: Array, upper: Array) -> Array:
    """The point of the interval that is nearest to `point`."""
    return np.asarray(np.minimum(np.maximum(point, lower), upper))


def _cast(value: Any, like: Array) -> Any:
    return rational(value) if like.dtype == object else float(value)


def interval(kind: str, parameters: Parameters, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Bounds of the outputs on boxes, rounded outward; infinite where nothing is known."""
    if kind == "product":
        (a_low, b_low), (a_high, b_high) = np.split(lower, 2, -1), np.split(upper, 2, -1)
        values = np.stack([a * b for a in (a_low, a_high) for b in (b_low, b_high)])
    elif kind == "reciprocal":
        values = np.stack(
            [apply(kind, parameters, _unless_zero(end, lower, upper)) for end in (lower, upper)]
        )
    else:
        values = np.stack([apply(kind, parameters, z) for z in _corners(kind, parameters, lower, upper)])
    low, high = values.min(0), values.max(0)
    if lower.dtype == object:
        return low, high
    if kind not in ("relu", "abs", "clip"):
        low, high = low - (_ULPS * np.abs(low) + _SMALL), high + (_ULPS * np.abs(high) + _SMALL)
    unknown = np.isnan(low) | np.isnan(high)
    return np.where(unknown, -np.inf, low), np.where(unknown, np.inf, high)


def _unless_zero(end: Array, lower: Array, upper: Array) -> Array:
    """The ends; NaN (in exact arithmetic: an error) where the interval holds 0."""
    holds = (lower <= 0) & (upper >= 0)
    if end.dtype == object:
        if holds.any():
            raise ZeroDivisionError("a reciprocal's interval holds 0")
        return end
    return np.where(holds, np.nan, end)


def _corners(kind: str, parameters: Parameters, lower: Array, upper: Array) -> list[Array]:
    """The ends, and the points between where the function may turn."""
    turns = breakpoints(kind, parameters) if kind in (*PIECEWISE, "square") else ()
    return [lower, upper, *(within(_cast(point, lower), lower, upper) for point in turns)]


def minimum(kind: str, parameters: Parameters, t: Array, rho: Array, lower: Array, upper: Array) -> Array:
    """The least value of `t sigma(z) - rho z` on each interval: [.., outputs], summed over a product's factors."""
    if kind == "relu":
        return _relu_minimum(t, rho, lower, upper)
    if kind == "product":
        (a_low, b_low), (a_high, b_high) = np.split(lower, 2, -1), np.split(upper, 2, -1)
        rho_a, rho_b = np.split(rho, 2, -1)
        return _least(t * a * b - rho_a * a - rho_b * b for a in (a_low, a_high) for b in (b_low, b_high))
    points = _corners(kind, parameters, lower, upper)
    points += [within(z, lower, upper) for z in _stationary(kind, t, rho, lower, upper)]
    if kind == "reciprocal":
        points = [_unless_zero(z, lower, upper) for z in points]
    least = _least(t * apply(kind, parameters, z) - rho * z for z in points)
    return least if kind in PIECEWISE or t.dtype == object else least - _SMALL * np.abs(t)


def _least(values: Iterator[Array]) -> Array:
    least = next(values)
    for value in values:
        least = np.minimum(least, value)  # which keeps NaN
    return least


def _relu_minimum(t: Array, rho: Array, lower: Array, upper: Array) -> Array:
    """At an end, or at the kink where it is inside."""
    zero = _cast(0, lower)
    least = np.minimum(t * np.maximum(lower, zero) - rho * lower, t * np.maximum(upper, zero) - rho * upper)
    return np.asarray(np.where((lower < 0) & (upper > 0), np.minimum(least, zero), least))


def _stationary(kind: str, t: Array, rho: Array, lower: Array, upper: Array) -> list[Array]:
    """Where the derivative vanishes: `t sigma'(z) = rho`.

    A stationary point may be off by some units in its last place: the value there is off by the second order of that. For a
    rational function in exact arithmetic it may be irrational: then the tangent's bound at a point nearby is taken instead.
    """
    if kind in PIECEWISE:
        return []
    if t.dtype == object:
        if kind == "square":
            return [rho / np.where(t == 0, rational(1), 2 * t)]
        raise ArithmeticError(f"{kind} has no exact minimum")
    with np.errstate(all="ignore"):
        ratio = rho / np.where(t == 0, 1.0, t)
        if kind == "square":
            return [ratio / 2]
        if kind == "reciprocal":
            root = np.sqrt(np.maximum(-1 / np.where(ratio == 0, 1.0, ratio), 0.0))
        elif kind == "sigmoid":
            slope = np.clip(ratio, _FLATTEST, 0.25)
            small = 2 * slope / (1 + np.sqrt(np.maximum(1 - 4 * slope, 0.0)))
            root = np.log1p(-small) - np.log(small)
        else:
            slope = np.clip(ratio, _FLATTEST, 1.0)
            value = np.sqrt(1 - slope)
            root = 0.5 * (np.log1p(value) - np.log(slope / (1 + value)))
    return [root, -root]


def default_rho(kind: str, parameters: Parameters, t: Array, lower: Array, upper: Array) -> Array:
    """The multipliers of CROWN (Zhang et al. 2018): slope times cotangent, for lines close to the function."""
    if kind == "relu":
        return t * relu_slopes(t, lower, upper, np.where(upper > -lower, 1.0, 0.0))
    if kind == "product":
        a, b = np.split((lower + upper) / 2, 2, -1)
        return np.concatenate([t * b, t * a], -1)
    rising, falling = (_closest(kind, parameters, sign, lower, upper) for sign in (1.0, -1.0))
    return t * np.where(t < 0, falling, rising)


def relu_slopes(t: Array, lower: Array, upper: Array, alpha: Array) -> Array:
    """The slopes of ReLU's lines: `alpha` below where it is unstable, the chord above, and its own where it is linear."""
    unstable, own = (lower < 0) & (upper > 0), np.where(lower >= 0, 1.0, 0.0)
    chord = np.divide(upper, upper - lower, out=np.zeros_like(upper), where=unstable)
    return np.where(t < 0, np.where(unstable, chord, own), np.where(unstable, alpha, own))


def _closest(kind: str, parameters: Parameters, sign: float, lower: Array, upper: Array) -> Array:
    """Of some sensible slopes the one whose line is closest to the function at the interval's middle."""
    slopes = _slopes(kind, parameters, lower, upper)
    signs = np.full_like(lower, sign)
    heights = [
        minimum(kind, parameters, signs, sign * slope, lower, upper) + sign * slope * (lower + upper) / 2
        for slope in slopes
    ]
    choice = np.nan_to_num(np.stack(heights), nan=-np.inf).argmax(0)
    return np.asarray(np.take_along_axis(np.stack(slopes), choice[None], 0)[0])


def _slopes(kind: str, parameters: Parameters, lower: Array, upper: Array) -> list[Array]:
    """Chords and tangents."""
    if kind == "square":
        return [lower + upper, 2 * lower, 2 * upper]
    points = [lower + (upper - lower) * (i / (_TANGENTS - 1)) for i in range(_TANGENTS)]
    if kind in PIECEWISE:
        points = [lower, *(within(float(z), lower, upper) for z in breakpoints(kind, parameters)), upper]
        pairs = [(a, b) for i, a in enumerate(points) for b in points[i + 1 :]]
        return [_chord(kind, parameters, a, b) for a, b in pairs]
    chord = _chord(kind, parameters, lower, upper)
    values = [apply(kind, parameters, z) for z in points]
    derivative = {
        "sigmoid": lambda s: s * (1 - s),
        "tanh": lambda s: 1 - s * s,
        "reciprocal": lambda s: -s * s,
    }
    return [chord, *(derivative[kind](value) for value in values)]


def _chord(kind: str, parameters: Parameters, left: Array, right: Array) -> Array:
    rise, run = apply(kind, parameters, right) - apply(kind, parameters, left), right - left
    return np.asarray(np.divide(rise, run, out=np.zeros_like(rise), where=run > 0))
