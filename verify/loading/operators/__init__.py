"""The operators that can be loaded, a file for each family: importing this package registers them all."""

from importlib import import_module
from pkgutil import iter_modules

from verify.loading.registry import OPERATORS, operator_of

__all__ = ["operator_of", "supported_operators"]

for _module in sorted(found.name for found in iter_modules(__path__)):
    import_module(f"{__name__}.{_module}")


def supported_operators() -> list[str]:
    """The ONNX operators that there are rules for, and those that only make constants, in order."""
    return sorted(name for name, known in OPERATORS.items() if known.rule or known.alike)
