"""What a model is made of and what a property asks, for `verify info`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from verify.loading import load
from verify.loading.nnet import UNITS
from verify.loading.onnx.became import onnx_nodes
from verify.loading.onnx.model import nnet, read
from verify.network.activations import Activation
from verify.network.graph import Network
from verify.problem import prepare
from verify.validation import is_nnet


def describe(model: Path, property_: Path | None, output: str | None = None) -> dict[str, Any]:
    """Shapes, operators, parameters, the file's nodes and the network's; with a property also its clauses. Raises InputError."""
    problem = None if property_ is None else prepare(model, property_, output=output)
    loaded = load(model, output=output) if problem is None else problem.model
    network, file = loaded.network, read(model)
    wanted = [value.name for value in file.outputs] if loaded.of_query else [loaded.output_name]
    record: dict[str, Any] = {
        "model": str(model), "opset": loaded.opset, "element_type": loaded.element_type,
        "input": {"name": loaded.input_name, "shape": list(loaded.input_shape)},
        "output": {"name": loaded.output_name, "shape": list(loaded.output_shape)},
        "parameters": network.weights, "neurons": network.variables - network.inputs,
        "activations": _activations(network),
        "onnx_operators": dict(sorted(loaded.operators.items())),
        "onnx_nodes": onnx_nodes(file, network, wanted), "nodes": _nodes(network),
    }  # fmt: skip
    if is_nnet(model):
        network_file = nnet(model)
        record["units"] = UNITS
        record["normalisation"] = {
            name: getattr(network_file, name).tolist() for name in ("lower", "upper", "means", "ranges")
        }
    if problem is not None:
        record["property"] = {
            "file": str(property_), "clauses": problem.clauses, "boxes": len(np.unique(problem.box_of)),
            "rows": problem.rows, "free_inputs": problem.free_inputs if problem.clauses else 0,
        }  # fmt: skip
    return record


def _nodes(network: Network) -> list[dict[str, Any]]:
    """The nodes of the network but its input."""
    return [
        {
            "name": node.name, "operator": type(node.operator).__name__, "shape": list(node.shape),
            "activation": isinstance(node.operator, Activation), "operands": list(node.operands),
        }
        for node in network.nodes[1:]
    ]  # fmt: skip


def _activations(network: Network) -> dict[str, int]:
    """How many neurons there are of each kind."""
    found = Counter[str]()
    for layer in network.layers:
        found[type(layer.activation).__name__] += layer.size
    return dict(found)


def render(record: dict[str, Any]) -> str:
    """The description as text: a summary, then a row for each node of the file."""
    put_in, put_out = record["input"], record["output"]
    listed = {
        key: ", ".join(f"{name} {count}" for name, count in record[key].items()) or "none"
        for key in ("onnx_operators", "activations")
    }
    lines = [
        f"model       {record['model']}",
        f"opset       {record['opset']}",
        f"input       {put_in['name']} {record['element_type']} {put_in['shape']}",
        f"output      {put_out['name']} {record['element_type']} {put_out['shape']}",
        f"parameters  {record['parameters']}",
        f"neurons     {record['neurons']} ({listed['activations']})",
        f"operators   {listed['onnx_operators']}",
        f"nodes       {len(record['onnx_nodes'])} of the file, {len(record['nodes'])} of the network that is bounded",
        *([f"units       {record['units']}"] if "units" in record else []),
    ]
    if "property" in record:
        asked = record["property"]
        lines += [
            "",
            f"property    {asked['file']}",
            f"clauses     {asked['clauses']} over {asked['boxes']} boxes, at most {asked['rows']} rows",
            f"free inputs {asked['free_inputs']}",
        ]
    return "\n".join([*lines, "", *_rows(record["onnx_nodes"])])


def _rows(nodes: list[dict[str, Any]]) -> list[str]:
    """A line for each node of the file: its operator, the tensor that it computes, and what became of it."""
    widths = [min(40, max((len(node[key]) for node in nodes), default=0)) for key in ("operator", "name")]
    return [
        f"{i:4d}  {node['operator']:{widths[0]}s}  {node['name']:{widths[1]}s}  {_told(node)}"
        for i, node in enumerate(nodes, start=1)
    ]


def _told(node: Mapping[str, Any]) -> str:
    """What became of a node, in words."""
    if "read_as" not in node:
        return f"-> {node['folded']}" if "folded" in node else f"({node['nothing']})"
    operators = ", ".join(
        name if count == 1 else f"{count} {name}" for name, count in node["read_as"].items()
    )
    numbers = (f", {node[what]} {what}" for what in ("weights", "neurons") if node[what])
    return f"{operators} {node['shape']}{''.join(numbers)}"
