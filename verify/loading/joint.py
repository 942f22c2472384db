"""The networks of a query side by side, as one network whose flat inputs and outputs its property speaks of.

Inputs: those of all networks, the ones that must be equal as one. Outputs: those of all networks, then all hidden tensors, then
all initialized inputs, then the products of variables in the assertions. A network that is `equal-to` another one is the same graph lowered again at
its own inputs. The ground truth stays the models themselves: each runs in its own session on its own inputs; hidden tensors
come from another session of the same model with more outputs; products are computed exactly from what came out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from verify.errors import ModelError
from verify.formats.vnnlib2 import Query, Variable
from verify.loading.builder import Builder, Value
from verify.loading.comparison import Box, check_agreement
from verify.loading.fold import fold as folded
from verify.loading.guard import reading
from verify.loading.loaded import LoadedModel
from verify.loading.parts import (
    Part,
    check_names,
    check_shape,
    input_types,
    matched_parts,
    tensor_name,
    tensor_types,
)
from verify.loading.products import side_by_side, with_products

if TYPE_CHECKING:
    from verify.loading.loaded import Source

_HUGE = 1e30  # no property means such a bound
MOST_EXACT = 2**53  # the greatest integer up to which float64 has all


class JointRunner:
    """All models at joint inputs: their outputs, then the hidden tensors, then the initialized inputs."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts

    def __call__(self, samples: NDArray[Any]) -> NDArray[Any]:
        kinds = zip(*(part.run(samples) for part in self._parts), strict=True)
        arrays = [array for kind in kinds for group in kind for array in group]
        return np.concatenate([_exact(array).reshape(len(samples), -1) for array in arrays], axis=1)


def _exact(array: NDArray[Any]) -> NDArray[np.float64]:
    """The same numbers as float64. Raises ModelError for integers that it cannot hold."""
    if array.dtype.kind in "iu" and array.size and max(-int(array.min()), int(array.max())) > MOST_EXACT:
        raise ModelError("an integer beyond 2^53 came out of a model; that is not supported")
    return array.astype(np.float64)


