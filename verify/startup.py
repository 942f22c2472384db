"""A leaner start of the command: ONNX Runtime's process starts while torch is imported, and torch without what it does not need.

`import torch` registers thousands of decompositions for "meta" tensors, a quarter of its time, and `import torch.onnx` (which
onnx2torch asks for) operators for exporters, looking into their sources; both are of no use to the command. Only the command
does this: in a program that uses the Python API, torch is that program's own.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from types import ModuleType

from verify.checker.runtime import limit_memory, start
from verify.memory import budget, choose

_LEFT_OUT = ("torch._meta_registrations", "torch.onnx.ops")
_TRIED = ("2.14.",)  # versions of torch that this is known to work with; others are imported whole


def import_torch(memory: int | None = None) -> None:
    """Imports torch, unless that has been done; a later import of what is left out finds the real thing.

    memory: the budget of the process and of ONNX Runtime's, in bytes.
    """
    choose(memory)
    limit_memory(budget().of_runtime)
    start()
    if "torch" in sys.modules or not version("torch").startswith(_TRIED):
        return
    sys.modules.update((name, ModuleType(name)) for name in _LEFT_OUT)
    try:
        import torch.onnx
    finally:
        for name in _LEFT_OUT:
            del sys.modules[name]
    for owner, name in ((torch, "_meta_registrations"), (torch.onnx, "ops")):
        vars(owner).pop(name, None)
