"""The activations that the checker knows, a file for each family: a class there is registered by being there.

A network names an activation by its kind and its parameters; these functions look it up.
"""

from __future__ import annotations

from pkgutil import iter_modules

from verify.checker.activations.base import KINDS, Function, Parameters
from verify.checker.errors import Refused
from verify.checker.rationals import Array

__import__("verify.checker.activations", fromlist=sorted(found.name for found in iter_modules(__path__)))

PIECEWISE = tuple(kind for kind, function in KINDS.items() if function.piecewise)
EXACT = tuple(kind for kind, function in KINDS.items() if function.exact)
MULTIPLYING = tuple(kind for kind, function in KINDS.items() if function.multiplies)


def function_of(kind: str, parameters: Parameters) -> Function:
    """The activation of that name. Raises Refused."""
    if kind not in KINDS or len(parameters) != KINDS[kind].settings:
        raise Refused(f"there is no activation {kind!r} with {len(parameters)} parameters")
    return KINDS[kind](parameters)


def operands_of(kind: str) -> int:
    """How many operands an output has."""
    return KINDS[kind].operands if kind in KINDS else 1


def apply(kind: str, parameters: Parameters, z: Array) -> Array:
    """The activation of values z ([.., size]); a product halves the size, its factors being the halves of z."""
    return function_of(kind, parameters).value(z)


def interval(kind: str, parameters: Parameters, lower: Array, upper: Array) -> tuple[Array, Array]:
    """Bounds of the outputs on boxes, rounded outward; infinite where nothing is known."""
    return function_of(kind, parameters).interval(lower, upper)


def minimum(kind: str, parameters: Parameters, t: Array, rho: Array, lower: Array, upper: Array) -> Array:
    """The least value of `t sigma(z) - rho z` on each interval: [.., outputs], summed over a product's factors."""
    return function_of(kind, parameters).minimum(t, rho, lower, upper)


def default_rho(kind: str, parameters: Parameters, t: Array, lower: Array, upper: Array) -> Array:
    """The multipliers of CROWN (Zhang et al. 2018): slope times cotangent, for lines close to the function."""
    return function_of(kind, parameters).default_rho(t, lower, upper)
