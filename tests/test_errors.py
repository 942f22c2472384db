"""The error tree: exit codes, messages, and survival of a process border."""

from __future__ import annotations

import copy
import pickle

import pytest

from verify import errors


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.InputError, 2),
        (errors.SpecificationError, 2),
        (errors.UnboundedInputError, 2),
        (errors.ModelError, 2),
        (errors.UnsupportedOperatorError, 2),
        (errors.ResourceError, 3),
        (errors.InternalError, 70),
    ],
)
def test_exit_codes(kind: type[errors.VerifyError], code: int) -> None:
    assert kind.exit_code == code
    assert issubclass(kind, errors.VerifyError)


def test_constants() -> None:
    codes = (errors.DECIDED, errors.UNDECIDED, errors.BAD_INPUT, errors.RESOURCES, errors.INTERNAL)
    assert codes == (0, 1, 2, 3, 70)


def test_messages_hold_what_is_known() -> None:
    assert str(errors.SpecificationError("a.vnnlib", 3, 7, "found ')'", "remove it")) == (
        "a.vnnlib:3:7: found ')'; remove it"
    )
    assert str(errors.SpecificationError("a.vnnlib", None, None, "empty")) == "a.vnnlib: empty"
    operator = errors.UnsupportedOperatorError("n1", "Det", 11, "no rule")
    assert operator.message == "node 'n1': operator Det (opset 11) is not supported: no rule"
    assert "opset" not in str(errors.UnsupportedOperatorError("n1", "Det", None, "no rule"))


@pytest.mark.parametrize(
    "error",
    [
        errors.UnboundedInputError("f", 1, 2, "X_0", "no bound", "add one"),
        errors.UnsupportedOperatorError("n", "Op", 9, "why"),
        errors.ResourceError("out of memory"),
    ],
)
def test_pickle_and_copy_keep_everything(error: errors.VerifyError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.__dict__ == error.__dict__
