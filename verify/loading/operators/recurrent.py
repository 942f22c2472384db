"""Recurrent layers (RNN, GRU, LSTM), unrolled: a network's sequences have one length.

An ONNX operator's weights hold the gates one below the other, for each direction; a step computes them all by one
matrix. A state that is still constant (the first one, usually) stays a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from verify.loading.builder import Builder, Value
from verify.loading.calls import Call, Unsupported, integers, tensor
from verify.loading.operators.arithmetic import add, multiply
from verify.loading.operators.moves import stacked
from verify.loading.registry import onnx
from verify.network.activations.base import Activation
from verify.network.activations.relu import Relu
from verify.network.activations.s_shaped import Sigmoid, Tanh

State = tuple[Any, ...]  # of values or constants [batch, hidden]
Step = Callable[[Builder, Value, Tensor, Tensor, State], State]  # driven by a step's input, weights, a state


_USUAL = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
_NAMED: dict[str, Activation] = {"Tanh": Tanh(), "Sigmoid": Sigmoid(), "Relu": Relu()}
_WAYS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


@onnx("GRU", "LSTM", "RNN")
def recurrent(call: Call) -> Value | tuple[Value, ...]:
    """RNN, GRU and LSTM of ONNX: all states, the last state, and of LSTM the last cell."""
    builder, operator = call.builder, call.module.operator
    ways = _WAYS[_text(call.attributes.get("direction", "forward"))]
    step = _step(call, len(ways))
    ends, tracks = [], []
    for way, (weights, biases, state) in enumerate(_parts(call, len(ways))):
        inner, recurrence = weights
        driven = builder.dense(call.x, inner, biases[0])
        outputs: list[Value] = []
        for time in _times(call.x.shape[0], ways[way]):
            at_time = builder.slice(driven, 0, time, time + 1)
            at_time = builder.reshape(at_time, at_time.shape[1:])
            state = step(builder, at_time, recurrence, biases[1], state)
            outputs.append(state[0])
        ends.append(state)
        tracks.append(stacked(builder, outputs[::-1] if ways[way] else outputs, 0))
    whole = stacked(builder, tracks, 1)  # [time, direction, batch, hidden]
    last = [
        stacked(builder, [end[part] for end in ends], 0) for part in range(2 if operator == "LSTM" else 1)
    ]
    results = (whole, *last)[: call.module.results]
    return results if len(results) > 1 else results[0]


def _times(count: int, backward: bool) -> range:
    return range(count - 1, -1, -1) if backward else range(count)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _parts(call: Call, ways: int) -> Iterator[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], State]]:
    """For each direction its weights, its two biases and its first state."""
    weights, recurrence, bias, lengths = (call.constant(i, name) for i, name in enumerate("bcde", start=1))
    states = [call.argument(i, name) for i, name in enumerate("fg", start=5)]
    if len(call.x.shape) != 3:
        raise Unsupported("an input of other than three axes")
    time, batch, _ = call.x.shape
    if lengths is not None and any(length != time for length in integers(lengths)):
        raise Unsupported("sequences of different lengths")
    if call.constant(7, "h") is not None:
        raise Unsupported("peepholes")
    hidden = recurrence.shape[-1]
    zeros = torch.zeros(ways, batch, hidden, dtype=torch.float64)
    states = [zeros if state is None else state for state in states]
    for way in range(ways):
        gates = weights.shape[1]
        both = torch.zeros(2 * gates, dtype=torch.float64) if bias is None else tensor(bias[way])
        state = tuple(_of_way(call.builder, state, way) for state in states)
        yield (tensor(weights[way]), tensor(recurrence[way])), (both[:gates], both[gates:]), state


def _of_way(builder: Builder, state: Any, way: int) -> Any:
    if not isinstance(state, Value):
        return tensor(state[way])
    return builder.reshape(builder.slice(state, 0, way, way + 1), state.shape[1:])


def _step(call: Call, ways: int) -> Step:
    attributes, operator = call.attributes, call.module.operator
    for name in ("clip", "input_forget", "layout"):
        if attributes.get(name):
            raise Unsupported(f"{name}={attributes[name]}")
    usual = _USUAL[operator] * ways
    named = [_text(name) for name in attributes.get("activations", usual)]
    if operator == "RNN":
        if len(set(named)) > 1 or named[0] not in _NAMED:
            raise Unsupported(f"activations {named}")
        return _simple(_NAMED[named[0]])
    if named != usual:
        raise Unsupported(f"activations {named}")
    if operator == "LSTM":
        return _long_short
    return _gated_after if attributes.get("linear_before_reset", 0) else _gated_before


def _fed_back(builder: Builder, state: Any, weight: Tensor, bias: Tensor) -> Any:
    """`state weight^T + bias`."""
    if isinstance(state, Value):
        return builder.dense(state, weight, bias)
    return state @ weight.mT + bias


def _cut(builder: Builder, x: Any, count: int) -> list[Any]:
    """A step's gates, side by side in the last axis."""
    size = x.shape[-1] // count
    if not isinstance(x, Value):
        return list(x.split(size, dim=-1))
    return [builder.slice(x, len(x.shape) - 1, i * size, (i + 1) * size) for i in range(count)]


