"""What enters from Python, checked before anything is made of it: numbers, arrays, choices.

Every message names the argument, what was found, and what to give instead. Nothing is rounded, cut or reshaped in silence: a
question that is not the one asked is worse than none. numpy is imported where an array is met: plain numbers and words do without.
"""

from __future__ import annotations

import math
import os
import reprlib
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeGuard

from verify.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_EXACT = 2**53  # integers up to here are float64 numbers


def refuse(name: str, found: str, remedy: str) -> NoReturn:
    """Raises InputError, and hides the exception that led here."""
    raise InputError(f"{name} {found}; {remedy}") from None


def shown(value: Any) -> str:
    """A value in a message: simple ones as they are, others by their type and shape."""
    if isinstance(value, int) and abs(value) > _EXACT:
        return f"an integer of {value.bit_length()} bits"
    if value is None or isinstance(value, str | int | float):
        return reprlib.repr(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    shape = getattr(value, "shape", None)
    entries = (
        f" of {getattr(value, 'dtype', 'entries')} and shape {list(shape)}"
        if isinstance(shape, tuple)
        else ""
    )
    return f"of type {type(value).__name__}{entries}"


def missing(path: Path) -> tuple[str, str]:
    """What is wrong with the path of a file that there is not, and what to do."""
    packed = path.with_name(f"{path.name}.gz")
    return "there is no such file", f"give {packed.name}" if packed.exists() else "check the path"


def is_nnet(source: object) -> TypeGuard[str | Path]:
    """Whether a model is a file in Stanford's .nnet format, by its name; it may be gzipped."""
    return isinstance(source, str | Path) and str(source).lower().removesuffix(".gz").endswith(".nnet")


def is_text(specification: object) -> TypeGuard[str]:
    """Whether a property is VNN-LIB text, not the name of a file."""
    return isinstance(specification, str) and specification.lstrip().startswith(("(", ";"))


def is_file(source: object) -> TypeGuard[str | Path]:
    """Whether a property is the name of a file."""
    return isinstance(source, str | Path) and not is_text(source)


def choice(name: str, value: Any, known: Collection[str]) -> str:
    """One of some words."""
    if not isinstance(value, str) or value not in known:
        refuse(name, f"{shown(value)} is not known", f"there are {', '.join(known)}")
    return value


def output_name(value: Any) -> str | None:
    """The name of an output, or None for the only one."""
    if value is not None and not (isinstance(value, str) and value):
        refuse("output", f"is {shown(value)}", "give the name of an output of the model")
    return value


def axes(name: str, value: Any) -> tuple[int, ...]:
    """A shape: whole numbers from 0 on."""
    found = plain(name, value)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
        refuse(name, f"is {shown(value)}", "give a shape: whole numbers from 0 on")
    return tuple(integer(name, size, least=0) for size in found)


def flag(name: str, value: Any) -> bool:
    """True or False, and nothing that only counts as one of them."""
    if isinstance(value, bool):
        return value
    import numpy as np

    if not isinstance(value, np.bool_):
        refuse(name, f"is {shown(value)}", "give True or False")
    return bool(value)


def integer(name: str, value: Any, least: int, most: float = math.inf) -> int:
    """A whole number between limits: an int, or an array or tensor that holds one integer."""
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    else:
        given = plain(name, value)
        if given.dtype.kind not in "iu" or given.size != 1:
            refuse(name, f"is {shown(value)}", "give one integer")
        number = int(given.reshape(-1)[0])
    if not least <= number <= most:
        refuse(
            name,
            f"is {shown(number)}",
            f"give an integer from {least} " + (f"to {most}" if most < math.inf else "on"),
        )
    return number


def real(name: str, value: Any) -> float:
    """One finite number."""
    if type(value) in (int, float) and -_EXACT <= value <= _EXACT:
        return float(value)
    given = array(name, value)
    if given.size != 1:
        refuse(name, f"is {shown(value)}", "give one number")
    return float(given.reshape(-1)[0])


def seconds(name: str, value: Any) -> float | None:
    """A time limit above 0; None where there is none, or an infinite one."""
    if value is None or (isinstance(value, float) and value == math.inf):
        return None
    found = real(name, value)
    if found <= 0:
        refuse(name, f"is {shown(found)}", "give seconds above 0, or None for no limit")
    return found


def array(name: str, value: Any, finite: bool = True) -> Floats:
    """Real numbers as a read-only float64 copy that holds exactly them; without `finite`, infinite ones as well."""
    import numpy as np

    given = plain(name, value)
    if given.dtype.kind not in "iuf":
        refuse(name, f"is {shown(value)}, not real numbers", "give float or int")
    if not given.size:
        refuse(name, f"is {shown(value)}, without entries", "give at least one number")
    with np.errstate(all="ignore"):
        numbers: Floats = given.astype(np.float64)
    _every(name, ~np.isnan(numbers), numbers, "give numbers")
    if finite:
        _every(name, np.isfinite(numbers), numbers, "give finite numbers")
    whole = given.dtype.kind in "iu"
    kept = (given <= _EXACT) & (given >= -_EXACT) if whole else given == numbers
    _every(name, kept, given, "give numbers that float64 holds exactly")
    numbers.flags.writeable = False
    return numbers


def _every(name: str, good: NDArray[np.bool_], numbers: NDArray[Any], remedy: str) -> None:
    """Refuses an array by its first entry that is not good."""
    import numpy as np

    if not good.all():
        place = tuple(int(axis[0]) for axis in np.nonzero(~np.atleast_1d(good)))
        where = f", entry {list(place)}," if good.ndim else ""
        refuse(f"{name}{where}", f"is {np.atleast_1d(numbers)[place]}", remedy)


def plain(name: str, value: Any) -> NDArray[Any]:
    """An array, a tensor (of any device, with or without gradients) or nested sequences, as an array of its own type."""
    import numpy as np

    if "numpy.ma" in sys.modules and isinstance(value, np.ma.MaskedArray):  # which is slow to import
        refuse(name, "is a masked array", "give an array without a mask")
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            value = value.double() if value.is_floating_point() else value  # numpy lacks bfloat16
            value = value.numpy()
        return np.asarray(value)
    except MemoryError:
        raise
    except Exception as error:  # other people's classes raise what they like
        refuse(
            name, f"is {shown(value)}, which cannot be read as numbers ({error})", "give an array or a tensor"
        )


def fitting(name: str, shape: Sequence[int], wanted: Sequence[int], whose: str) -> None:
    """Whether a shape is the wanted one: axes of 1 aside, or flat, which is in row-major order."""
    own, other = ([size for size in axes if size != 1] for axes in (shape, wanted))
    if own != other and not (len(own) < 2 and math.prod(own) == math.prod(other)):
        refuse(
            name,
            f"has shape {list(shape)}, but {whose} has shape {list(wanted)}",
            "give one sample of that shape (its axes in that order; axes of 1 may be left out), or a flat array",
        )


def path(name: str, value: Any) -> Path:
    """A path that a file may have."""
    if not isinstance(value, str | Path):
        refuse(name, f"is {shown(value)}", "give a path")
    text = str(value)
    if not text or "\0" in text or not _encodable(text):
        refuse(name, f"is {shown(text)}, which no file is called", "give a path")
    return Path(value)


def _encodable(text: str) -> bool:
    try:
        return bool(os.fsencode(text))
    except UnicodeEncodeError:
        return False
