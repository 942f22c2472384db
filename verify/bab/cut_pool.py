"""The cutting planes that all subproblems share.

They hold on the smallest box around the boxes of all roots that were open when the first were made, bounds over unsafe points
included, so wherever any of these may be violated. Where they cut depends on the subproblems whose optima they cut off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from verify.lagrangian.cuts import Cuts
from verify.network.graph import Network
from verify.state import Bounds


@dataclass(frozen=True, eq=False)
class CutPool:
    """Cuts are only ever added, so subproblems that know of fewer go by the first ones, as many as they have shares.

    versions: by how many there were, in both precisions. box: on which they hold. next_depth: of subproblems for which there may be more.
    """

    network: Network
    working: Network
    count: int = 0
    versions: Mapping[int, tuple[Cuts, Cuts]] = field(default_factory=dict)
    box: Bounds | None = None
    next_depth: int = 0

    @classmethod
    def none(cls, network: Network, working: Network) -> CutPool:
        """No cuts yet."""
        return cls(network, working)

    @property
    def all(self) -> list[Cuts]:
        """Those there are."""
        return [self.versions[self.count][0]] if self.count else []

    def of(self, count: int, network: Network) -> tuple[Cuts, ...]:
        """The first so many cuts, as the network's numbers are."""
        return (self.versions[count][network is self.working],) if count else ()

    def added(self, cuts: Cuts, box: Bounds) -> CutPool:
        """With some more, which hold on the box as the others do."""
        return replace(self._with(Cuts.joined([*self.all, cuts]), self.versions), box=box)

    def kept(self, chosen: Tensor) -> CutPool:
        """With some of them alone. Nobody else may know of any."""
        cuts = self.versions[self.count][0]
        return self._with(cuts.select(chosen), {}) if len(chosen) else replace(self, count=0, versions={})

    def _with(self, cuts: Cuts, versions: Mapping[int, tuple[Cuts, Cuts]]) -> CutPool:
        both = cuts, cuts.to(self.working.device, self.working.dtype)
        return replace(self, count=len(cuts), versions={**versions, len(cuts): both})
