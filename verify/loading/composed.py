"""A loaded model with more around it: side by side with itself, as a query of VNN-LIB 2.0 has it, or behind an affine map.

The network is copied node by node, so a model is loaded once however often a property runs it, and whatever it was loaded from. The ground truth
stays the model's own runtime, run once for each copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from verify.errors import ModelError
from verify.formats.vnnlib2 import REAL, Query
from verify.loading.builder import Builder, Value
from verify.loading.fold import fold
from verify.loading.joint import JointModel
from verify.loading.loaded import LoadedModel
from verify.loading.products import side_by_side, with_products
from verify.loading.written import distance_model, fronted_model
from verify.network.activations.piecewise import Abs
from verify.network.activations.relu import Relu
from verify.network.graph import Network

if TYPE_CHECKING:
    from verify.loading.runner import Runner
    from verify.specification import Front

DISTANCE = "distance"  # the network of a query that gives entries' distances from a point


class _Copies:
    """A model's runtime at the joint inputs of a query, and distances behind what it gives, as exact as float64 has them.

    places: int64 [model's inputs] for each network; None for one that gives distances from `centre`.
    """

    def __init__(
        self, runner: Runner, places: Sequence[tuple[NDArray[np.int64], bool]], centre: NDArray[Any] | None
    ) -> None:
        self._runner, self._places = runner, places
        self._centre = np.zeros(1) if centre is None else centre

    def __call__(self, samples: NDArray[Any]) -> NDArray[Any]:
        found = [
            np.abs(samples[:, places].astype(np.float64) - self._centre)
            if of_distances
            else self._runner(samples[:, places]).astype(np.float64)
            for places, of_distances in self._places
        ]
        return np.concatenate(found, axis=1)


@dataclass(frozen=True)
class SideBySide(JointModel):
    """A model once for each network of a query. distances: of each joint output, the input that it is the distance of, from what; or None."""

    distances: tuple[tuple[int, float] | None, ...] = ()
    beside: Mapping[str, bytes] = field(
        default_factory=dict
    )  # networks that are not the model, as ONNX files

    def judged(self, inputs: Sequence[Fraction | float], outputs: NDArray[Any]) -> Sequence[Fraction | float]:
        """The outputs, distances and products exactly."""
        found: list[Fraction | float] = [
            value if distance is None else abs(Fraction(inputs[distance[0]]) - Fraction(distance[1]))
            for value, distance in zip(outputs.tolist(), self.distances, strict=True)
        ]
        for factors in self.query.products:
            values = (Fraction(found[code // 2] if code % 2 else inputs[code // 2]) for code in factors)
            found.append(prod(values, start=Fraction(1)))
        return found


def check_interface(model: LoadedModel, query: Query) -> None:
    """Raises ModelError where a query is not of this model alone, each of its networks with one input and one output as the model has them."""
    source = query.property.source
    if model.of_query or model.within is not None:
        raise ModelError(f"{source}: the model was loaded for another property; give its file instead")
    if len(query.implemented) > 1 or any(network.hidden or network.given for network in query.networks):
        raise ModelError(
            f"{source}: the query has several networks, hidden variables or initialized inputs, which are of ONNX files; give these instead"
        )
    for network in query.networks:
        for kind, declared, shape in (
            ("input", network.inputs, model.input_shape),
            ("output", network.outputs, model.output_shape),
        ):
            told = f"the {kind} of {network.name}"
            if len(declared) != 1:
                raise ModelError(
                    f"{source}: the model has one {kind}, the network {network.name} {len(declared)}"
                )
            if [size for size in declared[0].shape if size != 1] != [size for size in shape if size != 1]:
                raise ModelError(
                    f"{source}: {told} is declared as {list(declared[0].shape)}, the model's is {list(shape)}"
                )
            if declared[0].element_type not in (REAL, model.element_type):
                raise ModelError(
                    f"{source}: {told} is declared {declared[0].element_type}, the model is {model.element_type}; declare it so, or real"
                )


def side_by_side_with_itself(
    model: LoadedModel, query: Query, centre: NDArray[np.float64] | None = None
) -> SideBySide:
    """The joint model of a query all of whose networks are one model, but for one called `distance`: of each entry from `centre`."""
    size = int(query.input_of.max(initial=0)) + 1
    own = size == model.network.inputs
    builder = Builder(model.input_shape if own else (size,), "inputs")
    flat = builder.reshape(builder.input, (size,))
    values, places, distances, first = list[Value](), [], list[tuple[int, float] | None](), 0
    beside: dict[str, bytes] = {}
    for network in query.networks:
        place = query.input_of[first : first + network.inputs[0].size]
        first, of_distances = first + len(place), centre is not None and network.name == DISTANCE
        given = builder.gather(builder.input, torch.from_numpy(place.reshape(model.input_shape)))
        builder.label = network.name
        if of_distances and centre is not None:
            beside = {DISTANCE: distance_model(DISTANCE, model.element_type, model.input_shape, centre)}
            values.append(_distances(builder, given, centre))
            distances += zip(place.tolist(), centre.ravel().tolist(), strict=True)
        else:
            values.append(_copied(builder, model.network, given, model.output_shape))
            distances += [None] * model.network.outputs
        places.append((place, of_distances))
    core = side_by_side(builder, [builder.reshape(value, (value.size,)) for value in values])
    whole = with_products(builder, flat, core, query.products) if query.products else core
    flat_centre = None if centre is None else centre.ravel()
    types = {v.name: model.element_type for v in query.variables}
    if centre is not None:
        types |= {v.name: "float64" for n in query.networks for v in n.outputs if n.name == DISTANCE}
    return SideBySide(
        fold(builder.network(builder.output(whole))),
        _Copies(model.runner, places, flat_centre),
        model.input_name,
        model.output_name,
        model.input_shape if own else (size,),
        (core.size,),
        model.element_type,
        model.operators,
        model.opset,
        query,
        (model.element_type,) * size,
        types,
        tuple(distances),
        beside=beside,
        notes=model.notes,
        export=model.export,
    )


def _copied(builder: Builder, network: Network, given: Value, shape: tuple[int, ...]) -> Value:
    """A network's output at a value of its input's shape."""
    given = builder.reshape(given, network.nodes[0].shape)
    moved = [given.node]
    for node in network.nodes[1:]:
        operands = tuple(moved[operand] for operand in node.operands)
        builder.nodes.append(replace(node, operands=operands, name=f"{builder.label}.{node.name}"))
        moved.append(len(builder.nodes) - 1)
    return Value(moved[-1], shape)


def _distances(builder: Builder, given: Value, centre: NDArray[np.float64]) -> Value:
    """|given - centre|, entry by entry."""
    middle = torch.from_numpy(np.array(centre)).reshape(given.shape)
    return builder.activation(Abs(), builder.scale(given, None, -middle))


@dataclass(frozen=True)
class Behind(LoadedModel):
    """A model behind a `Front`: its inputs are the front's."""

    front: Front
    model: LoadedModel

    def written(self, data: bytes) -> bytes:
        """The whole as an ONNX file, of the content of the model's."""
        return fronted_model(data, self.front, self.element_type, self.model.input_shape)

    def variables(self, inputs: NDArray[Any], outputs: NDArray[Any]) -> dict[str, tuple[str, NDArray[Any]]]:
        """The property's tensors, and the image that the model was given."""
        image = _image(self.front, inputs[None], self.element_type).reshape(self.model.input_shape)
        tensors = {"X": inputs, "image": image, "Y": outputs.reshape(self.output_shape)}
        return {name: (tensor.dtype.name, tensor) for name, tensor in tensors.items()}


class _Fronted:
    """A model's runtime at what a front makes of inputs, rounded once to the model's element type."""

    def __init__(self, front: Front, model: LoadedModel) -> None:
        self._front, self._model = front, model

    def __call__(self, samples: NDArray[Any]) -> NDArray[Any]:
        return self._model.runner(_image(self._front, samples, self._model.element_type))


def _image(front: Front, samples: NDArray[Any], element_type: str) -> NDArray[Any]:
    """What a front makes of inputs, [batch, inputs]."""
    made = samples.astype(np.float64) @ front.weight.T + front.offset
    cut: NDArray[np.float64] = np.clip(made, front.lower, front.upper)
    return cut.astype(element_type)


def behind(front: Front, model: LoadedModel) -> Behind:
    """A model behind a front."""
    inputs = front.weight.shape[1]
    builder = Builder((inputs,), "inputs")
    builder.label = "front"
    value = builder.dense(
        builder.input, torch.from_numpy(front.weight), torch.from_numpy(np.array(front.offset))
    )
    low, high = (torch.from_numpy(np.array(end)) for end in (front.lower, front.upper))
    if front.cuts:
        value = builder.scale(builder.activation(Relu(), builder.scale(value, None, -low)), None, low)
        turned = builder.scale(value, -torch.ones(()), high)
        value = builder.scale(builder.activation(Relu(), turned), -torch.ones(()), high)
    given = builder.reshape(value, model.input_shape)
    builder.label = "model"
    result = _copied(builder, model.network, given, model.output_shape)
    return Behind(
        fold(builder.network(builder.output(result))),
        _Fronted(front, model),
        "X",
        model.output_name,
        (inputs,),
        model.output_shape,
        model.element_type,
        model.operators,
        model.opset,
        front,
        model,
        notes=model.notes,
        export=model.export,
    )


def in_a_row(model: LoadedModel, length: int) -> Network:
    """The network of a model that is run so many times in a row, on its own outputs."""
    builder = Builder(model.input_shape, "inputs")
    value = builder.input
    for number in range(length):
        builder.label = f"step {number + 1}"
        given = builder.reshape(value, model.input_shape)
        value = _copied(builder, model.network, given, model.output_shape)
    return fold(builder.network(builder.output(value)))
