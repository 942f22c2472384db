"""Runs the notebooks of `examples/` and keeps what their cells show: ``python -m benchmarks.notebooks``.

A cell is run as Python, and shown as Jupyter shows it: what it prints, and the value of its last expression. So no Jupyter is needed, here and
in the tests, and cells have no magics.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
Notebook = dict[str, Any]


def read(path: Path) -> Notebook:
    """A notebook of version 4."""
    found: Notebook = json.loads(path.read_text(encoding="utf-8"))
    return found


def run(notebook: Notebook) -> Notebook:
    """The same with the outputs of its cells, run in order in one namespace. Raises what a cell raises."""
    with _module() as module:
        number, cells = 0, []
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                number += 1
                cell = {**cell, "execution_count": number, "outputs": _outputs(cell, number, module)}
            cells.append(cell)
    return {**notebook, "cells": cells}


@contextmanager
def _module() -> Iterator[ModuleType]:
    """Where the names of a notebook live, as long as it runs: classes look their module up."""
    module = ModuleType("notebook")
    sys.modules[module.__name__] = module
    try:
        yield module
    finally:
        del sys.modules[module.__name__]


def _outputs(cell: Notebook, number: int, module: ModuleType) -> list[Notebook]:
    """What a cell prints, and the value that it ends with."""
    body = ast.parse("".join(cell["source"])).body
    last = [body.pop()] if body and isinstance(body[-1], ast.Expr) else []
    with redirect_stdout(io.StringIO()) as printed, _displayed() as values:
        exec(compile(ast.Module(body, []), f"cell {number}", "exec"), module.__dict__)
        exec(compile(ast.Interactive(last), f"cell {number}", "single"), module.__dict__)
    outputs: list[Notebook] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": _lines(printed.getvalue())})
    for value in values:
        if value is not None:
            result = {"execution_count": number, "metadata": {}, "data": _shown(value)}
            outputs.append({"output_type": "execute_result", **result})
    return outputs


@contextmanager
def _displayed() -> Iterator[list[Any]]:
    """The values that Python would show at its prompt."""
    values: list[Any] = []
    hook, sys.displayhook = sys.displayhook, values.append
    try:
        yield values
    finally:
        sys.displayhook = hook


def _shown(value: Any) -> Notebook:
    """A value as a page or a picture, where it shows itself so, else as text."""
    data: Notebook = {}
    if hasattr(value, "_repr_html_"):
        data["text/html"] = _lines(value._repr_html_())
    if hasattr(value, "_repr_png_"):
        data["image/png"] = base64.b64encode(value._repr_png_()).decode()
    return data or {"text/plain": _lines(repr(value))}


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def main() -> None:
    """Runs all, in their folder, and writes them."""
    os.chdir(EXAMPLES)
    for path in NOTEBOOKS:
        path.write_text(json.dumps(run(read(path)), indent=1) + "\n", encoding="utf-8")
        print(path.name)


if __name__ == "__main__":
    main()
