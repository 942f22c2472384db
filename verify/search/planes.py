"""The cutting planes that all regions share: made for the roots that are left open and for some regions as the tree gets deeper.

They hold on the smallest box around the boxes of all open clauses, unsafe points' bounds included, so wherever any of these may
be violated; where they cut depends on the regions whose optima they cut off, and what cuts one off mostly helps others as deep.
Each makes every sweep dearer, so there may be no more than a share of what the network itself multiplies, and planes that
close next to nothing of the distance from 0 are forgotten again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from torch import Tensor

from verify.bounders.cutting_planes import CuttingPlanes
from verify.bounders.dual import DualProblem
from verify.bounders.single_neuron import mean_point, planes_at
from verify.deadline import Deadline
from verify.network.affine import Affine
from verify.network.graph import Network
from verify.state import Bounds, DualState

AFFORDED = 0.1  # of the time left: roots that took longer to climb get none
ROUNDS = 3  # at the roots: each cuts off the optimum under the planes of those before
LEAST = 0.05  # of the distance from 0, that new planes must close
SAMPLE = 8  # regions whose optima are cut off together
_DEEPER = 3  # cuts after which there may be more
_ITERATIONS = 32  # whose primal points are averaged
# Coefficients of new planes, and of all, for each multiplication in the network
_AT_ONCE, _IN_ALL = 0.03, 0.12
_FEW_AT_ONCE, _FEW_IN_ALL = 2_000, 8_000  # as many in small networks, where calls cost more than products


class SharedPlanes:
    """Planes are only ever added, so regions that know of fewer go by the first ones, as many as they have shares."""

    def __init__(self, network: Network, fast: Network) -> None:
        self.network, self.fast_network = network, fast
        self.count = 0
        self.versions: dict[int, tuple[CuttingPlanes, CuttingPlanes]] = {}
        self._box: Bounds | None = None  # on which they hold
        self._next = 0  # cuts of regions for which there may be more
        self._making = Lock()
        mixes = any(layer.activation.mixes for layer in network.layers)
        # Planes need values that are affine over the reals, and boxes for all that they are affine maps of.
        self._possible = not (network.deployed or mixes)
        self._multiplications = _multiplications(network)

    def of(self, count: int, network: Network) -> CuttingPlanes | None:
        """The first so many planes, as the network's numbers are."""
        return self.versions[count][network is self.fast_network] if count else None

    @contextmanager
    def due(self, depth: int) -> Iterator[bool]:
        """Whether it is time for more: regions are a good deal deeper, and nobody else is making some."""
        ours = depth >= self._next and self._box is not None and self._making.acquire(blocking=False)
        try:
            yield ours
        finally:
            if ours:
                self._making.release()

    def tried(self, depth: int, count: int, paid: bool) -> None:
        """So many planes were in play at some depth: whether they are to stay, and when to try again."""
        if paid:
            self.count = count
        self._next = depth + _DEEPER if paid else 2 * depth + _DEEPER

    def more(
        self, problem: DualProblem, fast: DualProblem, state: DualState, magnitudes: dict[int, Tensor],
        deadline: Deadline,
    ) -> int:  # fmt: skip
        """Makes planes that cut off the optima of some regions; how many there are if they are `tried`.

        problem, fast: the regions in both precisions, under the planes there are; state: their dual points. The first regions are
        all open roots: on the box around them all planes are to hold. Raises OutOfTimeError.
        """
        if not self._possible:
            return self.count
        own, quick = self.network, self.fast_network
        if self._box is None:
            ends = problem.bounds
            self._box = Bounds(ends.lower.amin(0, keepdim=True), ends.upper.amax(0, keepdim=True))
        known = [self.versions[self.count][0]] if self.count else []
        room = max(_FEW_IN_ALL, _IN_ALL * self._multiplications) - sum(some.entries for some in known)
        most = int(min(max(_FEW_AT_ONCE, _AT_ONCE * self._multiplications), room))
        if most <= 0:
            return self.count
        point = mean_point(fast, state.to(quick.device, quick.dtype), _ITERATIONS, deadline)
        at = problem.clamp(state.to(own.device, own.dtype))
        found = planes_at(problem, at, point, self._box, magnitudes, most, deadline)
        return self.count if found is None else self._version(CuttingPlanes.joined([*known, found]))

    def _version(self, planes: CuttingPlanes) -> int:
        self.versions[len(planes)] = planes, planes.to(self.fast_network.device, self.fast_network.dtype)
        return len(planes)

    def keep(self, chosen: Tensor) -> None:
        """Only some of them. Nobody else may know of any."""
        planes = self.versions[self.count][0]
        self.versions.clear()
        self.count = self._version(planes.select(chosen)) if len(chosen) else 0


def _multiplications(network: Network) -> int:
    """In the affine maps of a pass."""
    return sum(node.size * node.operator.terms for node in network.nodes if isinstance(node.operator, Affine))
