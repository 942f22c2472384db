"""ai.onnx.ml, as converters of scikit-learn write it: scaling, linear models, and what makes labels of scores."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from verify.loading.builder import Builder, Value
from verify.loading.calls import Call, Unsupported, tensor
from verify.loading.operators.arithmetic import divide
from verify.loading.operators.choices import looked_up, of_greatest
from verify.loading.operators.comparisons import at_least, compare
from verify.loading.operators.maxima import reduce_maximum
from verify.loading.operators.moves import join
from verify.loading.operators.reductions import length, sizes
from verify.loading.operators.softmax import softmax
from verify.loading.registry import onnx
from verify.network.activations.s_shaped import Sigmoid


def _numbers(call: Call, name: str) -> Tensor:
    """An attribute of numbers."""
    return tensor(call.attributes.get(name, []))


@onnx("ai.onnx.ml.Scaler")
def scaler(call: Call) -> Value:
    """(x - offset) * scale, of one number for all or one for each feature."""
    moved = call.builder.scale(call.x, None, -_numbers(call, "offset"))
    return call.builder.scale(moved, _numbers(call, "scale"))


@onnx("ai.onnx.ml.Normalizer")
def normalizer(call: Call) -> Value:
    """Rows divided by their greatest entry, the sum of sizes, or the length; where that is 0 nothing is known of them."""
    norms = {"MAX": reduce_maximum, "L1": sizes, "L2": length}
    kind, x = call.attributes.get("norm", "MAX"), call.x
    return divide(call.builder, x, norms[kind](call.builder, x, (len(x.shape) - 1,), True))


@onnx("ai.onnx.ml.Binarizer")
def binarizer(call: Call) -> Value:
    """1 above a threshold, else 0."""
    return at_least(call.builder, call.x, tensor(call.attributes.get("threshold", 0.0)), or_equal=False)


@onnx("ai.onnx.ml.Imputer")
def imputer(call: Call) -> Value:
    """What stands in for NaN, which no input is."""
    replaced = call.attributes.get("replaced_value_float", 0.0)
    if replaced == replaced:
        raise Unsupported(f"it replaces {replaced}, a number")
    return call.x


@onnx("ai.onnx.ml.FeatureVectorizer")
def feature_vectorizer(call: Call) -> Value:
    """Features side by side."""
    sizes_told = list(call.attributes.get("inputdimensions", []))
    if sizes_told != [part.shape[-1] for part in call.args]:
        raise Unsupported(f"inputdimensions {sizes_told} are not those of its operands")
    return join(call.builder, call.args, -1)


@onnx("ai.onnx.ml.ArrayFeatureExtractor")
def array_feature_extractor(call: Call) -> Value:
    """Entries along the last axis, also of a constant at places that are values: labels of classes."""
    data, index = call.operands("ab")
    builder = call.builder
    if not isinstance(index, Value):
        return builder.gather(data, _chosen(data.shape, index))
    if isinstance(data, Value):
        raise Unsupported("its data and its indices depend on the network's input")
    table = data if data.dim() > 1 else data[None]
    return looked_up(builder, table, builder.reshape(index, (index.size,)), -1)


def _chosen(shape: tuple[int, ...], index: Tensor) -> Tensor:
    """The flat places of entries along the last axis."""
    numbers = torch.arange(int(torch.Size(shape).numel())).reshape(shape if len(shape) > 1 else (1, *shape))
    return numbers.index_select(-1, index.flatten())


@onnx("ai.onnx.ml.LabelEncoder")
def label_encoder(call: Call) -> Value:
    """The value of a key, or a default; of equal keys the first counts."""
    given = call.attributes
    keys, values = (_entries(given, kind) for kind in ("keys", "values"))
    if len(keys) != len(values):
        raise Unsupported("keys or values that are no numbers, or not as many of one as of the other")
    default = float(
        given.get("default_int64", -1) if "values_int64s" in given else given.get("default_float", 0.0)
    )
    if "default_tensor" in given:
        default = float(given["default_tensor"].to_torch().flatten()[0])
    pairs = dict(zip(reversed(keys), reversed(values), strict=True))
    builder, x = call.builder, call.x
    hits = [compare(builder, "Equal", x, key) for key in pairs] or [builder.scale(x, tensor(0.0))]
    # what a key has, and the default where there is none: no difference of the two, which may round
    parts = [builder.scale(hit, tensor(value)) for hit, value in zip(hits, pairs.values(), strict=False)]
    hit = builder.combine((1,) * len(hits), *hits) if len(hits) > 1 else hits[0]
    parts.append(builder.scale(hit, tensor(-default), tensor(default)))
    return builder.combine((1,) * len(parts), *parts) if len(parts) > 1 else parts[0]


def _entries(given: dict[str, Any], kind: str) -> list[float]:
    """Keys or values, in whichever attribute they are."""
    if f"{kind}_tensor" in given:
        return [float(number) for number in given[f"{kind}_tensor"].to_torch().flatten()]
    return [float(number) for end in ("int64s", "floats") for number in given.get(f"{kind}_{end}", [])]


@onnx("ai.onnx.ml.LinearRegressor")
def linear_regressor(call: Call) -> Value:
    """Linear scores, and what is made of them."""
    scores = _linear(call, int(call.attributes.get("targets", 1)))
    return _transformed(call.builder, scores, call.attributes.get("post_transform", "NONE"))


@onnx("ai.onnx.ml.LinearClassifier", static=True)  # its results are of different types
def linear_classifier(call: Call) -> Any:
    """The label of the greatest score (None where labels are text), and the scores; of two classes one score may be left out."""
    builder, labels = call.builder, _numbers(call, "classlabels_ints")
    count = len(labels) or len(call.attributes.get("classlabels_strings", []))
    rows = len(call.attributes["coefficients"]) // call.x.shape[-1]
    kind = call.attributes.get("post_transform", "NONE")
    scores = _linear(call, rows)
    if rows == 1 and count == 2:
        second = _transformed(builder, scores, kind if kind == "LOGISTIC" else "NONE")
        first = builder.scale(second, tensor(-1.0), tensor(1.0))
        chances = builder.concatenate([first, second], 1)
        scores = builder.concatenate([builder.scale(scores, tensor(0.0)), scores], 1)
    elif rows == count:
        chances = _transformed(builder, scores, kind)
    else:
        raise Unsupported(f"{rows} scores of {count} classes")
    if not len(labels):
        return None, chances
    label = of_greatest(builder, builder.permute(scores, (1, 0)), labels)
    label = builder.reshape(label, (label.size,))
    builder.whole.add(label.node)
    return label, chances


def _linear(call: Call, rows: int) -> Value:
    """Scores of samples, [samples, scores]."""
    x = call.x if len(call.x.shape) == 2 else call.builder.reshape(call.x, (1, call.x.size))
    biases = _numbers(call, "intercepts")
    return call.builder.dense(
        x, _numbers(call, "coefficients").reshape(rows, -1), biases if len(biases) else None
    )


def _transformed(builder: Builder, scores: Value, kind: str) -> Value:
    """What `post_transform` says of scores."""
    if kind == "NONE":
        return scores
    if kind == "LOGISTIC":
        return builder.activation(Sigmoid(), scores)
    if kind == "SOFTMAX":
        return softmax(builder, scores, 1)
    raise Unsupported(f"post_transform {kind!r}")
