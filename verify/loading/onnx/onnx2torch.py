"""Imports onnx2torch without torchvision.

onnx2torch imports torchvision at import, for two operators of object detection (NonMaxSuppression, RoiAlign)
that have no rule here; that costs 2 s of CPU time, as much as a tiny network takes from start to end. So
stand-ins for torchvision are in place while onnx2torch is imported, and gone afterwards: their functions
import the real one when they are called. (`importlib.util.LazyLoader` is no help: onnx2torch says `from
torchvision.ops import roi_align`, which loads it.)
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _StandIn(ModuleType):
    """A module whose functions import the real module when called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return getattr(importlib.import_module(self.__name__), name)(*args, **kwargs)

        return call


def import_onnx2torch() -> ModuleType:
    """The module onnx2torch."""
    if "onnx2torch" in sys.modules or "torchvision" in sys.modules:
        return importlib.import_module("onnx2torch")
    package, ops = _StandIn("torchvision"), _StandIn("torchvision.ops")
    vars(package)["ops"] = ops
    stand_ins = {module.__name__: module for module in (package, ops)}
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module("onnx2torch")
    finally:
        for name in stand_ins:
            del sys.modules[name]
