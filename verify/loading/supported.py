"""The ONNX operators that there are rules for, as `verify supports` reports them, from the tables of rules.py."""

from __future__ import annotations

# What onnx2torch makes of the operators that it converts: an operator is supported where its module has a rule.
CONVERTED = {
    "Abs": "OnnxFunction", "Add": "OnnxBinaryMathOperation", "Concat": "OnnxConcat",
    "DepthToSpace": "OnnxDepthToSpace", "Div": "OnnxBinaryMathOperation", "Dropout": "OnnxDropoutDynamic",
    "Expand": "OnnxExpand", "Gather": "OnnxGather", "GatherElements": "OnnxGatherElements", "GatherND": "OnnxGatherND",
    "HardSigmoid": "OnnxHardSigmoid", "Identity": "OnnxCopyIdentity", "LeakyRelu": "LeakyReLU", "MatMul": "OnnxMatMul",
    "Max": "OnnxMinMax", "Mean": "OnnxMean", "Min": "OnnxMinMax", "Mul": "OnnxBinaryMathOperation", "Neg": "OnnxNeg",
    "PRelu": "OnnxPReLU", "Pow": "OnnxPow", "Reciprocal": "OnnxReciprocal", "Relu": "ReLU",
    "Shape": "OnnxShape", "Sigmoid": "Sigmoid", "Squeeze": "OnnxSqueezeStaticAxes", "Sub": "OnnxBinaryMathOperation",
    "Sum": "OnnxSum", "Tanh": "OnnxFunction", "Tile": "OnnxTile", "Transpose": "OnnxTranspose",
    "Unsqueeze": "OnnxUnsqueezeStaticAxes", "Where": "OnnxWhere",
}  # fmt: skip
CONSTANTS = ("Constant", "ConstantOfShape")  # they depend on no input, so they need no rule


def supported_operators() -> list[str]:
    """Names of operators, in order."""
    from verify.loading.rules import MODULES, ONNX, ONNX2TORCH

    modules = {*ONNX2TORCH, *(kind.__name__ for kind in MODULES)}
    return sorted({*ONNX, *CONSTANTS, *(name for name, module in CONVERTED.items() if module in modules)})
