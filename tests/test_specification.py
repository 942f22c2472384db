"""Properties built in Python: they say exactly what was given, or an InputError says what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from verify.errors import InputError
from verify.formats.vnnlib import parse
from verify.specification import LinfBall, Row, Specification

X = [0.5, 0.25, 0.75]
BALLS: dict[str, tuple[dict[str, Any], str]] = {
    "negative radius": ({"epsilon": -0.1}, "epsilon.*-0.1"), "NaN radius": ({"epsilon": float("nan")}, "epsilon.*nan"),
    "infinite radius": ({"epsilon": float("inf")}, "epsilon.*inf"), "text radius": ({"epsilon": "0.1"}, "epsilon.*'0.1'"),
    "radii": ({"epsilon": [0.1, 0.1]}, r"epsilon.*\[2\].*\[3\]"), "negative radii": ({"epsilon": [0.1, -0.1, 0.1]}, r"epsilon, entry \[1\],.*-0.1"), "no radius": ({"epsilon": None}, "epsilon.*None"),
    "true radius": ({"epsilon": True}, "epsilon"), "NaN": ({"x": [0.5, float("nan"), 0.5]}, r"x of a LinfBall, entry \[1\],.*nan"),
    "infinite": ({"x": [float("inf"), 0.5, 0.5], "clip": None}, r"entry \[0\],.*inf"), "no x": ({"x": []}, "without entries"),
    "text": ({"x": ["0.5", "0.5"]}, "not real"), "complex": ({"x": np.array([0.5j])}, "complex128"), "bool": ({"x": np.ones(3, bool)}, "bool"),
    "objects": ({"x": np.array([0.5, None])}, "object"), "ragged": ({"x": [[0.5], [0.5, 0.5]]}, "cannot be read"),
    "masked": ({"x": np.ma.masked_array(X, [True, False, False])}, "mask"), "wide": ({"x": np.array([2**53 + 1]), "clip": None}, "float64"),
    "meta": ({"x": torch.zeros(3, device="meta")}, "cannot be read"), "above clip": ({"x": [0.5, 2.0, 0.5]}, r"outside clip.*\[1\].*2.0"),
    "below clip": ({"x": [0.5, -0.01, 0.5]}, "outside clip"), "reversed clip": ({"clip": (1.0, 0.0)}, "clip.*reversed"),
    "NaN clip": ({"clip": (0.0, float("nan"))}, "clip.*nan"), "one clip": ({"clip": 1.0}, "clip.*pair"), "three clips": ({"clip": (0, 1, 2)}, "3 parts"),
    "clip of another shape": ({"clip": (np.zeros(2), np.ones(2))}, r"clip.*\[2\].*\[3\]"), "clip as text": ({"clip": "01"}, "clip"),
    "overflow": ({"x": [1.7e308], "epsilon": 1e308, "clip": None}, "x [+] epsilon.*inf"), "negative label": ({"label": -1}, "label.*-1"),
    "whole float": ({"label": 0.0}, "label.*integer"), "true label": ({"label": True}, "label"), "labels": ({"label": [0, 1]}, "label"),
    "large label": ({"label": 2}, "label 2 is not one of 2"), "huge label": ({"label": 10**5000}, "label"), "one class": ({"classes": 1}, "classes"),
    "classes": ({"classes": ["a", "b"]}, "classes"), "many classes": ({"classes": 2**70}, "classes"), "other classes": ({"classes": 5}, "classes.*2 outputs"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BALLS)
def test_balls_that_are_refused(kind: str) -> None:
    changed, said = BALLS[kind]
    with pytest.raises(InputError, match=said):
        LinfBall(**{"x": X, "epsilon": 0.1, "label": 0, **changed}).text(2)


SPECIFICATIONS: dict[str, tuple[Callable[[], Any], str]] = {
    "reversed": (lambda: Specification((X, [0.5, 0.2, 0.8]), [[([1.0], 0.0)]]), r"reversed at \[1\].*0.25.*0.2"),
    "infinite": (lambda: Specification(([-np.inf] * 3, X), [[([1.0], 0.0)]]), "lower end.*inf"),
    "NaN": (lambda: Specification((X, [np.nan] * 3), [[([1.0], 0.0)]]), "upper end.*nan"),
    "shapes": (lambda: Specification((X, X[:2]), [[([1.0], 0.0)]]), "equal shapes"),
    "three ends": (lambda: Specification((X, X, X), [[([1.0], 0.0)]]), "3 parts"),  # type: ignore[arg-type]
    "no box": (lambda: Specification(None, [[([1.0], 0.0)]]), "box.*None"),  # type: ignore[arg-type]
    "no clauses": (lambda: Specification((X, X), []), "unsafe.*empty"),
    "an empty clause": (lambda: Specification((X, X), [[]]), "conjunction.*empty"),
    "flat": (lambda: Specification((X, X), [Row([1.0], 0.0)]), r"conjunction.*\[\[row"),  # type: ignore[list-item]
    "a pair for a clause": (lambda: Specification((X, X), [([1.0], 0.0)]), "row of a Spec"),  # type: ignore[list-item]
    "lengths": (lambda: Specification((X, X), [[([1.0], 0.0), ([1.0, 2.0], 0.0)]]), "1 and 2 coefficients"),
    "a generator": (lambda: Specification((X, X), (c for c in [[([1.0], 0.0)]])), "unsafe"),  # type: ignore[arg-type]
    "text": (lambda: Specification((X, X), "unsafe"), "unsafe"),
    "NaN row": (lambda: Row([1.0, np.nan], 0.0), "coefficients.*nan"), "infinite row": (lambda: Row([np.inf], 0.0), "coefficients.*inf"),
    "NaN threshold": (lambda: Row([1.0], np.nan), "threshold.*nan"), "infinite threshold": (lambda: Row([1.0], np.inf), "threshold.*inf"),
    "matrix": (lambda: Row(np.eye(2), 0.0), "shape"), "number": (lambda: Row(1.0, 0.0), "shape"),  # type: ignore[arg-type]
    "thresholds": (lambda: Row([1.0], [0.0, 1.0]), "threshold"),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("kind", SPECIFICATIONS)
def test_specifications_that_are_refused(kind: str) -> None:
    make, said = SPECIFICATIONS[kind]
    with pytest.raises(InputError, match=said):
        make()


FORMS: dict[str, Callable[[np.ndarray[Any, Any]], Any]] = {
    "list": lambda x: x.tolist(), "tuple": lambda x: tuple(x.tolist()), "float64": lambda x: x, "float16": lambda x: x.astype(np.float16),
    "tensor": torch.from_numpy, "gradients": lambda x: torch.from_numpy(x).float().requires_grad_(), "column": lambda x: x[:, None],
    "bfloat16": lambda x: torch.from_numpy(x).bfloat16(), "strided": lambda x: np.repeat(x, 2)[::2], "batch of one": lambda x: x[None],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_numbers_say_the_same(form: str) -> None:
    x = np.array(X)
    assert LinfBall(FORMS[form](x), 0.25, 1).text(2) == LinfBall(x, 0.25, 1).text(2)
    box = FORMS[form](x), FORMS[form](x + 0.25)
    assert (
        Specification(box, [[([1.0], 0.0)]]).text() == Specification((x, x + 0.25), [[([1.0], 0.0)]]).text()
    )


@pytest.mark.parametrize("label", [1, np.int8(1), np.array(1), torch.tensor(1), torch.tensor([1])])
def test_forms_of_labels(label: Any) -> None:
    assert LinfBall(X, 0.1, label).label == 1


def test_clip_cuts_where_it_says() -> None:
    x = np.full((1, 2, 2), 0.5)
    lows = np.array([[[0.45], [0.0]]])  # of each channel
    lower, upper = LinfBall(x, 0.25, 0, clip=(lows, 0.625)).ends()
    np.testing.assert_array_equal(lower, [[[0.45, 0.45], [0.25, 0.25]]])
    np.testing.assert_array_equal(upper, np.full((1, 2, 2), 0.625))
    lower, upper = LinfBall(x, 0.25, 0, clip=(-np.inf, np.inf)).ends()
    np.testing.assert_array_equal([lower, upper], [x - 0.25, x + 0.25])


FLOATS = st.floats(-1e300, 1e300)


@given(st.lists(FLOATS, min_size=1, max_size=3), st.floats(0, 1e300), FLOATS, FLOATS)
def test_text_is_exact(x: list[float], epsilon: float, coefficient: float, threshold: float) -> None:
    """Every number of the text is the very float that was given, or the float64 sum that is documented."""
    lower, upper = (np.array(x) + step for step in (-epsilon, epsilon))
    if max(np.abs([lower, upper]).max(), 0) > 1e300:
        return
    exact = [[Fraction(float(value)) for value in end] for end in (lower, upper)]
    assert list(parse(LinfBall(x, epsilon, 0, clip=None).text(2)).exact_bounds(0)) == exact
    asked = parse(Specification((lower, upper), [[Row([coefficient, 1.0], threshold)]]).text())
    assert list(asked.exact_bounds(0)) == exact
    y = Fraction(threshold) - Fraction(coefficient)  # at outputs (1, y) the row is an equality
    assert asked.violated(exact[0], [Fraction(1), y])
    assert not asked.violated(exact[0], [Fraction(1), y + Fraction(1, 10**400)])


def test_builders_keep_what_they_were_given() -> None:
    x = np.array(X)
    ball, box = LinfBall(x, 0.1, 0), Specification((x, x), [[([1.0, 0.0], 0.0)]])
    before = ball.text(2), box.text()
    x[:] = 0.0
    assert (ball.text(2), box.text()) == before
    assert replace(ball, epsilon=0.2).ends()[1][0] == 0.5 + 0.2
    with pytest.raises(ValueError, match="read-only"):
        ball.x[0] = 1.0


SHAPES = [
    ((3,), (1, 3), True), ((1, 3), (3,), True), ((12,), (1, 3, 2, 2), True), ((3, 2, 2), (1, 3, 2, 2), True), ((1, 2, 2), (1, 1, 2, 2), True),
    ((2, 2, 3), (1, 3, 2, 2), False), ((1, 2, 2, 3), (1, 3, 2, 2), False), ((2, 3), (1, 3), False), ((2, 3), (1, 6), False),
    ((3, 4), (1, 3, 2, 2), False), ((4,), (1, 3), False), ((), (1, 3), False), ((), (1, 1), True), ((6, 2), (1, 3, 2, 2), False),
]  # fmt: skip


@pytest.mark.parametrize(("given_", "wanted", "fits"), SHAPES)
def test_samples_of_other_shapes_are_refused(
    given_: tuple[int, ...], wanted: tuple[int, ...], fits: bool
) -> None:
    """Batches, channels at the other end, flattened batches: as many numbers need not be the same sample."""
    x = np.full(given_, 0.5)
    for asked in (LinfBall(x, 0.1, 0), Specification((x, x), [[([1.0, 0.0], 0.0)]])):
        if fits:
            assert parse(asked.text_for(wanted, (1, 2))).inputs == x.size
        else:
            with pytest.raises(InputError, match="shape"):
                asked.text_for(wanted, (1, 2))


def test_a_ball_is_of_classifiers() -> None:
    with pytest.raises(InputError, match="no list of scores"):
        LinfBall(X, 0.1, 0).text_for((1, 3), (1, 2, 5))
    with pytest.raises(InputError, match="not one of 1"):
        LinfBall(X, 0.1, 0).text_for((1, 3), (1, 1))
    with pytest.raises(InputError, match=r"2 coefficients.*3 outputs"):
        Specification((X, X), [[([1.0, 0.0], 0.0)]]).text_for((3,), (1, 3))
