"""Tensors that no machine holds, as a few bytes of a model can ask for, are refused before they are made."""

from __future__ import annotations

import math
from collections.abc import Sequence

from verify.errors import ResourceError
from verify.memory import budget


def check_size(shape: Sequence[int]) -> None:
    """Raises ResourceError for a tensor of too many entries."""
    if math.prod(shape) > budget().entries:
        raise ResourceError(
            f"a tensor of shape {list(shape)} has more than {budget().entries} entries, which memory does not hold"
        )
