"""Operators made of several activations: softmax, normalisations, gates, comparisons, casts to whole numbers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from verify.loading.builder import Builder, Value
from verify.loading.calls import Call, Unsupported, tensor
from verify.network.activations.base import Activation
from verify.network.activations.convex import Exp, Log, Rsqrt, Softplus, Sqrt
from verify.network.activations.elu import Elu
from verify.network.activations.gated import Gelu, Swish
from verify.network.activations.piecewise import Clip
from verify.network.activations.power import Power
from verify.network.activations.reciprocal import Reciprocal
from verify.network.activations.relu import Relu
from verify.network.activations.s_shaped import Erf, Sigmoid, Tanh
from verify.network.activations.softmax import Softmax
from verify.network.activations.square import Square
from verify.network.activations.steps import Floor, Positive, Step
from verify.network.affine import Combine, Constant, NonNegative, Permute, Reshape, Scale

MOST_PRODUCTS = 2**22  # that one operator may be made of
MOST_BOUNDED = (
    8192  # variables that an operator may be made into; one of more products or exponentials stays whole
)
_MOST_CENTRED = 512  # entries that are centred by a matrix
_MOVES = ("concatenate", "expand", "gather", "slice", "sum")


def limit(count: int, what: str) -> None:
    """Refuses what would not fit into memory with its bounds."""
    if count > MOST_PRODUCTS:
        raise Unsupported(f"it is made of {count} {what}; at most {MOST_PRODUCTS} are supported")


# softmax


def softmax(builder: Builder, x: Value, axis: int, log: bool = False) -> Value:
    """`1 / (1 + sum_{j != i} exp(x_j - x_i))` along an axis: tighter than a quotient, and never outside [0, 1]."""
    axis %= len(x.shape)
    size = x.shape[axis]
    limit(x.size * (size - 1), "exponentials")
    last = (*(i for i in range(len(x.shape)) if i != axis), axis)
    moved = builder.permute(x, last)
    rows = builder.reshape(moved, (x.size // size, size))
    if log:
        found = builder.scale(builder.activation(Log(), _other_exponentials(builder, rows)), tensor(-1.0))
    elif size == 2:
        found = _pairs(builder, rows)
    elif x.size * (size - 1) > MOST_BOUNDED:
        found = builder.activation(Softmax(rows.shape[0]), rows)
    else:
        found = builder.activation(Reciprocal(), _other_exponentials(builder, rows))
    back = builder.reshape(found, moved.shape)
    return builder.permute(back, tuple(last.index(i) for i in range(len(last))))


def _pairs(builder: Builder, rows: Value) -> Value:
    """Softmax of two is one sigmoid: each value is 1 less the other, which the clip keeps in [0, 1] in spite of rounding."""
    first, second = builder.slice(rows, 1, 0, 1), builder.slice(rows, 1, 1, 2)
    one = builder.activation(Sigmoid(), builder.combine((1, -1), first, second))
    other = builder.activation(Clip(0.0, 1.0), builder.scale(one, tensor(-1.0), tensor(1.0)))
    return builder.concatenate([one, other], 1)


def _other_exponentials(builder: Builder, rows: Value) -> Value:
    """`1 + sum_{j != i} exp(x_j - x_i)` of rows [n, size].

    It is never below 1, but the interval of a sum of very different numbers is: rounding is charged by the largest.
    """
    count, size = rows.shape
    if size == 1:
        return builder.scale(rows, tensor(0.0), tensor(1.0))
    places = torch.arange(rows.size).reshape(count, size)
    others = torch.stack([torch.cat([places[:, :i], places[:, i + 1 :]], 1) for i in range(size)], 1)
    own = places[:, :, None].expand_as(others)
    differences = builder.combine((1, -1), builder.gather(rows, others), builder.gather(rows, own))
    total = builder.sum(builder.activation(Exp(), differences), (2,), keepdim=False)
    return builder.activation(Clip(1.0, math.inf), builder.scale(total, None, tensor(1.0)))


def softmax_of_rows(builder: Builder, x: Value, axis: int, log: bool = False) -> Value:
    """Softmax of opset 12 and older: all axes from `axis` on are one."""
    axis = axis % len(x.shape) if x.shape else 0
    flat = builder.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))
    return builder.reshape(softmax(builder, flat, 1, log), x.shape)


def log_sum_exp(builder: Builder, x: Value) -> Value:
    """The logarithm of the sum of exponentials over the last axis: `x_1 + log(1 + sum_{j > 1} exp(x_j - x_1))`."""
    axis = len(x.shape) - 1
    first, others = builder.slice(x, axis, 0, 1), builder.slice(x, axis, 1, x.shape[axis])
    if not others.size:
        return x
    total = builder.sum(
        builder.activation(Exp(), builder.combine((1, -1), others, first)), (axis,), keepdim=True
    )
    rest = builder.activation(Clip(1.0, math.inf), builder.scale(total, None, tensor(1.0)))
    return builder.combine((1, 1), first, builder.activation(Log(), rest))


def product_along(builder: Builder, x: Value) -> Value:
    """The product over the last axis (kept), as a balanced tree."""
    axis = len(x.shape) - 1
    while (size := x.shape[axis]) > 1:
        half, odd = divmod(size, 2)
        product = builder.product(builder.slice(x, axis, 0, half), builder.slice(x, axis, half, 2 * half))
        x = builder.concatenate([product, builder.slice(x, axis, 2 * half, size)], axis) if odd else product
    return x


def torch_softmax(call: Call, log: bool = False) -> Value:
    """torch.softmax and log_softmax, functions, methods and modules."""
    axis = call.constant(1, "dim") if call.module is None else call.module.dim
    if axis is None:
        raise Unsupported("its dim is not given")
    return softmax(call.builder, call.x, axis, log)


def torch_log_softmax(call: Call) -> Value:
    """torch.log_softmax."""
    return torch_softmax(call, log=True)


# normalisation


def normalised(builder: Builder, x: Value, lead: int, epsilon: float) -> Value:
    """`(x - mean) / sqrt(variance + epsilon)` over all axes from `lead` on."""
    size = math.prod(x.shape[lead:])
    rows = builder.reshape(x, (x.size // size, size))
    if size <= _MOST_CENTRED:
        centred = builder.dense(rows, torch.eye(size, dtype=torch.float64) - 1 / size)
    else:
        centred = builder.combine((1, -1), rows, builder.sum(rows, (1,), keepdim=True, mean=True))
    variance = builder.sum(builder.activation(Square(), centred), (1,), keepdim=True, mean=True)
    inverse = builder.activation(Rsqrt(), builder.scale(variance, None, tensor(epsilon)))
    return builder.reshape(builder.product(builder.copy(centred), inverse, shared=True), x.shape)


def layer_norm(builder: Builder, x: Value, axis: int, parts: tuple[Any, Any], epsilon: float) -> Value:
    """Layer normalisation over the axes from `axis` on; `parts`: factor and shift, or None."""
    found = normalised(builder, x, axis % len(x.shape), epsilon)
    factor, shift = (None if part is None else tensor(part).detach() for part in parts)
    return builder.scale(found, factor, shift)


def instance_norm(builder: Builder, x: Value, parts: tuple[Any, Any], epsilon: float) -> Value:
    """Instance normalisation over the axes from 2 on; `parts`: factor and shift of each channel, or None."""
    found = normalised(builder, x, 2, epsilon)
    shape = (-1, *(1,) * (len(x.shape) - 2))
    factor, shift = (None if part is None else tensor(part).detach().reshape(shape) for part in parts)
    return builder.scale(found, factor, shift)


def group_norm(builder: Builder, x: Value, groups: int, parts: tuple[Any, Any], epsilon: float) -> Value:
    """Normalisation over groups of channels; `parts`: factor and shift of each channel, or None."""
    cut = builder.reshape(x, (x.shape[0], groups, x.size // (x.shape[0] * groups)))
    found = builder.reshape(normalised(builder, cut, 2, epsilon), x.shape)
    shape = (-1, *(1,) * (len(x.shape) - 2))
    factor, shift = (None if part is None else tensor(part).detach().reshape(shape) for part in parts)
    return builder.scale(found, factor, shift)


def rms_norm(builder: Builder, x: Value, axis: int, factor: Any, epsilon: float) -> Value:
    """`x / sqrt(mean of x^2 + epsilon)` over the axes from `axis` on, times a factor."""
    lead = axis % len(x.shape)
    rows = builder.reshape(x, (*x.shape[:lead], math.prod(x.shape[lead:])))
    squares = builder.sum(builder.activation(Square(), rows), (lead,), keepdim=True, mean=True)
    inverse = builder.activation(Rsqrt(), builder.scale(squares, None, tensor(epsilon)))
    found = builder.reshape(builder.product(builder.copy(rows), inverse, shared=True), x.shape)
    return builder.scale(found, None if factor is None else tensor(factor).detach())


def torch_group_norm(call: Call) -> Value:
    """torch.nn.GroupNorm."""
    module = call.module
    return group_norm(call.builder, call.x, module.num_groups, (module.weight, module.bias), module.eps)


def torch_rms_norm(call: Call) -> Value:
    """torch.nn.RMSNorm."""
    module = call.module
    if module.eps is None:
        raise Unsupported(
            "its eps is that of an element type; give it a number, or export the module to ONNX"
        )
    axis = len(call.x.shape) - len(module.normalized_shape)
    return rms_norm(call.builder, call.x, axis, module.weight, module.eps)


def torch_layer_norm(call: Call) -> Value:
    """torch.nn.LayerNorm and its functional form."""
    if call.module is not None:
        module = call.module
        shape, parts, epsilon = module.normalized_shape, (module.weight, module.bias), module.eps
    else:
        shape = call.constant(1, "normalized_shape")
        parts = (call.constant(2, "weight"), call.constant(3, "bias"))
        epsilon = call.constant(4, "eps", default=1e-5)
    return layer_norm(call.builder, call.x, len(call.x.shape) - len(tuple(shape)), parts, epsilon)


def torch_instance_norm(call: Call) -> Value:
    """torch.nn.InstanceNorm without running statistics."""
    module = call.module
    if module.track_running_stats:
        raise Unsupported("running statistics")
    return instance_norm(call.builder, call.x, (module.weight, module.bias), module.eps)


def root_of_sum(builder: Builder, squares: Value) -> Value:
    """The root of a sum of squares; the ReLU takes what rounding leaves below 0 out of its interval."""
    return builder.activation(Sqrt(), builder.activation(Relu(), squares))


# powers


def powers(builder: Builder, x: Value, exponents: Tensor) -> Value:
    """x to exponents of its own shape; those that are alike are one activation."""
    different, group = exponents.flatten().unique(return_inverse=True)
    if len(different) == 1:
        return power(builder, x, float(different[0]))
    members = [(group == i).nonzero()[:, 0] for i in range(len(different))]
    parts = [
        power(builder, builder.gather(x, places), float(exponent))
        for places, exponent in zip(members, different, strict=True)
    ]
    back = torch.cat(members).argsort()
    return builder.reshape(builder.gather(builder.concatenate(parts, 0), back), x.shape)


def power(builder: Builder, x: Value, exponent: float) -> Value:
    """x to a whole number, or to 1/2 or -1/2; 0 to the 0 is 1, as ONNX and torch have it."""
    if exponent == 0:
        return builder.scale(x, tensor(0.0), tensor(1.0))
    if abs(exponent) == 0.5:
        return builder.activation(Sqrt() if exponent > 0 else Rsqrt(), x)
    if exponent != int(exponent):
        raise Unsupported("of constant exponents only whole numbers, 1/2 and -1/2 are supported")
    whole = abs(int(exponent))
    found = x
    if whole > 1:
        found = builder.activation(Square() if whole == 2 else Power(whole), x)
    return found if exponent > 0 else builder.reciprocal(found)


def exponential(builder: Builder, base: Tensor, x: Value) -> Value:
    """base^x; the base's logarithm rounds in float64."""
    if not bool((base > 0).all()):
        raise Unsupported("a base that is not positive")
    return builder.activation(Exp(), builder.scale(x, base.log()))


