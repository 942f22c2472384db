"""Witness texts: exact layout, round trips in each element type, and complaints about bad text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from verify.errors import SpecificationError
from verify.formats.witness import format_assignment, format_competition, parse_assignment


def test_layout() -> None:
    x = np.array([[0.1, -1e-5], [2.0, 0.5]], dtype=np.float32)
    assert format_assignment({"X": x, "Y": np.array([3.0])}) == (
        "X float32 [2,2]\n0.1\n-1e-05\n2.0\n0.5\nY float64 [1]\n3.0\n"
    )
    assert format_competition(x[0], np.array([[3.0]])) == "((X_0 0.1)\n (X_1 -1e-05)\n (Y_0 3.0))\n"


def test_scalars_and_empty_tensors() -> None:
    arrays: dict[str, NDArray[Any]] = {
        "s": np.array(2, dtype=np.int64),
        "e": np.zeros((0, 3), dtype=np.float16),
        "b": np.array([True, False]),
    }
    again = parse_assignment(format_assignment(arrays))
    for name, array in arrays.items():
        assert again[name].dtype == array.dtype and again[name].shape == array.shape
        assert np.array_equal(again[name], array)


@pytest.mark.parametrize(("bits", "dtype"), [(16, np.uint16), (32, np.uint32), (64, np.uint64)])
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_round_trip_bit_for_bit(bits: int, dtype: Any, data: st.DataObject) -> None:
    width: Any = bits
    numbers = st.floats(width=width, allow_nan=False, allow_infinity=False)
    values = data.draw(st.lists(numbers, max_size=6))
    array = np.array(values, dtype=f"float{bits}")
    again = parse_assignment(format_assignment({"X": array}))["X"]
    assert np.array_equal(again.view(dtype), array.view(dtype))


@pytest.mark.parametrize("bad", [np.array([np.nan]), np.array([np.inf]), np.array(["a"]), np.array([1j])])
def test_refuses_what_is_no_number(bad: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        format_assignment({"X": bad})


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("X float32 1,5\n", 1, "no header"),
        ("X float31 [1]\n1\n", 1, "no header"),
        ("X float32 [1]\nabc\n", 2, "no value"),
        ("X float32 [3]\n1\n2\n", 1, "2 of its 3"),
        ("X float32 [1]\n1\nX float32 [1]\n1\n", 3, "twice"),
        ("X int8 [1]\n\n300\n", 3, "no value"),
    ],
)
def test_complaints(text: str, line: int, reason: str) -> None:
    with pytest.raises(SpecificationError, match=reason) as caught:
        parse_assignment(text, "w")
    assert (caught.value.file, caught.value.line) == ("w", line)
