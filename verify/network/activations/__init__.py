"""The registry of activations: one line each."""

from verify.network.activations.base import Activation, Hull, LinearRelaxation
from verify.network.activations.convex import Exp, Log, Rsqrt, Softplus, Sqrt
from verify.network.activations.copy import Copy
from verify.network.activations.elu import Elu, HardSwish
from verify.network.activations.gated import Gelu, Swish
from verify.network.activations.periodic import Cos, Sin
from verify.network.activations.piecewise import Abs, Clip, LeakyRelu
from verify.network.activations.power import Power
from verify.network.activations.product import Product
from verify.network.activations.reciprocal import Reciprocal
from verify.network.activations.relu import Relu
from verify.network.activations.s_shaped import Atan, Erf, Sigmoid, Softsign, Tanh
from verify.network.activations.square import Square
from verify.network.activations.steps import Ceil, Floor, Positive, Round, Sign

ACTIVATIONS: dict[str, type[Activation]] = {
    kind.name: kind
    for kind in (
        Abs, Atan, Ceil, Clip, Copy, Cos, Elu, Erf, Exp, Floor, Gelu, HardSwish, LeakyRelu, Log, Positive, Power, Product,
        Reciprocal, Relu, Round, Rsqrt, Sigmoid, Sign, Sin, Softplus, Softsign, Sqrt, Square, Swish, Tanh,
    )
}  # fmt: skip

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Hull",
    "LinearRelaxation",
    *sorted(kind.__name__ for kind in ACTIVATIONS.values()),
]
