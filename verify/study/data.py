"""Data sets as people have them: arrays, files of numpy, data sets of torch, folders of images. All become samples and labels."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from verify.errors import InputError, first_line, is_out_of_memory
from verify.validation import array, integer, path, plain, refuse, shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from verify.validation import Floats

_SAMPLES = ("x", "X", "images", "x_test", "X_test", "data", "inputs", "arr_0")
_LABELS = ("y", "Y", "labels", "y_test", "Y_test", "targets", "target", "arr_1")
_MOST_LABEL = 2**31


@dataclass(frozen=True)
class Data:
    """Samples, [samples, ..] in float64, and their labels, int64."""

    x: Floats
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def read(x: Any, y: Any = None, limit: int | None = None) -> Data:
    """The first `limit` samples of what may hold some. Raises InputError.

    x: an array or tensor with as many labels in `y`; or, without y, a path of an .npz file or a folder of images (a folder for each class), a
    Dataset or a DataLoader of torch that gives pairs of samples and labels; or, with y a path too, paths of two .npy files.
    """
    limit = None if limit is None else integer("limit", limit, least=1)
    if isinstance(x, str | Path):
        x, y = _of_path(path("the data", x), y, limit)
    elif y is None:
        x, y = _of_pairs(x, limit)
    return _checked(x, y, limit)


def _checked(x: Any, y: Any, limit: int | None) -> Data:
    """Samples and labels that fit."""
    given, labels = plain("the samples", x), plain("the labels", y)
    if given.ndim < 2:
        refuse(
            "the samples",
            f"are {shown(given)}",
            "give an array with an axis of samples before those of one sample",
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        refuse(
            "the labels",
            f"are {shown(labels)}",
            "give a whole number for each sample, the number of its class from 0 on",
        )
    if len(labels) != len(given):
        refuse("the labels", f"are {len(labels)}, the samples {len(given)}", "give one for each")
    samples = array("the samples", given[:limit])
    labels = labels[:limit]
    if (labels < 0).any() or (labels > _MOST_LABEL).any():
        refuse("the labels", f"reach from {labels.min()} to {labels.max()}", "count classes from 0 on")
    return Data(samples, labels.astype(np.int64))


# -- files


def _of_path(x: Path, y: Any, limit: int | None) -> tuple[Any, Any]:
    if os.path.isdir(x):
        if y is not None:
            refuse(
                "the labels",
                "are given beside a folder of images",
                "leave them out: each class is a folder in it",
            )
        return _images(x, limit)
    found = _numpy(x)
    if isinstance(found, dict):
        if y is not None:
            refuse("the labels", f"are given beside {x}", "leave them out: an .npz file holds them")
        return _named(x, found, _SAMPLES, "samples"), _named(x, found, _LABELS, "labels")
    if y is None:
        refuse(
            "the labels",
            "are not given",
            f"{x} is one array: give another file of labels, or one .npz file of both",
        )
    labels = _numpy(path("the labels", y)) if isinstance(y, str | Path) else y
    if isinstance(labels, dict):
        labels = _named(Path(y), labels, _LABELS, "labels")
    return found, labels


def _numpy(file: Path) -> Any:
    """An array, or the arrays of a file by their names."""
    try:
        found = np.load(file, allow_pickle=False)
        if isinstance(found, np.lib.npyio.NpzFile):
            with found:
                return {
                    name: found[name] for name in found.files if name in (*_SAMPLES, *_LABELS)
                } or dict.fromkeys(found.files)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise InputError(
            f"{file}: cannot be read as .npz or .npy ({first_line(error)}); give a file that numpy.savez or numpy.save wrote, "
            "without objects"
        ) from None
    except Exception as error:  # damaged files make zlib and others raise what they like
        if is_out_of_memory(error):
            raise
        raise InputError(f"{file}: is damaged ({first_line(error)}); write it again") from None
    return found


def _named(file: Path, arrays: dict[str, Any], names: tuple[str, ...], what: str) -> Any:
    """The array of the first name that the file has."""
    for name in names:
        if arrays.get(name) is not None:
            return arrays[name]
    raise InputError(
        f"{file}: has no {what} ({', '.join(map(repr, arrays)) or 'nothing'}); save them as {names[0]!r}, as in "
        "numpy.savez(file, x=samples, y=labels)"
    )


def _images(folder: Path, limit: int | None) -> tuple[Any, Any]:
    """The images of a folder with a folder for each class, in the order of their names, channels first, from 0 to 1."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.functional import pil_to_tensor

    try:
        images = ImageFolder(str(folder))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}: holds no images ({first_line(error)}); make a folder in it for each class"
        ) from None
    step = max(1, len(images) // limit) if limit else 1  # of all classes, not of the first alone
    chosen = [images.samples[i] for i in range(0, len(images), step)][:limit]
    found, labels = [], []
    for file, label in chosen:
        try:
            found.append(pil_to_tensor(images.loader(file)).numpy())
        except (OSError, ValueError, SyntaxError) as error:
            raise InputError(f"{file}: is no image ({first_line(error)}); repair or remove it") from None
        labels.append(label)
    sizes = {image.shape for image in found}
    if len(sizes) > 1:
        refuse(
            str(folder),
            f"holds images of different sizes ({sorted(sizes)[0]}, {sorted(sizes)[1]})",
            "resize them to one",
        )
    return np.stack(found).astype(np.float32) / np.float32(255), np.array(labels)


# -- torch


def _of_pairs(x: Any, limit: int | None) -> tuple[Any, Any]:
    """Samples and labels of a Dataset or a DataLoader."""
    remedy = "give labels as y, or a Dataset or DataLoader of pairs (sample, label)"
    if (
        hasattr(x, "ndim")
        or not (hasattr(x, "__iter__") or hasattr(x, "__getitem__"))
        or isinstance(x, dict | set)
    ):
        refuse("the labels", "are not given", remedy)
    batched = hasattr(x, "batch_size") and getattr(x, "batch_size", None) is not None
    samples: list[NDArray[Any]] = []
    labels: list[int] = []
    try:
        for pair in _pairs(x, limit):
            one, label = pair
            some, theirs = plain("a sample", one), plain("a label", label)
            samples += list(some) if batched else [some]
            labels += theirs.reshape(-1).tolist() if batched else [integer("a label", label, 0)]
            if limit is not None and len(samples) >= limit:
                break
    except InputError:
        raise
    except Exception as error:  # other people's classes raise what they like
        if is_out_of_memory(error):
            raise
        refuse("the data", f"are {shown(x)}, which gives no pairs ({first_line(error)})", remedy)
    if not samples:
        refuse("the data", "are empty", remedy)
    if len({one.shape for one in samples}) > 1:
        refuse("the data", "have samples of different shapes", "give samples of one shape")
    return np.stack(samples), np.array(labels)


def _pairs(x: Any, limit: int | None) -> Iterable[Any]:
    """What a data set gives, one by one; of a Dataset by its places, as it may not end otherwise."""
    if hasattr(x, "__getitem__") and isinstance(x, Sized):
        indexed: Any = x
        return (indexed[i] for i in range(len(x) if limit is None else min(limit, len(x))))
    found: Iterable[Any] = iter(x)
    return found
