"""What search and checker leave out of the network alike: each makes the equal network by itself, of the layers that both can do without."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int
from torch import Tensor

from verify.checker.errors import Refused
from verify.checker.network import Network
from verify.checker.opposites import without
from verify.checker.rationals import Integers


class Agreement:
    """Asked of each layer whether the checker leaves out the same of its own network. Without a network nothing is."""

    def __init__(self, network: Network | None = None) -> None:
        self._network, self._layers = network, () if network is None else network.layers
        self._left_out: Integers = np.zeros(0, dtype=np.int64)

    def __call__(self, number: int, kept: Int[Tensor, " kept"]) -> bool:
        """Whether these neurons of a layer are enough. The last layer comes first."""
        if self._network is None:
            return False
        span = self._layers[number].variables
        stays = np.zeros(span.stop - span.start, dtype=bool)
        stays[kept.tolist()] = True
        try:
            self._network = without(self._network, number, stays)
        except Refused:
            return False
        self._left_out = np.concatenate([span.start + np.flatnonzero(~stays), self._left_out])
        return True

    def settled(self) -> Integers:
        """The variables of all that is left out, as the checker's own network has them. Nothing more is asked, and the network is not kept."""
        self._network, self._layers = None, ()
        return self._left_out
