"""Evidence of `sat`: an input as hexadecimal floats, checked again over the reals and in ONNX Runtime.

Over the reals the network's values are enclosed in float64 intervals, and evaluated exactly where these leave the property open (or
where that is asked for, and the operators allow it). The property is judged with the decimals of its file, at the stored input itself, which is of
the model's element type and in the input set of some clause (see input_set.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verify.checker.activations import EXACT
from verify.checker.container import Container
from verify.checker.dual import Dual
from verify.checker.errors import NotProved, Refused
from verify.checker.input_set import is_number
from verify.checker.multipliers import Arithmetic
from verify.checker.network import Network
from verify.checker.query import Query
from verify.checker.query2 import JointQuery
from verify.checker.running import outputs_at, run_joint
from verify.checker.runtime import NotInstalled, Trouble

Array = NDArray[Any]


def check_witness(
    container: Container,
    network: Network,
    query: Query,
    contents: Mapping[str, bytes],
    deployed: bool,
    exact: bool = False,
) -> str:
    """What the witness shows, in one sentence. NotProved where it shows nothing of the semantics asked for.

    contents: of the models' files, by the query's networks.
    """
    inputs = _floats(container, "inputs", query.inputs)
    point = [Fraction(value) for value in inputs]
    moved = _in_box(query, point)
    real = _violates(network, query, point, exact)
    outputs = _run(contents, query, container.text("element_type"), inputs)
    if outputs is not None and not np.isfinite(outputs).all():
        raise NotProved("ONNX Runtime's outputs are not finite")
    stored = _floats(container, "outputs", query.computed)
    in_runtime = None if outputs is None else query.violated(point, _with_products(query, point, outputs))
    same = outputs == stored
    told = [
        f"over the reals: {'confirmed' if real else 'not confirmed'}",
        "ONNX Runtime: not installed"
        if in_runtime is None
        else f"ONNX Runtime: {'confirmed' if in_runtime else 'not confirmed'}{'' if same else ' (other outputs than recorded)'}",
    ]
    if moved:
        told.append(f"{moved} inputs are the nearest numbers to intervals that hold none of their type")
    if not (in_runtime if deployed else real):
        raise NotProved(f"the input is in the box, but {'; '.join(told)}")
    return f"proved: an input violates the property; {'; '.join(told)}"


def _floats(container: Container, key: str, count: int) -> list[float]:
    """Hexadecimal floats of the header."""
    try:
        values = [float.fromhex(text) for text in json.loads(container.text(key))]
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Refused(f"the header's {key!r} are no hexadecimal floats") from error
    if len(values) != count or not np.isfinite(values).all():
        raise Refused(f"the header's {key!r} are not {count} finite numbers")
    return values


def _in_box(query: Query, point: list[Fraction]) -> int:
    """How many coordinates of an input are the nearest number to an interval that holds none; NotProved where it is in no clause's box."""
    for place, value in enumerate(point):
        kind = query.clauses.kind_of(place)
        if not is_number(value, kind):
            raise NotProved(f"the inputs are no numbers of their types: X_{place} is none of type {kind}")
    written = query.clauses.of_type("")
    for place, clause in enumerate(query.clauses):
        if clause.contains(point):
            ends = zip(written[place].lower, point, written[place].upper, strict=True)
            return sum(not low <= value <= high for low, value, high in ends)
    raise NotProved("the input is in the box of no clause")


def _violates(network: Network, query: Query, point: list[Fraction], exact: bool) -> bool:
    """Whether the property is violated at the point over the reals, for certain."""
    possible = all(layer.kind in EXACT for layer in network.layers)
    tiers = [possible] if exact else [False, True] if possible else [False]
    return any(_violates_in(Arithmetic(tier), network, query, point) for tier in tiers)


def _violates_in(arithmetic: Arithmetic, network: Network, query: Query, point: list[Fraction]) -> bool:
    """What rationals say, or float64 intervals for certain."""
    x = arithmetic.array(np.array(point, dtype=object)[None])
    low, high = (x, x) if arithmetic.exact else (np.nextafter(x, -np.inf), np.nextafter(x, np.inf))
    with np.errstate(all="ignore"):
        _, values = Dual(network, arithmetic).node_intervals(low, high)
    ends = [end[0].tolist() for end in values[-1]]
    if not arithmetic.exact and not np.isfinite(ends).all():
        return False
    lower, upper = ([_fraction(value) for value in end] for end in ends)
    return query.violated(point, lower, upper)


def _fraction(value: Any) -> Fraction:
    if isinstance(value, float):
        return Fraction(value)
    return Fraction(int(value.numerator), int(value.denominator))


def _with_products(query: Query, point: list[Fraction], outputs: list[float]) -> list[Fraction]:
    """What a runtime computed, and the products of these numbers and inputs, exactly."""
    found = [Fraction(value) for value in outputs]
    for factors in query.interface.products if isinstance(query, JointQuery) else ():
        values = (found[code // 2] if code % 2 else point[code // 2] for code in factors)
        found.append(math.prod(values, start=Fraction(1)))
    return found


def _run(
    contents: Mapping[str, bytes], query: Query, element_type: str, inputs: list[float]
) -> list[float] | None:
    """ONNX Runtime's outputs, hidden variables behind them; None where it is not installed."""
    kinds = {query.clauses.kind_of(place) for place in range(len(inputs))}
    if element_type != ("float32" if kinds == {"float32"} else "float64"):
        raise Refused(f"element type {element_type!r} is not that of the model's inputs")
    x = np.array(inputs, dtype=element_type)
    if x.tolist() != inputs:
        raise Refused(f"the inputs are no numbers of type {element_type}")
    try:
        if not isinstance(query, JointQuery):
            return [float(value) for value in outputs_at(contents[""], [x])[0].ravel().tolist()]
        return run_joint(query.interface, contents, x)
    except NotInstalled:
        return None
    except (Trouble, ValueError, IndexError) as error:  # it has no input, or one of another size
        raise Refused(f"ONNX Runtime does not run the model on these inputs ({error})") from error