@dataclass(frozen=True)
class JointModel(LoadedModel):
    """A query's joint network and its models."""

    query: Query
    input_types: tuple[str, ...]  # of each joint input
    tensor_types: Mapping[str, str]  # of each variable, in its model

    @property
    def of_query(self) -> bool:
        return True

    @property
    def input_kinds(self) -> list[tuple[np.dtype[Any], NDArray[np.bool_]]]:
        types = np.array(self.input_types)
        return [(np.dtype(kind), types == kind) for kind in dict.fromkeys(self.input_types)]

    def judged(self, inputs: Sequence[Fraction | float], outputs: NDArray[Any]) -> Sequence[Fraction | float]:
        """The outputs with the exact products behind them."""
        found: list[Fraction | float] = outputs.tolist()
        for factors in self.query.products:
            values = [Fraction(found[code // 2] if code % 2 else inputs[code // 2]) for code in factors]
            found.append(prod(values, start=Fraction(1)))
        return found

    def variables(self, inputs: NDArray[Any], outputs: NDArray[Any]) -> dict[str, tuple[str, NDArray[Any]]]:
        given = np.split(inputs[self.query.input_of], _ends(self.query, "inputs"))
        computed = ("outputs", "hidden", "given")
        found = np.split(outputs, np.cumsum([size for kind in computed for size in _sizes(self.query, kind)]))
        tensors: dict[str, NDArray[Any]] = {}
        rest = iter(found)
        for kind, values in (("inputs", iter(given)), *((kind, rest) for kind in computed)):
            for variable in _variables(self.query, kind):
                values_of = next(values).astype(self.tensor_types[variable.name])
                tensors[variable.name] = values_of.reshape(variable.shape)
        return {v.name: (v.element_type, tensors[v.name]) for v in self.query.variables}


def _variables(query: Query, kind: str) -> list[Variable]:
    return [variable for network in query.networks for variable in getattr(network, kind)]


def _sizes(query: Query, kind: str) -> list[int]:
    return [variable.size for variable in _variables(query, kind)]


def _ends(query: Query, kind: str) -> NDArray[np.int64]:
    return np.cumsum(_sizes(query, kind))[:-1]


def joint(query: Query, models: Mapping[str, Source], fold: bool) -> JointModel:
    """See `verify.loading.load_joint`."""
    check_names(query, models)
    parts = matched_parts(query, models)
    with reading(query.property.source or "the query"):
        return _side_by_side(query, parts, fold)


def _side_by_side(query: Query, parts: Sequence[Part], fold: bool) -> JointModel:
    """The joint model of models that fit."""
    builder, flat, given = _inputs(query, parts)
    tensors = [part.graph.at(builder, given[part.declaration.name]) for part in parts]
    outputs = [
        _declared(of.value(tensor.name), variable, part)
        for part, of in zip(parts, tensors, strict=True)
        for tensor, variable in zip(part.model.outputs, part.declaration.outputs, strict=True)
    ]
    hidden = [
        _declared(of.value(tensor_name(part.model, variable.tensor)), variable, part)
        for part, of in zip(parts, tensors, strict=True)
        for variable in part.declaration.hidden
    ]
    constants = [of.value(name) for part, of in zip(parts, tensors, strict=True) for name in part.given]
    builder.label = "outputs"
    core = side_by_side(builder, [*outputs, *hidden, *constants])
    names = ", ".join(variable.name for variable in _variables(query, "inputs"))
    types = input_types(query, parts)
    loaded = JointModel(
        builder.network(builder.output(core)),
        JointRunner(parts),
        names,
        ", ".join(variable.name for variable in _variables(query, "outputs")),
        (flat.size,),
        (core.size,),
        "float32" if set(types) == {"float32"} else "float64",
        _operators(parts),
        _opset(parts),
        query,
        types,
        tensor_types(query, parts, np.zeros(flat.size)),
        as_written=JointRunner([part.as_written for part in parts]),
    )
    clauses = query.property.clauses
    check_agreement(loaded, moderate(*query.property.some_boxes()) if len(clauses) else None)
    if query.products:
        core = with_products(builder, flat, core, query.products)
    network = builder.network(builder.output(core))
    return replace(loaded, network=folded(network) if fold else network)


def moderate(lower: NDArray[np.float64], upper: NDArray[np.float64]) -> Box:
    """A box to compare in: where an input has no bounds but those of its type, a part of it near the others or zero."""
    low, high = lower < -_HUGE, upper > _HUGE
    start = np.where(low, np.where(high, -1.0, upper - 1), lower)
    return start, np.where(high, start + 1 + low, upper)


def _declared(value: Value, variable: Variable, part: Part) -> Value:
    check_shape(variable, value.shape, part.model, variable.tensor or variable.name)
    return value


def _operators(parts: Sequence[Part]) -> Counter[str]:
    models = {id(part.model): part.model for part in parts}
    return sum((model.operators for model in models.values()), Counter[str]())


def _opset(parts: Sequence[Part]) -> int | None:
    opsets = {part.model.opset for part in parts}
    return opsets.pop() if len(opsets) == 1 else None


# -- the network


def _inputs(query: Query, parts: Sequence[Part]) -> tuple[Builder, Value, dict[str, list[Value]]]:
    """A builder; its input, flat; and every network's inputs by its name."""
    size = int(query.input_of.max(initial=0)) + 1
    first = parts[0].shapes[0]
    builder = Builder(first if prod(first) == size else (size,), "inputs")
    builder.label = "inputs"
    given = {}
    for part in parts:
        given[part.declaration.name] = [
            builder.gather(builder.input, torch.from_numpy(places.reshape(shape)))
            for places, shape in zip(part.places, part.shapes, strict=True)
        ]
    return builder, builder.reshape(builder.input, (size,)), given
