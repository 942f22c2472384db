"""The register of operators: what it says of onnx2torch is what onnx2torch does."""

from __future__ import annotations

from collections import defaultdict

import pytest
from onnx_models import ACTIVATIONS, AFFINE, Case
from torch import nn

from verify.loading import registry
from verify.loading.onnx.model import read
from verify.loading.onnx.onnx2torch import import_onnx2torch
from verify.loading.onnx.shapes import fixed

CASES: dict[str, list[Case]] = defaultdict(list)
for case in (*AFFINE, *ACTIVATIONS):
    CASES[case.operator].append(case)


@pytest.mark.parametrize("operator", sorted(CASES))
def test_conversion_is_as_registered(operator: str) -> None:
    """Of what it converts onnx2torch makes the module that is registered, in some versions another that has a rule; ours get past it."""
    import_onnx2torch()
    from verify.loading.onnx.convert import converted

    kinds = set()
    for one in CASES[operator]:
        model = read(one.model())
        model.fix([fixed(tensor.shape or ()) for tensor in model.inputs])
        kinds |= {type(module) for module in converted(model).children()} - {nn.Module}
    names = {kind.__name__ for kind in kinds}
    if not registry.OPERATORS[operator].module:
        assert names == {"OnnxOperator"}
        return
    assert registry.OPERATORS[operator].module in names
    assert all(kind in registry.TORCH or kind.__name__ in registry.CONVERTED for kind in kinds)


def test_nothing_is_registered_twice() -> None:
    with pytest.raises(ValueError, match="Relu is registered twice"):
        registry.known("Relu")
