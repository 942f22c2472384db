"""A torch.nn.Module as an ONNX file, which a certificate can be of: exported, read as any such file is, and compared with the module."""

from __future__ import annotations

from dataclasses import replace
from textwrap import shorten

import torch
from torch import Tensor, nn

from verify.errors import ModelError
from verify.loading.comparison import Box, check_agreement
from verify.loading.loaded import Export, LoadedModel
from verify.loading.onnx.graph import from_onnx
from verify.loading.torch.admission import admitted, blaming
from verify.loading.torch.export import captured, content
from verify.loading.torch.tracing import traced

_LONGEST_NAME = 60


def from_export(module: nn.Module, own: LoadedModel, fold: bool, box: Box | None) -> LoadedModel:
    """A module that was read as it is (`own`), as torch exports it: its network is the file's, and its runtime torch.

    Raises ModelError where torch cannot export it, or the file is of another function.
    """
    original, example, runner = admitted(
        module, torch.zeros(own.input_shape, dtype=getattr(torch, own.element_type))
    )
    with blaming(
        "torch cannot export the module as an ONNX file, which a certificate would be of",
        "leave the certificate out, or export the module yourself and give the file",
    ):
        data = content(_program(original, example), example)
    try:
        loaded = from_onnx(data, fold)
        check_agreement(loaded, box)
        loaded = replace(loaded, runner=runner, notes=own.notes)
        compared = check_agreement(loaded, box)
    except ModelError as error:
        raise ModelError(f"the ONNX file that torch exports is no reading of the module ({error})") from error
    name = shorten(type(module).__name__, _LONGEST_NAME)
    return replace(loaded, export=Export(name, data, compared.inputs, compared.difference))


def _program(module: nn.Module, example: Tensor) -> nn.Module:
    """What goes to the exporter: the module, or where torch.fx cannot trace it what torch.export writes down of it."""
    try:
        traced(module)
    except ModelError as problem:
        program = captured(module, example)
        if program is None:
            raise problem
        return program
    return module
