"""What ONNX Runtime 1.23, the last for Python 3.10, computes wrongly or crashes at: there is nothing to compare with."""

from __future__ import annotations

import onnxruntime
import pytest

OLD = tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 24)


def skip_if(wrong: bool) -> None:
    """For tests of what such a release gets wrong."""
    if OLD and wrong:
        pytest.skip(f"ONNX Runtime {onnxruntime.__version__} gets it wrong")
