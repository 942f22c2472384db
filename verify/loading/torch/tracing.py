"""From a torch.nn.Module to the network: traced by torch.fx, lowered, folded."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from verify.errors import ModelError, UnsupportedOperatorError
from verify.loading.builder import Builder
from verify.loading.calls import NO_RULE
from verify.loading.fold import fold as folded
from verify.loading.loaded import TRAINING, LoadedModel
from verify.loading.lowering import Origin, lower
from verify.loading.runner import ModuleRunner
from verify.loading.torch.admission import (
    ELEMENT_TYPES,
    admitted,
    blaming,
    check_arguments,
    check_traceable,
    hangs_on_mode,
)
from verify.network.graph import Network


def from_module(
    module: nn.Module, example_input: Tensor | None, fold: bool, hint: Sequence[int] = ()
) -> LoadedModel:
    """Loads a torch.nn.Module by tracing it with torch.fx. hint: an input's shape, where there is no example; its batch axis may be left out."""
    taken = example_input is None and bool(hint) and isinstance(module, nn.Module)
    original, example, runner = _taken(module, hint) if taken else admitted(module, example_input)
    shape, kind = tuple(example.shape), ELEMENT_TYPES[example.dtype]
    graph_module: fx.GraphModule | None = None
    try:
        graph_module = traced(original)
    except ModelError as problem:
        network, output_shape = _by_capture(original, example, problem)
    if graph_module is not None:
        network, output_shape = _by_trace(graph_module, original, example)
    network = folded(network) if fold else network
    notes = (TRAINING,) if hangs_on_mode(module) else ()
    return LoadedModel(
        network, runner, "input", "output", shape, output_shape, kind, Counter(), None, notes=notes
    )


def _taken(module: nn.Module, hint: Sequence[int]) -> tuple[nn.Module, Tensor, ModuleRunner]:
    """A module with an example of the shape that the property has; where it does not run on that, of as many numbers in a row."""
    shape = tuple(hint) if len(hint) > 1 and hint[0] == 1 else (1, *hint)
    element = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    try:
        return admitted(module, torch.zeros(shape, dtype=element), True)
    except ModelError:
        if len(shape) > 2:
            with suppress(ModelError):
                return admitted(module, torch.zeros(1, prod(shape), dtype=element), True)
        raise


@contextmanager
def _blaming_the_trace() -> Iterator[None]:
    with blaming("torch.fx cannot trace the module", "export it to ONNX instead"):
        yield


def traced(module: nn.Module) -> fx.GraphModule:
    """A module as torch.fx traces it. Raises ModelError."""
    with _blaming_the_trace():
        return fx.symbolic_trace(copy.deepcopy(module))


def _by_trace(
    graph_module: fx.GraphModule, module: nn.Module, example: Tensor
) -> tuple[Network, tuple[int, ...]]:
    """A module that torch.fx has traced; as ONNX has it where there is no rule for something of torch's."""
    with _blaming_the_trace():
        check_arguments(graph_module)
        check_traceable(copy.deepcopy(module), example)
    try:
        origins = _ModuleOrigins(graph_module, example)
        return lower(graph_module.double(), tuple(example.shape), "input", origins)
    except UnsupportedOperatorError as problem:
        if problem.reason != NO_RULE:  # a rule that refuses has its reasons
            raise
        try:
            return _by_export(module, example, problem)
        except ModelError:
            raise problem from None


def _by_capture(module: nn.Module, example: Tensor, problem: ModelError) -> tuple[Network, tuple[int, ...]]:
    """A module that torch.fx cannot trace, as torch.export has it. Raises `problem` where that fails too."""
    from verify.loading.torch.export import captured  # slow to import, and seldom needed

    program = captured(module, example)
    if program is None:
        raise problem
    return _by_export(program, example, problem)


def _by_export(
    module: nn.Module, example_input: Tensor, problem: ModelError
) -> tuple[Network, tuple[int, ...]]:
    """A module as ONNX has it. Raises `problem` where it cannot be exported, and ModelError."""
    from verify.loading.onnx.graph import Graph  # both are slow to import, and seldom needed
    from verify.loading.torch.export import exported

    model = exported(module, example_input)
    if model is None:
        raise problem
    builder = Builder(tuple(example_input.shape), "input")
    result = Graph(model).at(builder, [builder.input]).value(model.only()[1].name)
    return builder.network(builder.output(result)), result.shape


class _ModuleOrigins(fx.Interpreter):
    """Names of a traced module's nodes, and the element types that they have at an example."""

    def __init__(self, graph_module: fx.GraphModule, example: Tensor) -> None:
        super().__init__(graph_module)
        self._elements: dict[fx.Node, torch.dtype] = {}
        with (
            blaming("the module cannot be run at the example_input", "give one that it is for"),
            torch.no_grad(),
        ):
            self.run(example)

    def run_node(self, n: fx.Node) -> Any:
        """Runs a node as torch does, and remembers the type of what comes out."""
        result = super().run_node(n)
        first = result[0] if isinstance(result, tuple | list) and result else result
        if isinstance(first, Tensor):
            self._elements[n] = first.dtype
        return result

    def __call__(self, node: fx.Node) -> Origin:
        target = (
            node.target
            if isinstance(node.target, str)
            else getattr(node.target, "__name__", str(node.target))
        )
        operator = target
        if node.op == "call_module":
            operator = type(self.module.get_submodule(target)).__name__
        return Origin(node.name, node.name, operator, element=self._elements.get(node))
