"""torch.nn modules as ONNX models, by torch's own exporters: for what torch.fx cannot trace, or there are rules of ONNX's operators only.

The exporter runs a module once and writes down what it does, so a path through the code that depends on values would be
fixed unseen. Modules come here that torch.fx has traced, where no such path is in their own code; of torch's, which torch.fx
takes as they are, warnings of the exporter that a value has been fixed are about shapes. Where torch.fx fails (Python code may
ask for shapes, take tensors apart, ..), torch.export writes down what a module does with tensors that have no values, so it fails where a path
depends on some; its graph goes to the exporter.
"""

from __future__ import annotations

import copy
import logging
import operator
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from verify.errors import ModelError
from verify.loading.onnx.model import OnnxModel, read
from verify.loading.torch.admission import same_operations

_OPSET = 17  # the newest that torch's older exporter knows well; the newer one needs another package


def exported(module: nn.Module, example_input: Tensor) -> OnnxModel | None:
    """The module as an ONNX model of the example's shape, its constants as they are; None where torch cannot export it."""
    try:
        return read(content(module, example_input))
    except Exception:  # the exporter raises whatever it likes
        return None


def content(module: nn.Module, example_input: Tensor) -> bytes:
    """The module as an ONNX file of the example's shape. Raises ModelError where a value would be fixed in it, and whatever the exporter likes."""
    file = BytesIO()
    settings: dict[str, Any] = {
        "f": file,
        "dynamo": False,
        "opset_version": _OPSET,
        "do_constant_folding": False,
        "input_names": ["input"],
        "output_names": ["output"],
    }
    with _quiet(), warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        torch.onnx.export(module, (example_input,), **settings)
    if any(map(_fixes_a_value, given)):
        raise ModelError("the exporter would fix a value that depends on the input")
    return file.getvalue()


def captured(module: nn.Module, example_input: Tensor) -> nn.Module | None:
    """What a module does with an input of the example's shape, by torch.export; None where it depends on values, or on who asks."""
    try:
        with _silent(), torch.no_grad():
            exported = torch.export.export(copy.deepcopy(module), (example_input,), strict=False)
            program = exported.module()
            plain = all(map(_is_plain, exported.graph.nodes))
            if not plain or not same_operations(program, copy.deepcopy(module), example_input):
                return None
            return _Captured(program)
    except Exception:  # it raises whatever it likes
        return None


class _Captured(nn.Module):
    """An exported program, which is no part of this module: it cannot be put into another mode, as the exporter wants to."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        program.requires_grad_(False)
        self._program = (program,)

    def forward(self, x: Tensor) -> Any:
        """What the program gives."""
        return self._program[0](x)


def _is_plain(node: fx.Node) -> bool:
    """Whether a node takes and gives tensors, whose entries Python never sees."""
    if node.op != "call_function" or node.target is operator.getitem:
        return True
    return isinstance(node.target, torch._ops.OpOverload) and node.target.name() != "aten::item"


def _fixes_a_value(warning: warnings.WarningMessage) -> bool:
    own = Path(warning.filename).is_relative_to(Path(torch.__file__).parent)
    return warning.category.__name__ == "TracerWarning" and not own


@contextmanager
def _silent() -> Iterator[None]:
    """Without what torch.export writes where it fails."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the graph that the exporter prints where it fails, whatever it is told."""
    log = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log
