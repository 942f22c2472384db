"""The networks that a query declares and the models that are given for them: what must fit, and how each runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from verify.errors import ModelError
from verify.formats.vnnlib2 import INITIALIZED, ISOMORPHIC, REAL, Declaration, Query, Variable
from verify.loading.guard import IN_MEMORY, reading
from verify.loading.onnx.graph import Graph
from verify.loading.onnx.model import ELEMENT_TYPES, OnnxModel, read
from verify.loading.onnx.shapes import Tensor, fixed
from verify.loading.runner import OnnxSession
from verify.network.affine import Shape

if TYPE_CHECKING:
    from verify.loading.loaded import Source


@dataclass(frozen=True)
class Part:
    """A declared network and its model, ready to run."""

    declaration: Declaration
    model: OnnxModel
    graph: Graph
    shapes: tuple[Shape, ...]  # of the model's inputs
    session: OnnxSession
    within: OnnxSession | None  # the same model, for hidden tensors
    places: tuple[NDArray[np.int64], ...]  # of each input's elements among the joint inputs
    given: Mapping[str, NDArray[Any]]  # of each initialized input: its tensor's name and value

    def run(self, samples: NDArray[Any]) -> tuple[list[NDArray[Any]], ...]:
        """Outputs, hidden tensors and initialized inputs at joint inputs, [batch, inputs], each [batch, ..] in the model's
        own shape and type."""
        inputs = [samples[:, places] for places in self.places]
        given = [np.broadcast_to(value, (len(samples), *value.shape)) for value in self.given.values()]
        return self.session(inputs), [] if self.within is None else self.within(inputs), given

    @property
    def as_written(self) -> Part:
        """With the model as its file says, where ONNX Runtime may compute otherwise."""
        if not self.model.quantised:
            return self
        names = [tensor.name for tensor in self.model.outputs]
        session = OnnxSession(self.model.original, self.session.inputs, names, as_written=True)
        return replace(self, session=session, within=_within(self, as_written=True))


def check_names(query: Query, models: Mapping[str, Source]) -> None:
    """Raises ModelError where a model is missing, surplus, or not of ONNX."""
    source = query.property.source
    missing = [name for name in query.implemented if name not in models]
    surplus = [name for name in models if name not in query.implemented]
    if missing:
        raise ModelError(f"{source}: no model is given for the network {', '.join(missing)}")
    if surplus:
        names = ", ".join(query.implemented)
        raise ModelError(f"{source}: models are needed of {names} alone, not of {', '.join(surplus)}")
    for name, model in models.items():
        if not isinstance(model, str | Path | bytes | onnx.ModelProto):
            raise ModelError(
                f"{source}: the model of {name} is a {type(model).__name__}; queries are of ONNX models"
            )


def matched_parts(query: Query, models: Mapping[str, Source]) -> list[Part]:
    """Every network with its model. Raises ModelError where they do not fit."""
    owned: dict[str, Part] = {}  # by the network that a model is given for
    parts: list[Part] = []
    first = 0
    for network in query.networks:
        places = []
        for variable in network.inputs:
            places.append(query.input_of[first : first + variable.size])
            first += variable.size
        name = network.name if network.name in models else network.target
        if name in owned:
            model = owned[name].model
            _matched(network, model)
            part = replace(
                owned[name], declaration=network, places=tuple(places), given=_given(network, model)
            )
        else:
            with reading(_name(models[name])):
                part = owned[name] = _part(network, models[name], tuple(places))
        parts.append(replace(part, within=_within(part)))
    return parts


def _name(model: Source) -> str:
    return str(model) if isinstance(model, str | Path) else IN_MEMORY


def _part(network: Declaration, source: Source, places: tuple[NDArray[np.int64], ...]) -> Part:
    model = read(source)
    given = _given(network, model)
    if not model.inputs:
        raise ModelError(f"{model.name}: the file gives all its inputs values, so there is nothing to vary")
    shapes = _matched(network, model)
    model.fix(shapes)
    inputs = [(t.name, shape, t.element_type) for t, shape in zip(model.inputs, shapes, strict=True)]
    session = OnnxSession(model.original, inputs, [tensor.name for tensor in model.outputs])
    session.check_types({tensor.name: tensor.element_type for tensor in model.outputs})
    return Part(network, model, Graph(model), shapes, session, None, places, given)


def _matched(network: Declaration, model: OnnxModel) -> tuple[Shape, ...]:
    """The shapes of a model's inputs. Raises ModelError where it is not what the query declares."""
    for kind, declared, found in (
        ("inputs", network.inputs, model.inputs),
        ("outputs", network.outputs, model.outputs),
    ):
        if len(declared) != len(found):
            raise ModelError(
                f"{model.name}: it has {len(found)} {kind}, the network {network.name} of the query {len(declared)}"
            )
        for variable, tensor in zip(declared, found, strict=True):
            model.check_typed(tensor)
            check_type(network, variable, tensor.element_type, model, tensor.name)
    return tuple(_shape(v, t, model) for v, t in zip(network.inputs, model.inputs, strict=True))


