"""Every load is compared with the model itself on a few inputs: two readings that disagree must not verify
anything.

The runner computes in the model's own type (float32 mostly), the network in float64, so they differ by
rounding. Errors of float32 evaluation grow with the magnitudes inside the network, not only with the
output's, hence the tolerance is `TOLERANCE * (1 + largest magnitude of any value of the network at that
input)`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from verify.errors import ModelError
from verify.network.activations.integer import Integer

if TYPE_CHECKING:
    from torch import Tensor

    from verify.loading.loaded import LoadedModel
    from verify.network.graph import Network

TOLERANCE = 1e-4
SCALES = (0.1, 1.0, 10.0)
FEWEST, SECONDS = 2, 2.0  # inputs that are compared however long it takes; others while this time lasts
Box = tuple[NDArray[Any], NDArray[Any]]


def check_agreement(loaded: LoadedModel, box: Box | None = None) -> None:
    """Raises ModelError where the network and the model's own runtime disagree."""
    began, compared = time.monotonic(), 0
    for sample in _samples(loaded, box):
        compared += _compare(loaded, sample)
        if compared >= FEWEST and time.monotonic() - began > SECONDS:
            return
    if not compared:
        raise ModelError(
            "the model gives infinity or NaN, or integers beyond what is known of their types, at every input "
            "tried, so its reading cannot be checked; give the box of inputs that it is for"
        )


def _samples(loaded: LoadedModel, box: Box | None) -> list[NDArray[Any]]:
    size = loaded.network.inputs
    random = np.random.default_rng(0)
    if (
        box is not None and np.size(box[0]) == size
    ):  # else the property belongs to another model; Problem says so
        lower, upper = (np.asarray(end, dtype=np.float64).reshape(size) for end in box)
        samples = [lower, upper, *(lower + random.random(size) * (upper - lower) for _ in range(3))]
    else:
        normal = [random.standard_normal(size) * scale for scale in SCALES]
        samples = [np.zeros(size), random.random(size), *normal]
    # both must see the same numbers, so those that the model's type can hold
    return [loaded.rounded(sample) for sample in samples]


def _compare(loaded: LoadedModel, sample: NDArray[Any]) -> bool:
    """Whether the outputs could be compared; raises ModelError if they could and differ."""
    import torch

    expected = loaded.evaluate(sample).astype(np.float64)
    with torch.no_grad():
        values = loaded.network.values(torch.from_numpy(sample.astype(np.float64))[None])
    found = values[-1].flatten().numpy()
    if found.shape != expected.shape:
        raise ModelError(f"the model has {expected.size} outputs, the network read from it {found.size}")
    if not (np.isfinite(expected).all() and np.isfinite(found).all()):
        return False  # an overflow of the model's own type says nothing about the network, nor does one of float64
    sizes = (value.abs().nan_to_num(0.0, 0.0) for value in values if value.numel())
    magnitude = max(float(size.max()) for size in sizes)
    difference = float(np.abs(found - expected).max(initial=0.0))
    allowed = TOLERANCE * (1 + magnitude)
    if not difference <= allowed:
        if not integers_known(loaded.network, values):
            return False  # processors differ there, and float64 does
        place = int(np.abs(found - expected).argmax())
        raise ModelError(
            f"the model was read wrongly: its output {place} differs by {difference:.3g} "
            f"from the model's own runtime (allowed: {allowed:.3g}); please report this model"
        )
    return True


def integers_known(network: Network, values: list[Tensor]) -> bool:
    """Whether all casts are of numbers that their types hold, and all sums and products small enough for float64."""
    return all(
        bool(layer.activation.known(values[layer.pre_node]).all())
        for layer in network.layers
        if isinstance(layer.activation, Integer)
    )
