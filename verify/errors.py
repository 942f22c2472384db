"""The error tree: everything that can stop a run, and the exit code each stop ends with.

The idea: a caller of a verifier must be able to tell, without reading prose, *whose* problem a failure is.
So every error belongs to one of three families with an exit code each: the input is wrong (2), the machine
is too small (3), or the verifier itself is wrong (70, `EX_SOFTWARE` of sysexits). Codes 0 and 1 are no
errors: they say "decided" and "undecided". A message is printed as it is on stderr, so each one says what
was found, where, and what to do about it; a traceback is for internal errors only.

Why classes with fields and not bare messages: tools (editors, harnesses, tests) want the line and the
column, or the operator's name, without parsing text. Why `__reduce__`: errors cross process borders
(workers), and Python would rebuild them from the message alone, which a constructor with several arguments
does not accept.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final

DECIDED: Final = 0
UNDECIDED: Final = 1
BAD_INPUT: Final = 2
RESOURCES: Final = 3
INTERNAL: Final = 70


def _rebuild(kind: type[VerifyError], message: str, fields: dict[str, Any]) -> VerifyError:
    """Make an error again from its message and fields, past its constructor (for pickle and copy)."""
    error = kind.__new__(kind, message)
    error.args = (message,)
    error.__dict__.update(fields)
    return error


class VerifyError(Exception):
    """Base of all errors raised on purpose: `str(error)` is for the user, `exit_code` for the process."""

    exit_code: ClassVar[int] = INTERNAL

    @property
    def message(self) -> str:
        """The text to print on stderr, as it is."""
        return str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as (class, message, fields), independent of each constructor's arguments."""
        return _rebuild, (type(self), str(self), dict(self.__dict__))


class InputError(VerifyError):
    """Bad input or usage: the user can fix it."""

    exit_code: ClassVar[int] = BAD_INPUT


class SpecificationError(InputError):
    """A specification that cannot be read or has no sound meaning here.

    Fields: `file` (path or a stand-in such as `<text>`), `line` and `column` (from 1; None where the trouble
    is with the whole file), `reason` (what was found) and `remedy` (what to do).
    """

    def __init__(
        self, file: str, line: int | None, column: int | None, reason: str, remedy: str | None = None
    ) -> None:
        self.file, self.line, self.column = file, line, column
        self.reason, self.remedy = reason, remedy
        place = ":".join(str(part) for part in (file, line, column) if part is not None)
        super().__init__(f"{place}: {reason}" + (f"; {remedy}" if remedy else ""))


class UnboundedInputError(SpecificationError):
    """An input variable without a lower or an upper bound: `variable` names it (`X_3`)."""

    def __init__(
        self,
        file: str,
        line: int | None,
        column: int | None,
        variable: str,
        reason: str,
        remedy: str | None = None,
    ) -> None:
        self.variable = variable
        super().__init__(file, line, column, reason, remedy)


class ModelError(InputError):
    """A model file that is unreadable, malformed, or read differently here and by ONNX Runtime."""


class UnsupportedOperatorError(ModelError):
    """A node this verifier has no sound rule for; fields `node`, `operator`, `opset`, `reason`."""

    def __init__(self, node: str, operator: str, opset: int | None, reason: str) -> None:
        self.node, self.operator, self.opset, self.reason = node, operator, opset, reason
        version = "" if opset is None else f" (opset {opset})"
        super().__init__(f"node {node!r}: operator {operator}{version} is not supported: {reason}")


class ResourceError(VerifyError):
    """Memory, disk, or a device ran out: the same question may be answered on a larger machine."""

    exit_code: ClassVar[int] = RESOURCES


class UnwrittenError(ResourceError):
    """A file or stdout that cannot be written: a full disk, a limit, no permission. `result` is what was decided by then."""

    result: Any = None


class VacuousWarning(UserWarning):
    """A property that holds whatever the model, as it is written: mostly a slip of who wrote it."""


class ModeWarning(UserWarning):
    """A module of torch in training mode that computes something else there: it is verified in evaluation mode."""


class DialectWarning(UserWarning):
    """A property that is not as the standard of VNN-LIB has it, and how it was read: it can mean one thing alone."""


class InternalError(VerifyError):
    """A broken promise inside the verifier; no verdict may follow from it."""

    exit_code: ClassVar[int] = INTERNAL


# What Python, torch on any device, numpy, ONNX Runtime, HiGHS, CUDA's libraries, oneDNN and the system say, in small letters
_OUT_OF_MEMORY = (
    "out of memory", "can't allocate memory", "cannot allocate memory", "unable to allocate", "failed to allocate",
    "allocation failed", "bad_alloc", "bad allocation", "alloc_failed", "not enough memory", "out_of_memory", "memoryallocation",
    "can't start new thread", "could not create a primitive", "could not execute a primitive",
    # CUDA's libraries, where memory for their handles, plans or workspaces is short
    "unable to find an engine", "no valid execution plans", "cublas_status_not_initialized", "cudnn_status_not_initialized",
    "cusolver_status_not_initialized", "cusparse_status_not_initialized", "nvml_success == r",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception, of Python or of any library, says that memory ran out (or that a thread or process had none)."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    text = str(error).lower()
    return not isinstance(error, VerifyError) and any(words in text for words in _OUT_OF_MEMORY)


def first_line(error: BaseException) -> str:
    """What an error says, in a line; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def memory_kept(doing: str) -> Iterator[None]:
    """Within it, memory that runs out is a ResourceError that says while doing what."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            f"memory ran out while {doing} ({first_line(error)}); give it more by --memory or on a larger machine, or try --preset fast"
        ) from error