def _given(network: Declaration, model: OnnxModel) -> dict[str, NDArray[Any]]:
    """The tensors of a network's initialized inputs, by their names; all inputs of the file are matched by order."""
    if not network.given:
        return {}
    declared = [(variable, variable.kind == INITIALIZED) for variable in network.all_inputs]
    if [is_given for _, is_given in declared] != [is_given for _, is_given in model.given]:
        found = ", ".join(f"{name} {'with' if own else 'without'} a value" for name, own in model.given)
        raise ModelError(
            f"{model.name}: the network {network.name} of the query declares {len(declared)} inputs, initialized are "
            f"{', '.join(variable.name for variable in network.given)}; the file's inputs are, in order, {found}"
        )
    values = {tensor.name: tensor for tensor in model.proto.graph.initializer}
    tensors = {}
    for (variable, is_given), (name, _) in zip(declared, model.given, strict=True):
        if is_given:
            value = numpy_helper.to_array(values[name])
            check_type(network, variable, value.dtype.name, model, name)
            check_shape(variable, value.shape, model, name)
            tensors[name] = value
    return tensors


def check_type(network: Declaration, variable: Variable, found: str, model: OnnxModel, name: str) -> None:
    """Element types must be the declared ones, if those are not real."""
    if variable.element_type in (found, REAL):
        return
    remedy = "declare its own type, or real"
    if network.relation == ISOMORPHIC:
        remedy = (
            f"the network {network.name} may be isomorphic to {network.target} in another type, but then the file that is "
            f"given for it must be in that type: give such a file, or declare {found}, or all variables real"
        )
    raise ModelError(
        f"{model.name}: {name!r} is {found}, but the query declares {variable.name} as {variable.element_type}; {remedy}"
    )


def _shape(variable: Variable, tensor: Tensor, model: OnnxModel) -> Shape:
    """An input's shape: unknown sizes are those that the query declares."""
    shape = tensor.shape or ()
    if len(shape) == len(variable.shape):
        shape = tuple(mine or given for mine, given in zip(shape, variable.shape, strict=True))
    check_shape(variable, fixed(shape), model, tensor.name)
    return fixed(shape)


def check_shape(variable: Variable, shape: Shape, model: OnnxModel, name: str) -> None:
    """Shapes may differ by axes of length 1: elements are in the same order."""
    if [size for size in shape if size != 1] != [size for size in variable.shape if size != 1]:
        raise ModelError(
            f"{model.name}: {name!r} has shape {list(shape)}, but the query declares {variable.name} as "
            f"{list(variable.shape)}"
        )


def _within(part: Part, as_written: bool = False) -> OnnxSession | None:
    """A session of the model for the network's hidden tensors, if there are any."""
    if not part.declaration.hidden:
        return None
    names = [tensor_name(part.model, variable.tensor) for variable in part.declaration.hidden]
    proto = onnx.load_model_from_string(part.model.original)
    known = {value.name for value in proto.graph.output}
    wanted = [name for name in dict.fromkeys(names) if name not in known]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    return OnnxSession(proto.SerializeToString(), part.session.inputs, names, as_written)


def tensor_name(model: OnnxModel, name: str) -> str:
    """The tensor of that name, or the only output of the node of that name. Raises ModelError."""
    graph = model.proto.graph
    known = {value.name for value in (*graph.input, *graph.initializer)}
    if name in known or any(name in node.output for node in graph.node):
        return name
    named = [node for node in graph.node if node.name == name and len(node.output) == 1]
    if len(named) != 1:
        raise ModelError(f"{model.name}: there is no tensor {name!r} in the model")
    return str(named[0].output[0])


def input_types(query: Query, parts: Sequence[Part]) -> tuple[str, ...]:
    """The element type of each joint input: the narrowest of those that it stands for."""
    types = ["float64"] * (int(query.input_of.max(initial=0)) + 1)
    for part in parts:
        for tensor, places in zip(part.model.inputs, part.places, strict=True):
            for place in places.tolist() if tensor.element_type == "float32" else ():
                types[place] = "float32"
    assert set(types) <= set(ELEMENT_TYPES)
    return tuple(types)


def tensor_types(query: Query, parts: Sequence[Part], sample: NDArray[Any]) -> dict[str, str]:
    """The element type of every variable, by the models; those of hidden ones are found out by running."""
    types: dict[str, str] = {}
    for part in parts:
        for variable, tensor in zip(part.declaration.inputs, part.model.inputs, strict=True):
            types[variable.name] = tensor.element_type
        arrays = [array for group in part.run(sample[None]) for array in group]
        declared = (*part.declaration.outputs, *part.declaration.hidden, *part.declaration.given)
        for variable, array in zip(declared, arrays, strict=True):
            name = variable.tensor or variable.name
            check_type(part.declaration, variable, array.dtype.name, part.model, name)
            check_shape(variable, array.shape[1:], part.model, name)
            types[variable.name] = array.dtype.name
    return types
