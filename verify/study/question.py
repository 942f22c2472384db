"""What a study asks of every sample: balls, and how they are decided."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from verify.loading import LoadedModel, load
from verify.request import known_device, known_preset
from verify.specification import L1Ball, L2Ball, LinfBall
from verify.specification.base import parts, scores
from verify.study.data import Data
from verify.validation import choice, fitting, integer, output_name, real, refuse, seconds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from verify.problem import Model
    from verify.validation import Floats

    Ball = LinfBall | L2Ball | L1Ball

BALLS: dict[str, type[LinfBall] | type[L2Ball] | type[L1Ball]] = {"inf": LinfBall, "2": L2Ball, "1": L1Ball}


@dataclass(frozen=True)
class Search:
    """How each ball is decided that nothing else decides, checked. timeout: seconds, None for no limit."""

    timeout: float | None
    device: Any
    preset: str
    seed: int

    def __post_init__(self) -> None:
        device = str(self.device) if isinstance(self.device, torch.device) else self.device
        checked = {
            "timeout": seconds("timeout", self.timeout),
            "device": known_device(device),
            "preset": known_preset(self.preset),
            "seed": integer("seed", self.seed, least=0),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Balls:
    """Balls of one norm around samples, in the data's units (clip, mean, std: see LinfBall)."""

    norm: str
    clip: Any
    mean: Any
    std: Any

    def __post_init__(self) -> None:
        norm: Any = self.norm
        if isinstance(norm, int | float) and not isinstance(norm, bool):
            norm = f"{norm:g}"
        object.__setattr__(self, "norm", choice("norm", norm, BALLS))

    def at(self, x: Floats, epsilon: float, label: int) -> Ball:
        """The ball around one sample."""
        return BALLS[self.norm](x, epsilon, label, clip=self.clip, mean=self.mean, std=self.std)

    def ends(self, x: Floats, epsilon: float) -> tuple[Floats, Floats]:
        """The boxes of some samples' balls, as the model is given them, [samples, inputs] each."""
        ends = [self.at(one, epsilon, 0).ends() for one in x]
        lower, upper = (np.stack([end[side].ravel() for end in ends]) for side in (0, 1))
        return lower, upper

    def given(self, x: Floats) -> Floats:
        """Some samples as the model is given them, [samples, inputs]."""
        return np.stack([self.at(one, 0.0, 0).sample.given(one).ravel() for one in x])


def radii(value: Any) -> tuple[float, ...]:
    """Radii from 0 on, in order, each once. Raises InputError."""
    one = isinstance(value, int | float) or getattr(value, "ndim", 1) == 0
    several = (value,) if one else parts("epsilon", value, "give a radius, or a list of some")
    found = sorted({real("epsilon", radius) for radius in several})
    if found[0] < 0:
        refuse("epsilon", f"is {found[0]}", "give radii from 0 on")
    return tuple(found)


def loaded(
    model: Model, balls: Balls, data: Data, largest: float, output: str | None, as_file: bool = False
) -> LoadedModel:
    """The model, of scores for all the data's labels; as_file: as in `load`. Raises InputError."""
    found = _loaded(model, balls, data.x, largest, output_name(output), as_file)
    fitting("a sample", data.x.shape[1:], found.input_shape, "the model's input")
    classes = scores("study", found.input_shape, found.output_shape)
    wrong = np.flatnonzero(data.labels >= classes)
    if len(wrong) or classes < 2:
        told = f"label {data.labels[wrong[0]]} of sample {wrong[0]}" if len(wrong) else "the model's output"
        refuse(
            told,
            f"is not of {classes} classes",
            "count classes from 0 on, and give a classifier of at least 2",
        )
    return found


def _loaded(
    model: Model, balls: Balls, x: Floats, largest: float, output: str | None, as_file: bool
) -> LoadedModel:
    if isinstance(model, LoadedModel):
        if output is not None:
            refuse(
                "output",
                f"is {output!r}",
                "what was loaded before says itself what its output is; leave it out",
            )
        if model.within is not None or model.of_query:
            refuse("the model", "was loaded for another property", "give the model's file instead")
        return model
    lower, upper = balls.ends(x, largest)
    hull = torch.from_numpy(lower.min(0)), torch.from_numpy(upper.max(0))
    box = lower[:_COMPARED], upper[:_COMPARED]
    return load(model, None, box, output=output, hint=(1, *x.shape[1:]), hull=lambda: hull, as_file=as_file)


_COMPARED = 16  # samples in whose boxes a load is compared with the model


def predictions(model: LoadedModel, given: Floats) -> NDArray[np.int64]:
    """The class of every sample, as the model runs: the highest output's; -1 where several are highest, or some are no numbers."""
    scored = model.evaluate(model.rounded(given)).reshape(len(given), -1).astype(np.float64)
    finite = np.isfinite(scored).all(1)
    alone = (scored == scored.max(1, keepdims=True)).sum(1) == 1
    return np.where(alone & finite, scored.argmax(1), -1).astype(np.int64)


def nested(lower: Floats, upper: Floats, element_type: str) -> NDArray[np.bool_]:
    """Which boxes are their own input sets: each interval holds a number of the model's type, so that larger boxes hold all that they do."""
    kind = np.dtype(element_type)
    with np.errstate(over="ignore"):
        least = lower.astype(kind)
    least = np.where(least.astype(np.float64) < lower, np.nextafter(least, kind.type(np.inf)), least)
    return np.asarray((least.astype(np.float64) <= upper).all(axis=1))


def _fed(digest: Any, value: Any) -> None:
    """Tells a digest what a network is made of: tensors by their bytes, structures by their parts."""
    if isinstance(value, torch.Tensor):
        digest.update(repr((value.dtype, value.shape)).encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    elif is_dataclass(value):
        digest.update(type(value).__name__.encode())
        for part in fields(value):
            _fed(digest, getattr(value, part.name))
    elif isinstance(value, tuple | list):
        digest.update(f"{len(value)}".encode())
        for part in value:
            _fed(digest, part)
    else:
        known = isinstance(value, int | float | str | None)
        digest.update((repr(value) if known else type(value).__name__).encode())


def identity(
    model: LoadedModel, data: Data, balls: Balls, output: str | None, found: Sequence[int]
) -> dict[str, Any]:
    """What tells one study from another: digests of the model as it was read, the data, and the questions. found: the predictions."""
    network = hashlib.sha256()
    _fed(network, model.network.nodes)
    settings = repr(
        [
            np.asarray(part).tolist() if part is not None else None
            for part in (balls.clip, balls.mean, balls.std)
        ]
    )
    return {
        "format": "verify study 1",
        "model": network.hexdigest(),
        "samples": hashlib.sha256(
            repr(data.x.shape).encode() + data.x.tobytes() + data.labels.tobytes()
        ).hexdigest(),
        "predictions": hashlib.sha256(np.array(found, dtype=np.int64).tobytes()).hexdigest(),
        "norm": balls.norm,
        "clip, mean and std": hashlib.sha256(settings.encode()).hexdigest(),
        "output": output,
    }
