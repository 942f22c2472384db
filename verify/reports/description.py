"""What a model is made of and what a property asks, for `verify info`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from verify.loading import load
from verify.loading.nnet import UNITS
from verify.loading.onnx.model import nnet
from verify.network.activations import Activation
from verify.problem import prepare
from verify.validation import is_nnet


def describe(model: Path, property_: Path | None, output: str | None = None) -> dict[str, Any]:
    """Shapes, layers, operators, parameters; with a property also its clauses. Raises InputError."""
    problem = None if property_ is None else prepare(model, property_, output=output)
    loaded = load(model, output=output) if problem is None else problem.model
    network = loaded.network
    nodes = [
        {
            "name": node.name, "operator": type(node.operator).__name__, "shape": list(node.shape),
            "activation": isinstance(node.operator, Activation), "operands": list(node.operands),
        }
        for node in network.nodes[1:]
    ]  # fmt: skip
    record: dict[str, Any] = {
        "model": str(model), "opset": loaded.opset, "element_type": loaded.element_type,
        "input": {"name": loaded.input_name, "shape": list(loaded.input_shape)},
        "output": {"name": loaded.output_name, "shape": list(loaded.output_shape)},
        "parameters": network.weights, "neurons": network.variables - network.inputs,
        "onnx_operators": dict(sorted(loaded.operators.items())), "nodes": nodes,
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


def render(record: dict[str, Any]) -> str:
    """The description as text."""
    put_in, put_out = record["input"], record["output"]
    operators = ", ".join(f"{name} {count}" for name, count in record["onnx_operators"].items())
    lines = [
        f"model       {record['model']}",
        f"opset       {record['opset']}",
        f"input       {put_in['name']} {record['element_type']} {put_in['shape']}",
        f"output      {put_out['name']} {record['element_type']} {put_out['shape']}",
        f"parameters  {record['parameters']}",
        f"neurons     {record['neurons']}",
        f"operators   {operators}",
        *([f"units       {record['units']}"] if "units" in record else []),
        "",
        *(f"{i:4d}  {n['operator']:14s} {n['shape']!s:20s} from {n['operands']}  {n['name']}" for i, n in
          enumerate(record["nodes"], start=1)),
    ]  # fmt: skip
    if "property" in record:
        asked = record["property"]
        lines += [
            "",
            f"property    {asked['file']}",
            f"clauses     {asked['clauses']} over {asked['boxes']} boxes, at most {asked['rows']} rows",
            f"free inputs {asked['free_inputs']}",
        ]
    return "\n".join(lines)
