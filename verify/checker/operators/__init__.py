"""The operators that the checker understands, a file for each family: importing this package registers them all."""

from pkgutil import iter_modules

from verify.checker.onnx_register import CONSTANTS, RULES, facts_of

__all__ = ["CONSTANTS", "RULES", "facts_of"]

__import__("verify.checker.operators", fromlist=sorted(found.name for found in iter_modules(__path__)))
