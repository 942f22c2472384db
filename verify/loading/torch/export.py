"""torch.nn modules as ONNX models, by torch's own exporter: for what there are rules of ONNX's operators only.

The exporter runs a module once and writes down what it does, so a path through the code that depends on values would be
fixed unseen. Modules come here that torch.fx has traced, where no such path is in their own code; of torch's, which torch.fx
takes as they are, warnings of the exporter that a value has been fixed are about shapes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from verify.loading.onnx.model import OnnxModel, read

_OPSET = 17  # the newest that torch's older exporter knows well; the newer one needs another package


def exported(module: nn.Module, example_input: Tensor) -> OnnxModel | None:
    """The module as an ONNX model of the example's shape, its constants as they are; None where torch cannot export it."""
    try:
        with _quiet(), warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("always")
            file = BytesIO()
            settings: dict[str, Any] = {
                "f": file,
                "dynamo": False,
                "opset_version": _OPSET,
                "do_constant_folding": False,
            }
            torch.onnx.export(module, (example_input,), **settings)
            return None if any(map(_fixes_a_value, given)) else read(file.getvalue())
    except Exception:  # it raises whatever it likes
        return None


def _fixes_a_value(warning: warnings.WarningMessage) -> bool:
    own = Path(warning.filename).is_relative_to(Path(torch.__file__).parent)
    return warning.category.__name__ == "TracerWarning" and not own


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the graph that the exporter prints where it fails, whatever it is told."""
    log = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log
