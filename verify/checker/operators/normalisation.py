"""Normalisation by numbers of the model."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from verify.checker.builder import fractions, real, scaling, square_root
from verify.checker.errors import Refused
from verify.checker.onnx_call import Call, Result
from verify.checker.onnx_register import rule

ROOT_SLACK = 2.0**-189


@rule("BatchNormalization")
def normalise(call: Call) -> Result:
    """BatchNormalization: (x - mean) * gamma / sqrt(variance + epsilon) + beta, along axis 1."""
    call.only("training_mode", 0)
    call.only("spatial", 1)
    call.attribute("momentum")
    epsilon = Fraction(call.attribute("epsilon", float(np.float32(1e-5))))
    gamma, beta, mean, variance = (real(call.needed(place)) for place in range(1, 5))
    if {gamma.shape, beta.shape, mean.shape, variance.shape} != {call.x.shape[1:2]}:
        raise Refused("the weights are not one number for each channel")
    factors = []
    for weight, spread in zip(fractions(gamma), fractions(variance) + epsilon, strict=True):
        factors.append(weight * square_root(1 / spread))
    along = (-1, *(1,) * (len(call.x.shape) - 2))
    x, shape = call.builder.scale(call.x, np.ones(()), -mean.reshape(along)), call.x.shape
    scale = scaling(np.array(factors, dtype=object).reshape(along), shape, 8, ROOT_SLACK)
    return call.builder.affine([(scale, x)], shape, beta.reshape(along))
