"""Attention."""

from __future__ import annotations

import math
from typing import Any

import torch

from verify.loading.builder import Builder, Value
from verify.loading.calls import Call, Unsupported, tensor
from verify.loading.operators.arithmetic import add
from verify.loading.operators.matrices import moved, product
from verify.loading.operators.softmax import softmax
from verify.loading.registry import onnx


@onnx("Attention")
def attention(call: Call) -> Value:
    """Attention without masks of -inf, caches and shared heads: `softmax(scale Q K^T + mask) V` of each head."""
    attributes, builder = call.attributes, call.builder
    query, key, value, mask = call.operands("abcd")
    for name in ("is_causal", "softcap", "qk_matmul_output_mode"):
        if attributes.get(name, 0):
            raise Unsupported(name)
    if call.module.results > 1 or any(
        call.argument("abcdefg".index(name), name) is not None for name in "efg"
    ):
        raise Unsupported("a cache of keys and values")
    if isinstance(mask, Value):
        raise Unsupported("a mask that depends on the network's input")
    flat = len(query.shape) == 3
    if flat:
        heads = [attributes["q_num_heads"], *[attributes["kv_num_heads"]] * 2]
        query, key, value = (
            _in_heads(builder, x, n) for x, n in zip((query, key, value), heads, strict=True)
        )
    if query.shape[1] != key.shape[1]:
        raise Unsupported("heads that share keys")
    turned = moved(builder, key, (0, 1, 3, 2))
    scores = product(builder, query, turned)
    scores = builder.scale(scores, tensor(attributes.get("scale", 1 / math.sqrt(query.shape[-1]))))
    if mask is not None:
        if mask.dtype == torch.bool or not bool(mask.isfinite().all()):
            raise Unsupported("a mask that leaves out keys")
        scores = add(builder, scores, mask)
    found = product(builder, softmax(builder, scores, -1), value)
    if not flat:
        return found
    apart = builder.permute(found, (0, 2, 1, 3))
    return builder.reshape(apart, (*apart.shape[:2], apart.shape[2] * apart.shape[3]))


def _in_heads(builder: Builder, x: Any, heads: int) -> Any:
    """[batch, places, heads * size] as [batch, heads, places, size]."""
    shape = (*x.shape[:2], heads, x.shape[2] // heads)
    cut = builder.reshape(x, shape) if isinstance(x, Value) else x.reshape(shape)
    return moved(builder, cut, (0, 2, 1, 3))
