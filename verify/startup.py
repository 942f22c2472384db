"""A leaner start of the command: ONNX Runtime's process starts while torch is imported, without its kernels for tensors that hold no
data.

`import torch` registers thousands of decompositions for "meta" tensors, which is a quarter of its time and of no use to the
command. Only the command does this: in a program that uses the Python API, torch is that program's own.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from types import ModuleType

from verify.checker.runtime import limit_memory, start
from verify.memory import budget, choose

_REGISTRATIONS = "torch._meta_registrations"
_TRIED = ("2.14.",)  # versions of torch that this is known to work with; others are imported whole


def import_torch(memory: int | None = None) -> None:
    """Imports torch, unless that has been done; a later import of the registrations finds the real ones.

    memory: the budget of the process and of ONNX Runtime's, in bytes.
    """
    choose(memory)
    limit_memory(budget().of_runtime)
    start()
    if "torch" in sys.modules or not version("torch").startswith(_TRIED):
        return
    sys.modules[_REGISTRATIONS] = ModuleType(_REGISTRATIONS)
    try:
        import torch
    finally:
        del sys.modules[_REGISTRATIONS]
    vars(torch).pop("_meta_registrations", None)
