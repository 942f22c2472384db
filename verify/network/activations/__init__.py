"""All activations: a class in a file of this folder is registered by being there."""

from importlib import import_module
from inspect import isabstract
from pkgutil import iter_modules
from typing import Any

from verify.network.activations.base import Activation, Hull, LinearRelaxation

__all__ = ["ACTIVATIONS", "Activation", "Hull", "LinearRelaxation"]


def _kinds() -> dict[str, type[Activation]]:
    modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
    classes = {
        one.__name__: one for module in modules for one in vars(module).values() if isinstance(one, type)
    }
    known = [
        one for one in classes.values() if issubclass(one, Activation) and one.listed and not isabstract(one)
    ]
    return {kind.name: kind for kind in sorted(known, key=lambda kind: kind.__name__)}


ACTIVATIONS = _kinds()


def __getattr__(name: str) -> Any:
    """An activation's class by its name."""
    found = next((kind for kind in ACTIVATIONS.values() if kind.__name__ == name), None)
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return found