# gates


def gelu(builder: Builder, x: Value, approximate: str) -> Value:
    """GELU; its approximation is `x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))`."""
    if approximate == "none":
        return builder.activation(Gelu(), x)
    if approximate != "tanh":
        raise Unsupported(f"approximation {approximate!r}")
    cube = builder.activation(Power(3), x)
    inner = builder.combine((1, 1), x, builder.scale(cube, tensor(0.044715)))
    gate = builder.activation(Sigmoid(), builder.scale(inner, tensor(2 * math.sqrt(2 / math.pi))))
    return builder.product(x, gate)


def torch_gelu(call: Call) -> Value:
    """torch.nn.GELU and its functional form."""
    module = call.module
    kind = call.constant(1, "approximate", default="none") if module is None else module.approximate
    return gelu(call.builder, call.x, kind)


def scaled_argument(builder: Builder, activation: Activation, x: Value, scale: float) -> Value:
    """sigma(scale x) / scale."""
    if scale == 0:
        raise Unsupported("its scale is 0")
    return builder.scale(
        builder.activation(activation, builder.scale(x, tensor(scale))), tensor(1.0) / tensor(scale)
    )


def torch_softplus(call: Call) -> Value:
    """torch's, whose value beyond the threshold is x, less than 3e-9 off."""
    given = ("beta", 1.0), ("threshold", 20.0)
    if call.module is None:
        numbers = [call.constant(i, name, default=usual) for i, (name, usual) in enumerate(given, start=1)]
    else:
        numbers = [getattr(call.module, name) for name, _ in given]
    if numbers[1] < 20:
        raise Unsupported(f"threshold {numbers[1]}")
    return scaled_argument(call.builder, Softplus(), call.x, float(numbers[0]))


