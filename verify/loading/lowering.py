"""From a `torch.fx` graph to the network IR: one walk.

Every value of the graph is either a constant (tensor, number, tuple) or a `Value`, a node of the network
under construction. A call whose operands are all constants is executed on the spot, in float64 where it is
floating-point: so shape arithmetic, reshaped weights and the like vanish. Any other call goes to its rule in
operators/. The same walk serves onnx2torch's graphs and traced `torch.nn.Module`s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

import verify.loading.operators  # noqa: F401  # which registers them all
from verify.deadline import OutOfTimeError, tick
from verify.errors import ModelError, UnsupportedOperatorError, VerifyError, is_out_of_memory
from verify.extensions import load_operators
from verify.loading import tables
from verify.loading.builder import Builder, Value
from verify.loading.calls import NO_RULE, Call, Rule, Unsupported, tensor
from verify.loading.integers import check_constants, held, is_integer, of_its_type, reducible, rounded_to
from verify.loading.registry import CONVERTED, GROWTH, TORCH, operator_of
from verify.loading.sizes import check_size
from verify.loading.tables import Table
from verify.network.affine import Shape
from verify.network.graph import Network


@dataclass(frozen=True)
class Origin:
    """Where a graph node comes from, for names and messages."""

    name: str  # of its value
    node: str  # of the operation
    operator: str
    opset: int | None = None
    element: torch.dtype | None = None  # of its value, or the first of them; None where that is not known
    truncates: bool = False  # an operation that would cut its results to integers, had it integers
    narrow: bool = False  # whether an operand or a result is of floats of fewer bits than float32


class Lowered(NamedTuple):
    """A network and the shape of the model's output (the network's own has at least one axis)."""

    network: Network
    output_shape: Shape


def lower(
    graph_module: fx.GraphModule, input_shape: Shape, input_name: str, origin_of: Callable[[fx.Node], Origin]
) -> Lowered:
    """The network of a graph of one input and one result, with float64 parameters."""
    builder = Builder(input_shape, input_name)
    values = walk(builder, graph_module, [builder.input], origin_of)
    found = next((value for node, value in values.items() if node.op == "output"), None)
    result = as_value(builder, found)
    return Lowered(builder.network(builder.output(result)), result.shape)


def walk(
    builder: Builder,
    graph_module: fx.GraphModule,
    inputs: Sequence[Value],
    origin_of: Callable[[fx.Node], Origin],
) -> dict[fx.Node, Any]:
    """The value of every node of a graph, whose parameters are float64, at some inputs."""
    values: dict[fx.Node, Any] = {}
    given = iter(inputs)
    with torch.no_grad():
        for node in graph_module.graph.nodes:
            tick()
            if node.op == "placeholder":
                values[node] = next(given)
            elif node.op == "output":
                values[node] = fx.node.map_arg(node.args[0], values.__getitem__)
            else:
                values[node] = _lower_node(builder, graph_module, node, values, origin_of(node))
    return values


def as_value(builder: Builder, result: Any) -> Value:
    """A result as a value of the network under construction, a constant one if it is a tensor."""
    if isinstance(result, Table):
        try:
            result = tables.as_value(builder, result)
        except Unsupported as refusal:
            raise ModelError(f"the model's result: {refusal}") from None
    if isinstance(result, Tensor):
        try:
            result = builder.constant(tensor(result))
        except Unsupported as refusal:
            raise ModelError(f"the model's result: {refusal}") from None
    if not isinstance(result, Value):
        raise ModelError(f"the model's result is a {type(result).__name__}, not a tensor")
    return result


def _lower_node(
    builder: Builder, owner: nn.Module, node: fx.Node, values: dict[fx.Node, Any], origin: Origin
) -> Any:
    args: Any = fx.node.map_arg(node.args, values.__getitem__)
    kwargs: Any = fx.node.map_arg(node.kwargs, values.__getitem__)
    if node.op == "get_attr":
        return _attribute(owner, str(node.target))
    module = owner.get_submodule(str(node.target)) if node.op == "call_module" else None
    call = Call(builder, _function_of(node, module), args, kwargs, module)
    builder.label, since = origin.name, len(builder.nodes)
    try:
        kinds = {type(part) for part in _leaves((args, kwargs))}
        if Table not in kinds:
            _check_growth(module, args)
        known = operator_of(origin.operator)
        if origin.narrow and not known.keeps:
            raise Unsupported("it computes with floats of fewer bits than float32, which it rounds to")
        if known.static:
            return _rule_of(node, module)(call)
        if Table in kinds:
            table = _tabulated(builder, call, origin)
            if table is not None:
                return table
            call = _mapped(call, Table, lambda table: tables.as_value(builder, table))
            args, kwargs = call.args, call.kwargs
        elif Value not in kinds:
            return _of_constants(call, origin)
        shape = _shape_query(node, args)
        if shape is not None:
            return shape
        rule = _rule_of(node, module)
        if origin.opset is not None and origin.element is None:
            raise Unsupported("the element type of its result is not known")
        if origin.truncates and is_integer(origin.element):
            raise Unsupported("of integers it cuts results to integers")
        if is_integer(origin.element) and args:
            call = replace(
                call, args=[reducible(builder, args[0], origin.operator, origin.element), *args[1:]]
            )
        result = _by_rule(builder, call, rule, origin)
        if isinstance(result, Table):
            return result
        if is_integer(origin.element):
            result = held(builder, result, origin.operator, origin.element, since)
    except (VerifyError, OutOfTimeError):
        raise
    except Unsupported as refusal:
        raise UnsupportedOperatorError(origin.node, origin.operator, origin.opset, str(refusal)) from None
    except Exception as error:  # rules are written for models that make sense
        if is_out_of_memory(error):
            raise
        reason = f"it could not be lowered ({type(error).__name__}: {error})"
        raise UnsupportedOperatorError(origin.node, origin.operator, origin.opset, reason) from error
    if isinstance(result, Value):
        builder.rename(result, origin.name, since)
    return _without_empty(result, origin.element if is_integer(origin.element) else torch.float64)


def _mapped(call: Call, kind: type, change: Callable[[Any], Any]) -> Call:
    """A call with its operands of one kind changed."""

    def changed(leaf: Any) -> Any:
        return change(leaf) if isinstance(leaf, kind) else leaf

    args, kwargs = tables.mapped((list(call.args), dict(call.kwargs)), changed)
    return replace(call, args=args, kwargs=kwargs)


def _by_rule(builder: Builder, call: Call, rule: Rule, origin: Origin) -> Any:
    """What the rule makes of a call; where it has none for such operands, and these are tables, their table."""
    try:
        return rule(call)
    except Unsupported:
        table = _tabulated(builder, call, origin)
        if table is None:
            raise
        return table


def _tabulated(builder: Builder, call: Call, origin: Origin) -> Any:
    """The table of a call whose operands are tables, or may be; None where one may not."""
    values = [leaf for leaf in _leaves((call.args, call.kwargs)) if isinstance(leaf, Value)]
    found: dict[Value, Table | None] = {}
    for value in values:
        found[value] = tables.tabulated(builder, value)
        if found[value] is None:
            return None

    def computed(one: Call) -> Any:
        _check_growth(one.module, one.args)
        return _of_constants(one, origin)

    return tables.applied(_mapped(call, Value, found.__getitem__), computed)


def _without_empty(result: Any, element: torch.dtype) -> Any:
    """A tensor without entries depends on nothing."""
    if isinstance(result, tuple | list):
        return type(result)([_without_empty(part, element) for part in result])
    if isinstance(result, Value) and not result.size:
        return torch.zeros(result.shape, dtype=element)
    return result


def _of_constants(call: Call, origin: Origin) -> Any:
    """The result of an operation on constants alone: floats in float64, integers in their own types."""
    if origin.element is None or is_integer(origin.element):
        check_constants(origin.operator, origin.truncates, list(_leaves((call.args, call.kwargs))))
    result = of_its_type(_in_float64(call.function(*call.args, **call.kwargs)), origin.element)
    if operator_of(origin.operator).casts:
        result = rounded_to(result, origin.element)
    for part in _leaves(result):
        check_size(getattr(part, "shape", ()))
    if any(isinstance(part, Tensor) and bool(part.isnan().any()) for part in _leaves(result)):
        raise Unsupported("what it computes of constants is no number, which libraries treat differently")
    return result


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, tuple | list):
        for part in tree:
            yield from _leaves(part)
    elif isinstance(tree, dict):
        yield from _leaves(list(tree.values()))
    elif isinstance(tree, slice):
        yield from (tree.start, tree.stop, tree.step)
    else:
        yield tree


def _in_float64(result: Any) -> Any:
    if isinstance(result, Tensor):
        return result.double() if result.is_floating_point() else result
    return tuple(_in_float64(part) for part in result) if isinstance(result, tuple | list) else result


def _attribute(owner: Any, path: str) -> Any:
    for name in path.split("."):
        owner = getattr(owner, name)
    return owner.detach() if isinstance(owner, Tensor) else owner


def _function_of(node: fx.Node, module: nn.Module | None) -> Callable[..., Any]:
    if module is not None:
        return module
    if node.op == "call_method":
        name = str(node.target)
        return lambda owner, *args, **kwargs: getattr(owner, name)(*args, **kwargs)
    assert callable(node.target)
    return node.target


def _shape_query(node: fx.Node, args: Any) -> Any:
    """The answer to x.shape, x.size(..), x.dim() of a value, else None."""
    if not isinstance(args[0] if args else None, Value):
        return None
    shape = torch.Size(args[0].shape)
    if node.op == "call_function" and node.target is getattr and args[1] in ("shape", "ndim"):
        return shape if args[1] == "shape" else len(shape)
    if node.op == "call_method" and node.target == "size":
        return shape[args[1]] if len(args) > 1 else shape
    return len(shape) if node.op == "call_method" and node.target == "dim" else None


def _check_growth(module: nn.Module | None, args: Sequence[Any]) -> None:
    """Raises ResourceError where a call of a module would make a tensor of too many entries."""
    grown = GROWTH.get(type(module).__name__)
    if grown is not None:
        check_size([int(size) for size in grown(*args)])


def _rule_of(node: fx.Node, module: nn.Module | None) -> Rule:
    if module is None:
        rule = _of_torch(node.target)
    elif type(module).__name__ == "OnnxOperator":
        known = operator_of(str(module.operator))
        rule = None if known.module else known.rule
    else:
        rule = TORCH.get(type(module)) or CONVERTED.get(type(module).__name__) or _of_torch(type(module))
    if rule is None:
        raise Unsupported(NO_RULE)
    return rule


def _of_torch(called: Any) -> Rule | None:
    """The rule of a function, method or class of torch, of an installed package's if there is none here."""
    if called not in TORCH:
        load_operators()
    return TORCH.get(called)
