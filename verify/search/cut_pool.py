"""The cutting planes that all subproblems share: made for the roots that are left open and for some subproblems as the tree gets deeper.

They hold on the smallest box around the boxes of all open clauses, unsafe points' bounds included, so wherever any of these may
be violated; where they split depends on the subproblems whose optima they cut off, and what splits one off mostly helps others as deep.
Each makes every sweep dearer, so there may be no more than a share of what the network itself multiplies, and cuts that
close next to nothing of the distance from 0 are forgotten again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from torch import Tensor

from verify.bounders.cuts import Cuts
from verify.bounders.dual import DualProblem
from verify.bounders.single_neuron_cuts import cuts_at, mean_point
from verify.deadline import Deadline
from verify.network.affine import Affine
from verify.network.graph import Network
from verify.state import Bounds, DualState

AFFORDED = 0.1  # of the time left: roots that took longer to climb get none
ROUNDS = 3  # at the roots: each cuts off the optimum under the cuts of those before
LEAST = 0.05  # of the distance from 0, that new cuts must close
SAMPLE = 8  # subproblems whose optima are cut off together
_DEEPER = 3  # splits after which there may be more
_ITERATIONS = 32  # whose primal points are averaged
# Coefficients of new cuts, and of all, for each multiplication in the network
_AT_ONCE, _IN_ALL = 0.03, 0.12
_FEW_AT_ONCE, _FEW_IN_ALL = 2_000, 8_000  # as many in small networks, where calls cost more than products


class CutPool:
    """Cuts are only ever added, so subproblems that know of fewer go by the first ones, as many as they have shares."""

    def __init__(self, network: Network, working: Network) -> None:
        self.network, self.working_network = network, working
        self.count = 0
        self.versions: dict[int, tuple[Cuts, Cuts]] = {}
        self._box: Bounds | None = None  # on which they hold
        self._next = 0  # splits of subproblems for which there may be more
        self._making = Lock()
        mixes = any(layer.activation.mixes for layer in network.layers)
        # Cuts need values that are affine over the reals, and boxes for all that they are affine maps of.
        self._possible = not (network.deployed or mixes)
        self._multiplications = _multiplications(network)

    def of(self, count: int, network: Network) -> Cuts | None:
        """The first so many cuts, as the network's numbers are."""
        return self.versions[count][network is self.working_network] if count else None

    @contextmanager
    def due(self, depth: int) -> Iterator[bool]:
        """Whether it is time for more: subproblems are a good deal deeper, and nobody else is making some."""
        ours = depth >= self._next and self._box is not None and self._making.acquire(blocking=False)
        try:
            yield ours
        finally:
            if ours:
                self._making.release()

    def tried(self, depth: int, count: int, paid: bool) -> None:
        """So many cuts were in play at some depth: whether they are to stay, and when to try again."""
        if paid:
            self.count = count
        self._next = depth + _DEEPER if paid else 2 * depth + _DEEPER

    def more(
        self, problem: DualProblem, working: DualProblem, state: DualState, magnitudes: dict[int, Tensor],
        deadline: Deadline,
    ) -> int:  # fmt: skip
        """Makes cuts that cut off the optima of some subproblems; how many there are if they are `tried`.

        problem, working: the subproblems in both precisions, under the cuts there are; state: their dual points. The first subproblems are
        all open roots: on the box around them all cuts are to hold. Raises OutOfTimeError.
        """
        if not self._possible:
            return self.count
        own, working_network = self.network, self.working_network
        if self._box is None:
            ends = problem.bounds
            self._box = Bounds(ends.lower.amin(0, keepdim=True), ends.upper.amax(0, keepdim=True))
        known = [self.versions[self.count][0]] if self.count else []
        room = max(_FEW_IN_ALL, _IN_ALL * self._multiplications) - sum(some.entries for some in known)
        most = int(min(max(_FEW_AT_ONCE, _AT_ONCE * self._multiplications), room))
        if most <= 0:
            return self.count
        point = mean_point(
            working, state.to(working_network.device, working_network.dtype), _ITERATIONS, deadline
        )
        at = problem.clamp(state.to(own.device, own.dtype))
        found = cuts_at(problem, at, point, self._box, magnitudes, most, deadline)
        return self.count if found is None else self._version(Cuts.joined([*known, found]))

    def _version(self, cuts: Cuts) -> int:
        self.versions[len(cuts)] = cuts, cuts.to(self.working_network.device, self.working_network.dtype)
        return len(cuts)

    def keep(self, chosen: Tensor) -> None:
        """Only some of them. Nobody else may know of any."""
        cuts = self.versions[self.count][0]
        self.versions.clear()
        self.count = self._version(cuts.select(chosen)) if len(chosen) else 0


def _multiplications(network: Network) -> int:
    """In the affine maps of a pass."""
    return sum(node.size * node.operator.terms for node in network.nodes if isinstance(node.operator, Affine))