def mish(call: Call) -> Value:
    """x tanh(softplus(x))."""
    gate = call.builder.activation(Tanh(), call.builder.activation(Softplus(), call.x))
    return call.builder.product(call.x, gate)


def torch_elu(call: Call) -> Value:
    """torch.nn.ELU and its functional form."""
    alpha = call.constant(1, "alpha", default=1.0) if call.module is None else call.module.alpha
    return call.builder.activation(Elu(float(alpha)), call.x)


def celu(builder: Builder, x: Value, alpha: float) -> Value:
    """x for x >= 0, `alpha (exp(x / alpha) - 1)` below."""
    inner = builder.scale(x, tensor(1.0) / tensor(alpha))
    return builder.scale(builder.activation(Elu(1.0), inner), tensor(alpha))


def selu(builder: Builder, x: Value, alpha: float, gamma: float) -> Value:
    """gamma times ELU."""
    return builder.scale(builder.activation(Elu(alpha), x), tensor(gamma))


def torch_selu(call: Call) -> Value:
    """torch.nn.SELU."""
    return selu(call.builder, call.x, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


def gated(builder: Builder, a: Value, b: Value) -> Value | None:
    """`a b` where that is swish or GELU as graphs spell them, else None.

    `b` is `f sigma(k x) + c` for a multiple `x` of `a`, `c` being 0 for the sigmoid and `f` for erf.
    """
    source, share = _multiple_of(builder, a)
    behind, factor, shift = _straight(builder, b)
    operator = builder.nodes[behind].operator
    if not isinstance(operator, Sigmoid | Erf) or shift != (0.0 if isinstance(operator, Sigmoid) else factor):
        return None
    inner = builder.nodes[behind].operands[0]
    place, scale = _multiple_of(builder, Value(inner, builder.nodes[inner].shape))
    if (
        place != source
        or not scale * factor * share
        or builder.nodes[place].shape != a.stored
        or a.shape != b.shape
    ):
        return None
    x = Value(source, a.shape)
    if isinstance(operator, Sigmoid):
        found = builder.activation(Swish(), builder.scale(x, tensor(scale)))
        return builder.scale(found, tensor(share * factor / scale))
    wide = scale * math.sqrt(2)
    found = builder.activation(Gelu(), builder.scale(x, tensor(wide)))
    return builder.scale(found, tensor(2 * share * factor / wide))


def _straight(builder: Builder, x: Value) -> tuple[int, float, float]:
    """The node that x is `factor * node + shift` of, with one factor and one shift; x itself if there is none."""
    node = builder.nodes[x.node]
    if not isinstance(node.operator, Scale) or builder.nodes[node.operands[0]].shape != node.shape:
        return x.node, 1.0, 0.0
    factor, shift = node.operator.factor, node.operator.bias
    shift = torch.zeros(()) if shift is None else shift
    if bool((factor != factor.flatten()[0]).any()) or bool((shift != shift.flatten()[0]).any()):
        return x.node, 1.0, 0.0
    deeper, inner_factor, inner_shift = _straight(builder, Value(node.operands[0], node.shape))
    outer = float(factor.flatten()[0])
    return deeper, outer * inner_factor, outer * inner_shift + float(shift.flatten()[0])


def _multiple_of(builder: Builder, x: Value) -> tuple[int, float]:
    """The node that x is a multiple of, and the factor; x itself if there is none."""
    behind, factor, shift = _straight(builder, x)
    return (x.node, 1.0) if shift else (behind, factor)


# comparisons: values that are 0 or 1


def is_whole(builder: Builder, x: Any) -> bool:
    """Whether all values are sure to be whole numbers."""
    if not isinstance(x, Value):
        return bool((tensor(x) == tensor(x).round()).all())
    node = builder.nodes[x.node]
    if x.node in builder.whole or isinstance(node.operator, Step):
        return True
    if isinstance(node.operator, Constant):
        return is_whole(builder, node.operator.value)
    moves = isinstance(node.operator, NonNegative) and node.operator.label in _MOVES
    if isinstance(node.operator, Scale):
        numbers = (node.operator.factor, node.operator.bias)
        moves = all(number is None or is_whole(builder, number) for number in numbers)
        if moves and not bool(node.operator.factor.any()):
            return True
    if not moves and not isinstance(node.operator, Combine | Permute | Relu | Reshape):
        return False
    return all(is_whole(builder, Value(index, builder.nodes[index].shape)) for index in node.operands)


def difference(builder: Builder, a: Any, b: Any) -> Value:
    """a - b, either of them constant."""
    if isinstance(a, Value) and isinstance(b, Value):
        return builder.combine((1, -1), a, b)
    if isinstance(a, Value):
        return builder.scale(a, None, -tensor(b))
    return builder.scale(b, tensor(-1.0), tensor(a))


def at_least(builder: Builder, a: Any, b: Any, or_equal: bool) -> Value:
    """1 where a > b, or with `or_equal` where a >= b, else 0; whole numbers are compared half way between."""
    above = difference(builder, a, b)
    if is_whole(builder, a) and is_whole(builder, b):
        above = builder.scale(above, None, tensor(0.5 if or_equal else -0.5))
    return builder.activation(Positive(or_equal), above)


def compare(builder: Builder, operator: str, a: Any, b: Any) -> Value:
    """Equal, Greater, GreaterOrEqual, Less, LessOrEqual."""
    if operator == "Equal":
        return difference(builder, at_least(builder, a, b, True), at_least(builder, a, b, False))
    if operator.startswith("Less"):
        a, b = b, a
    return at_least(builder, a, b, operator.endswith("OrEqual"))


def torch_compare(operator: str) -> Any:
    """The rule of a comparison in torch."""
    return lambda call: compare(call.builder, operator, call.argument(0, "input"), call.argument(1, "other"))


def logical_not(call: Call) -> Value:
    """1 - x."""
    return call.builder.scale(call.x, tensor(-1.0), tensor(1.0))


def logical(builder: Builder, operator: str, a: Any, b: Any) -> Value:
    """And: max(a + b - 1, 0); Or: min(a + b, 1), by the same of the negations."""
    a, b = (part if isinstance(part, Value) else builder.constant(tensor(part)) for part in (a, b))
    total = builder.combine((1, 1), a, b)
    if operator == "And":
        return builder.activation(Relu(), builder.scale(total, None, tensor(-1.0)))
    neither = builder.activation(Relu(), builder.scale(total, tensor(-1.0), tensor(1.0)))
    return builder.scale(neither, tensor(-1.0), tensor(1.0))


def choose(builder: Builder, condition: Value, a: Any, b: Any) -> Value:
    """Where with a condition of zeros and ones: `b + condition (a - b)`."""
    for part in (a, b):
        if not isinstance(part, Value) and not bool(tensor(part).isfinite().all()):
            raise Unsupported("it chooses between a value and infinity or NaN")
    if not isinstance(a, Value) and not isinstance(b, Value):
        return builder.scale(condition, tensor(a) - tensor(b), tensor(b))
    chosen = builder.product(condition, difference(builder, a, b))
    if isinstance(b, Value):
        return builder.combine((1, 1), chosen, b)
    return builder.scale(chosen, None, tensor(b))


def whole_part(builder: Builder, x: Value) -> Value:
    """x without what is behind the point, as casts cut it."""
    if is_whole(builder, x):
        return x
    up, down = builder.activation(Relu(), x), builder.activation(Relu(), builder.scale(x, tensor(-1.0)))
    return builder.combine((1, -1), builder.activation(Floor(), up), builder.activation(Floor(), down))


def truth(builder: Builder, x: Value) -> Value:
    """1 where x is not 0; comparisons stay as they are."""
    operator = builder.nodes[x.node].operator
    if isinstance(operator, Positive):
        return x
    return builder.scale(compare(builder, "Equal", x, 0.0), tensor(-1.0), tensor(1.0))
