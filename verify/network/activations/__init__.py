"""The registry of activations: one line each."""

from verify.network.activations.base import Activation, Hull, Line
from verify.network.activations.piecewise import Abs, Clip, LeakyRelu
from verify.network.activations.product import Product
from verify.network.activations.reciprocal import Reciprocal
from verify.network.activations.relu import Relu
from verify.network.activations.s_shaped import Sigmoid, Tanh
from verify.network.activations.square import Square

ACTIVATIONS: dict[str, type[Activation]] = {
    kind.name: kind
    for kind in (Abs, Clip, LeakyRelu, Product, Reciprocal, Relu, Sigmoid, Square, Tanh)
}  # fmt: skip

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Hull",
    "Line",
    *sorted(kind.__name__ for kind in ACTIVATIONS.values()),
]
