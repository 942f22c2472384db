"""The cutting planes that all subproblems share.

They hold on the smallest box around the boxes of all roots that were open when the first were made, bounds over unsafe points
included, so wherever any of these may be violated. Where they cut depends on the subproblems whose optima they cut off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from verify.lagrangian.cuts import Cuts, compressed, entries
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

    def saved(self) -> dict[str, Any]:
        """What `restored` makes the same of: plain values and tensors."""
        return {
            "versions": sorted(self.versions),
            "cuts": [_saved(cuts) for cuts in self.all],
            "box": [] if self.box is None else [self.box.lower, self.box.upper],
            "next_depth": self.next_depth,
        }

    def restored(self, saved: Mapping[str, Any]) -> CutPool:
        """What was saved, of the same network; this one has no cuts."""
        device, dtype = self.network.device, self.network.dtype
        box = Bounds(*saved["box"]).to(device, dtype) if saved["box"] else None
        pool = replace(self, box=box, next_depth=saved["next_depth"])
        for one in saved["cuts"]:
            cuts = _restored(one).to(device, dtype)
            for count in saved["versions"]:
                pool = pool._with(cuts.select(torch.arange(count, device=device)), pool.versions)
        return pool

    def _with(self, cuts: Cuts, versions: Mapping[int, tuple[Cuts, Cuts]]) -> CutPool:
        both = cuts, cuts.to(self.working.device, self.working.dtype)
        return replace(self, count=len(cuts), versions={**versions, len(cuts): both})


_VECTORS = ("neurons", "slopes", "offsets", "factors", "numbers")


def _saved(cuts: Cuts) -> dict[str, Any]:
    matrices = {node: [*entries(part), list(part.shape)] for node, part in cuts.coefficients.items()}
    return {**{name: getattr(cuts, name) for name in _VECTORS}, "coefficients": matrices}


def _restored(saved: Mapping[str, Any]) -> Cuts:
    coefficients = {
        node: compressed(torch.stack([row, column]), value, tuple(size))
        for node, (row, column, value, size) in saved["coefficients"].items()
    }
    return Cuts(**{name: saved[name] for name in _VECTORS}, coefficients=coefficients)
