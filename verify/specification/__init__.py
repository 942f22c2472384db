"""Properties built in Python; each builder writes VNN-LIB, so there is one way in and the text can be archived.

Everything is checked and copied when a builder is made, and numbers are written as the exact decimals of the floats given. Properties of
one run of the model, linear in its inputs and outputs, are VNN-LIB 1.0; of two runs, or with products, VNN-LIB 2.0.
"""

from verify.specification.balls import L1Ball, L2Ball, LinfBall
from verify.specification.base import Front, PropertyBuilder
from verify.specification.expressions import Always, Never, x, y
from verify.specification.images import Patch
from verify.specification.light import BiasField, Brightness
from verify.specification.ranges import OutputRange
from verify.specification.relations import Fair, Lipschitz, Monotone
from verify.specification.rows import Row, Specification

__all__ = [
    "Always", "BiasField", "Brightness", "Fair", "Front", "L1Ball", "L2Ball", "LinfBall", "Lipschitz", "Monotone", "Never", "OutputRange", "Patch",
    "PropertyBuilder", "Row", "Specification", "x", "y",
]  # fmt: skip