def _simple(activation: Activation) -> Step:
    def step(builder: Builder, driven: Value, weight: Tensor, bias: Tensor, state: State) -> State:
        total = add(builder, driven, _fed_back(builder, state[0], weight, bias))
        return builder.activation(activation, total), state[1]

    return step


def _long_short(builder: Builder, driven: Value, weight: Tensor, bias: Tensor, state: State) -> State:
    """`c' = f c + i g`, `h' = o tanh(c')`; ONNX's order of the gates is i, o, f, g."""
    total = add(builder, driven, _fed_back(builder, state[0], weight, bias))
    put, out, forget, new = _cut(builder, total, 4)
    put, out, forget = (builder.activation(Sigmoid(), gate) for gate in (put, out, forget))
    fresh = builder.product(put, builder.activation(Tanh(), new))
    cell = add(builder, fresh, multiply(builder, forget, state[1]))
    return builder.product(out, builder.activation(Tanh(), cell)), cell


def _gated_after(builder: Builder, driven: Value, weight: Tensor, bias: Tensor, state: State) -> State:
    """`n = tanh(x_n + r (h R^T + b))`, `h' = n + z (h - n)`; ONNX's order of the gates is z, r, n."""
    keep, reset, new = _cut(builder, driven, 3)
    back = _cut(builder, _fed_back(builder, state[0], weight, bias), 3)
    keep, reset = (
        builder.activation(Sigmoid(), add(builder, a, b))
        for a, b in zip((keep, reset), back[:2], strict=True)
    )
    new = builder.activation(Tanh(), add(builder, new, multiply(builder, reset, back[2])))
    return _mixed(builder, keep, new, state)


def _gated_before(builder: Builder, driven: Value, weight: Tensor, bias: Tensor, state: State) -> State:
    """`n = tanh(x_n + (r h) R^T + b)`, `h' = n + z (h - n)`."""
    keep, reset, new = _cut(builder, driven, 3)
    weights, biases = weight.chunk(3), bias.chunk(3)
    keep, reset = (
        builder.activation(Sigmoid(), add(builder, gate, _fed_back(builder, state[0], w, b)))
        for gate, w, b in zip((keep, reset), weights[:2], biases[:2], strict=True)
    )
    kept = multiply(builder, reset, state[0])
    new = builder.activation(Tanh(), add(builder, new, _fed_back(builder, kept, weights[2], biases[2])))
    return _mixed(builder, keep, new, state)


def _mixed(builder: Builder, keep: Value, new: Value, state: State) -> State:
    change = add(builder, state[0], new, -1)
    return add(builder, new, builder.product(keep, change)), state[1]
