"""The tables: which rule lowers which module, function, method or ONNX operator. A new operator is a line
here.

`ONNX` is for the operators that reach us as `OnnxOperator` (see operators.py), by ONNX's name; `MODULES` for
torch's modules and onnx2torch's; `FUNCTIONS` and `METHODS` for what torch.fx traces in a torch.nn.Module.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from verify.loading import lower_activations as act
from verify.loading import lower_affine as aff
from verify.loading import lower_choices as choices
from verify.loading import lower_compositions as compositions
from verify.loading import lower_einsum, lower_recurrent, lower_resize
from verify.loading import lower_onnx as onnx_rules
from verify.loading import lower_windows as win
from verify.loading.calls import Rule
from verify.network.activations.base import Activation
from verify.network.activations.convex import Exp, Log, Rsqrt, Softplus, Sqrt
from verify.network.activations.elu import HardSwish
from verify.network.activations.gated import Swish
from verify.network.activations.periodic import Cos, Sin
from verify.network.activations.s_shaped import Atan, Erf, Softsign
from verify.network.activations.steps import Ceil, Floor, Round, Sign

# Activations without settings, by ONNX's name.
PLAIN: dict[str, Rule] = {
    "Atan": act.plain(Atan()),
    "Ceil": act.plain(Ceil()),
    "Cos": act.plain(Cos()),
    "Erf": act.plain(Erf()),
    "Exp": act.plain(Exp()),
    "Floor": act.plain(Floor()),
    "HardSwish": act.plain(HardSwish()),
    "Log": act.plain(Log()),
    "Round": act.plain(Round()),
    "Sign": act.plain(Sign()),
    "Sin": act.plain(Sin()),
    "Softplus": act.plain(Softplus()),
    "Softsign": act.plain(Softsign()),
    "Sqrt": act.plain(Sqrt()),
}

ONNX: dict[str, Rule] = {
    **PLAIN,
    **dict.fromkeys(("And", "Or"), onnx_rules.logical),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), onnx_rules.compare),
    **dict.fromkeys(("LogSoftmax", "Softmax"), onnx_rules.softmax),
    **dict.fromkeys(("ArgMax", "ArgMin"), choices.arg_extremum),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), lower_recurrent.recurrent),
    "Attention": onnx_rules.attention,
    "AveragePool": onnx_rules.average_pool,
    "BatchNormalization": onnx_rules.batch_norm,
    "Cast": aff.cast,
    "Celu": onnx_rules.celu,
    "Clip": onnx_rules.clip,
    "Conv": onnx_rules.convolution,
    "ConvTranspose": onnx_rules.deconvolution,
    "CumSum": onnx_rules.cumulative_sum,
    "Einsum": lower_einsum.onnx_einsum,
    "Elu": onnx_rules.elu,
    "Flatten": aff.reindex,
    "Gelu": onnx_rules.gelu,
    "Gemm": onnx_rules.gemm,
    "GlobalAveragePool": aff.global_average_pool,
    "GlobalMaxPool": onnx_rules.global_max_pool,
    "GroupNormalization": onnx_rules.group_norm,
    "InstanceNormalization": onnx_rules.instance_norm,
    "LayerNormalization": onnx_rules.layer_norm,
    "MaxPool": onnx_rules.max_pool,
    "Mish": compositions.mish,
    "Not": compositions.logical_not,
    "OneHot": choices.one_hot,
    "Pad": onnx_rules.pad,
    "ReduceL1": onnx_rules.reduce,
    "ReduceL2": onnx_rules.reduce,
    "ReduceLogSum": onnx_rules.reduce,
    "ReduceLogSumExp": onnx_rules.reduce,
    "ReduceMax": onnx_rules.reduce,
    "ReduceMean": onnx_rules.reduce,
    "ReduceMin": onnx_rules.reduce,
    "ReduceProd": onnx_rules.reduce,
    "ReduceSum": onnx_rules.reduce,
    "ReduceSumSquare": onnx_rules.reduce,
    "RMSNormalization": onnx_rules.rms_norm,
    "Reshape": aff.reindex,
    "Resize": lower_resize.resize,
    **dict.fromkeys(("ScatterElements", "ScatterND"), onnx_rules.scatter),
    "Selu": onnx_rules.selu,
    "Slice": aff.reindex,
    "Split": aff.reindex,
    "Swish": onnx_rules.swish,
    "Trilu": aff.reindex,
    "Upsample": lower_resize.resize,
}

MODULES: dict[type, Rule] = {
    nn.AdaptiveAvgPool1d: win.adaptive_average_pool(1),
    nn.AdaptiveAvgPool2d: win.adaptive_average_pool(2),
    nn.AdaptiveAvgPool3d: win.adaptive_average_pool(3),
    nn.AvgPool1d: win.torch_average_pool(1),
    nn.AvgPool2d: win.torch_average_pool(2),
    nn.AvgPool3d: win.torch_average_pool(3),
    nn.BatchNorm1d: aff.batch_norm_module,
    nn.BatchNorm2d: aff.batch_norm_module,
    nn.BatchNorm3d: aff.batch_norm_module,
    nn.ConstantPad1d: aff.torch_pad,
    nn.ConstantPad2d: aff.torch_pad,
    nn.ConstantPad3d: aff.torch_pad,
    nn.Conv1d: win.convolution_module,
    nn.Conv2d: win.convolution_module,
    nn.Conv3d: win.convolution_module,
    nn.ConvTranspose1d: win.convolution_module,
    nn.ConvTranspose2d: win.convolution_module,
    nn.ConvTranspose3d: win.convolution_module,
    nn.Dropout: aff.identity,
    nn.Dropout1d: aff.identity,
    nn.Dropout2d: aff.identity,
    nn.Dropout3d: aff.identity,
    nn.ELU: compositions.torch_elu,
    nn.Flatten: aff.reindex,
    nn.GELU: compositions.torch_gelu,
    nn.GroupNorm: compositions.torch_group_norm,
    nn.Hardsigmoid: act.hard_sigmoid,
    nn.Hardswish: act.plain(HardSwish()),
    nn.Hardtanh: act.hardtanh,
    nn.Identity: aff.identity,
    nn.InstanceNorm1d: compositions.torch_instance_norm,
    nn.InstanceNorm2d: compositions.torch_instance_norm,
    nn.InstanceNorm3d: compositions.torch_instance_norm,
    nn.LayerNorm: compositions.torch_layer_norm,
    nn.LeakyReLU: act.leaky_relu,
    nn.Linear: aff.linear,
    nn.LogSoftmax: compositions.torch_log_softmax,
    nn.MaxPool1d: win.torch_max_pool(1),
    nn.MaxPool2d: win.torch_max_pool(2),
    nn.MaxPool3d: win.torch_max_pool(3),
    nn.Mish: compositions.mish,
    nn.PReLU: act.prelu,
    nn.PixelShuffle: aff.reindex,
    nn.RMSNorm: compositions.torch_rms_norm,
    nn.ReLU: act.relu,
    nn.ReLU6: act.relu6,
    nn.ReflectionPad1d: aff.torch_pad,
    nn.ReflectionPad2d: aff.torch_pad,
    nn.ReplicationPad1d: aff.torch_pad,
    nn.ReplicationPad2d: aff.torch_pad,
    nn.SELU: compositions.torch_selu,
    nn.SiLU: act.plain(Swish()),
    nn.Sigmoid: act.sigmoid,
    nn.Softmax: compositions.torch_softmax,
    nn.Softplus: compositions.torch_softplus,
    nn.Softsign: act.plain(Softsign()),
    nn.Tanh: act.tanh,
    nn.Unflatten: aff.reindex,
    nn.ZeroPad2d: aff.torch_pad,
}

# Modules of onnx2torch by class name: it is not imported for a torch.nn.Module.
ONNX2TORCH: dict[str, Rule] = {
    "OnnxBinaryMathOperation": aff.binary,
    "OnnxConcat": aff.onnx_concatenate,
    "OnnxCopyIdentity": aff.identity,
    "OnnxDepthToSpace": aff.reindex,
    "OnnxDropoutDynamic": onnx_rules.dropout,
    "OnnxExpand": aff.reindex,
    "OnnxFunction": onnx_rules.function,
    "OnnxGather": aff.reindex,
    "OnnxGatherElements": aff.reindex,
    "OnnxGatherND": aff.reindex,
    "OnnxHardSigmoid": act.onnx_hard_sigmoid,
    "OnnxMatMul": aff.matmul,
    "OnnxMean": aff.onnx_mean,
    "OnnxMinMax": act.onnx_min_max,
    "OnnxNeg": aff.negate,
    "OnnxPReLU": act.onnx_prelu,
    "OnnxPow": aff.pow_,
    "OnnxReciprocal": aff.reciprocal,
    "OnnxShape": onnx_rules.shape,
    "OnnxSqueezeDynamicAxes": aff.reindex,
    "OnnxSqueezeStaticAxes": aff.reindex,
    "OnnxSum": aff.onnx_sum,
    "OnnxTile": aff.reindex,
    "OnnxTranspose": aff.reindex,
    "OnnxUnsqueezeDynamicAxes": aff.reindex,
    "OnnxUnsqueezeStaticAxes": aff.reindex,
    "OnnxWhere": aff.where,
}

_REINDEX_FUNCTIONS = (
    torch.chunk, torch.flatten, torch.flip, torch.index_select, torch.movedim, torch.narrow, torch.permute,
    torch.pixel_shuffle, torch.reshape, torch.roll, torch.select, torch.split, torch.squeeze, torch.swapaxes,
    torch.t, torch.tile, torch.transpose, torch.unbind, torch.unflatten, torch.unsqueeze,
)  # fmt: skip
_REINDEX_METHODS = (
    "chunk expand flatten flip index_select movedim narrow permute repeat reshape roll select split "
    "squeeze swapaxes t tile transpose unbind unflatten unsqueeze view"
).split()

_PLAIN: dict[str, Activation] = {
    "atan": Atan(), "ceil": Ceil(), "cos": Cos(), "erf": Erf(), "exp": Exp(), "floor": Floor(), "log": Log(),
    "round": Round(), "rsqrt": Rsqrt(), "sign": Sign(), "sin": Sin(), "sqrt": Sqrt(),
}  # fmt: skip
_COMPARISONS: dict[Callable[..., Any], Rule] = {
    **dict.fromkeys((torch.gt, operator.gt), compositions.torch_compare("Greater")),
    **dict.fromkeys((torch.ge, operator.ge), compositions.torch_compare("GreaterOrEqual")),
    **dict.fromkeys((torch.lt, operator.lt), compositions.torch_compare("Less")),
    **dict.fromkeys((torch.le, operator.le), compositions.torch_compare("LessOrEqual")),
}

FUNCTIONS: dict[Callable[..., Any], Rule] = {
    **dict.fromkeys(_REINDEX_FUNCTIONS, aff.reindex),
    **_COMPARISONS,
    **{getattr(torch, name): act.plain(activation) for name, activation in _PLAIN.items()},
    **dict.fromkeys((torch.abs, operator.abs), act.absolute),
    **dict.fromkeys((torch.add, operator.add, operator.iadd), aff.torch_add),
    **dict.fromkeys((torch.sub, operator.sub, operator.isub), aff.torch_subtract),
    **dict.fromkeys((torch.mul, operator.mul, operator.imul), aff.torch_multiply),
    **dict.fromkeys((torch.div, torch.true_divide, operator.truediv, operator.itruediv), aff.torch_divide),
    **dict.fromkeys((torch.neg, operator.neg), aff.negate),
    **dict.fromkeys((torch.matmul, torch.mm, torch.bmm, operator.matmul), aff.matmul),
    **dict.fromkeys((torch.pow, operator.pow), aff.pow_),
    **dict.fromkeys((torch.cat, torch.concat), aff.concatenate),
    **dict.fromkeys((torch.relu, F.relu, F.relu_, torch.relu_), act.relu),
    **dict.fromkeys((torch.sigmoid, F.sigmoid), act.sigmoid),
    **dict.fromkeys((torch.tanh, F.tanh), act.tanh),
    **dict.fromkeys((torch.clamp, torch.clip), act.clamp),
    **dict.fromkeys((F.dropout, F.dropout2d), aff.dropout),
    torch.clone: aff.identity,
    **dict.fromkeys((F.avg_pool1d, torch.avg_pool1d), win.torch_average_pool(1)),
    **dict.fromkeys((F.max_pool1d, torch.max_pool1d), win.torch_max_pool(1)),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), win.torch_max_pool(2)),
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), win.convolution_function),
    **dict.fromkeys((F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d), win.deconvolution_function),
    **dict.fromkeys((torch.softmax, F.softmax), compositions.torch_softmax),
    **dict.fromkeys((torch.log_softmax, F.log_softmax), compositions.torch_log_softmax),
    **dict.fromkeys((F.layer_norm, torch.layer_norm), compositions.torch_layer_norm),
    F.elu: compositions.torch_elu,
    F.gelu: compositions.torch_gelu,
    F.hardswish: act.plain(HardSwish()),
    F.mish: compositions.mish,
    **dict.fromkeys((F.selu, torch.selu), compositions.torch_selu),
    F.silu: act.plain(Swish()),
    F.softplus: compositions.torch_softplus,
    F.softsign: act.plain(Softsign()),
    F.adaptive_avg_pool2d: win.adaptive_average_pool(2),
    F.avg_pool2d: win.torch_average_pool(2),
    F.hardtanh: act.hardtanh,
    F.leaky_relu: act.leaky_relu,
    F.linear: aff.linear,
    F.pad: aff.torch_pad,
    F.relu6: act.relu6,
    operator.getitem: aff.pick,
    torch.amax: act.torch_amax,
    torch.amin: act.torch_amin,
    torch.maximum: act.torch_maximum,
    torch.cumsum: aff.torch_cumulative_sum,
    torch.einsum: lower_einsum.torch_einsum,
    torch.logsumexp: act.torch_reduced(compositions.log_sum_exp),
    torch.mean: aff.torch_mean,
    torch.minimum: act.torch_minimum,
    torch.prod: act.torch_reduced(compositions.product_along),
    torch.reciprocal: aff.reciprocal,
    torch.square: aff.square,
    torch.stack: aff.stack,
    torch.sum: aff.torch_sum,
    torch.where: aff.where,
}

METHODS: dict[str, Rule] = {
    **dict.fromkeys(_REINDEX_METHODS, aff.reindex),
    **{name: act.plain(activation) for name, activation in _PLAIN.items()},
    **dict.fromkeys(("clone", "contiguous", "detach", "float", "double"), aff.identity),
    **dict.fromkeys(("clamp", "clip", "clamp_"), act.clamp),
    **dict.fromkeys(("relu", "relu_"), act.relu),
    **dict.fromkeys(("add", "add_"), aff.torch_add),
    **dict.fromkeys(("sub", "sub_"), aff.torch_subtract),
    **dict.fromkeys(("mul", "mul_"), aff.torch_multiply),
    **dict.fromkeys(("div", "div_"), aff.torch_divide),
    **dict.fromkeys(("matmul", "mm", "bmm"), aff.matmul),
    "abs": act.absolute,
    "log_softmax": compositions.torch_log_softmax,
    "softmax": compositions.torch_softmax,
    "amax": act.torch_amax,
    "amin": act.torch_amin,
    "cumsum": aff.torch_cumulative_sum,
    "logsumexp": act.torch_reduced(compositions.log_sum_exp),
    "mean": aff.torch_mean,
    "neg": aff.negate,
    "pow": aff.pow_,
    "prod": act.torch_reduced(compositions.product_along),
    "reciprocal": aff.reciprocal,
    "sigmoid": act.sigmoid,
    "square": aff.square,
    "sum": aff.torch_sum,
    "tanh": act.tanh,
    "to": aff.cast,
}
