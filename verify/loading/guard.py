"""What goes wrong while a model is read is said of the model, whatever it was: a file can be hostile, and converters and
rules raise what they like."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from verify.deadline import OutOfTimeError
from verify.errors import ModelError, ResourceError, VerifyError, first_line, is_out_of_memory

IN_MEMORY = "the model"  # the name of one that is given as such


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Within it everything but a late deadline becomes a ModelError or ResourceError that names the model."""
    try:
        yield
    except VerifyError as error:
        if not str(error).startswith(f"{name}: "):
            error.args = (f"{name}: {error}",)
        raise
    except OutOfTimeError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise ResourceError(
                f"{name}: memory ran out while the model was read ({first_line(error)})"
            ) from error
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(f"{name}: it cannot be read ({reason}); please report this model") from error
