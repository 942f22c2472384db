"""What ONNX Runtime computes at a witness, of the files as they are: each network of a query in a session of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from verify.checker.onnx_model import Model
from verify.checker.query2 import Interface
from verify.checker.query2_networks import HIDDEN, INPUT, OUTPUT
from verify.checker.runtime import Session

Array = NDArray[Any]


def outputs_at(model: bytes, inputs: Sequence[Array], names: Sequence[str] = ()) -> list[Array]:
    """The model's outputs of these names at flat inputs in order; the first one without names. Raises Trouble."""
    session = Session(model)
    fed = {}
    for (name, _, told), x in zip(session.inputs, inputs, strict=True):
        shape = [size if isinstance(size, int) else 1 for size in told]
        fed[name] = x.reshape(1, *shape)
    return session.run(list(names) or [session.outputs[0][0]], fed)


def run_joint(interface: Interface, contents: Mapping[str, bytes], x: Array) -> list[float]:
    """The outputs of all networks at joint inputs, then all hidden variables. Raises Trouble.

    Outputs come from the model as it is, hidden variables from another session of the same.
    """
    outputs, hidden, first = list[Array](), list[Array](), 0
    for network in interface.networks:
        data, given = contents[network.equal_to or network.name], []
        model = Model(data)
        for variable, kind in zip(network.of(INPUT), model.kinds, strict=True):
            places = list(interface.input_of[first : first + variable.size])
            given.append(x[places].astype(kind))
            first += variable.size
        outputs += outputs_at(data, given, model.outputs[: len(network.of(OUTPUT))])
        names = [model.tensor_name(variable.onnx) for variable in network.of(HIDDEN)]
        if names:
            hidden += outputs_at(model.with_outputs(names), given, names)
    return [float(value) for array in (*outputs, *hidden) for value in array.ravel().tolist()]
