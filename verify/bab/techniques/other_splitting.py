"""The other way of splitting: a search of the same problem that splits inputs, where this one splits activations.

Which way suits a problem with a middling number of inputs shows in that alone: the right one may be thousands of times faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from verify.bab.progress import Outcome
from verify.deadline import Deadline
from verify.errors import ResourceError, UnwrittenError
from verify.proof.tracer import ProofTracer


class Search(Protocol):
    """What decides a problem, and tells its own proof of that."""

    tracer: ProofTracer

    def run(self, deadline: Deadline) -> Outcome:
        """How it ended."""


@dataclass(frozen=True)
class OtherSplitting:
    """Where a search is not done after `share` of its time, the other has as much, once."""

    search: Search
    share: float = 0.05
    name: str = "the other way of splitting"

    def turn(self, deadline: Deadline) -> Deadline:
        """When it is due, asked at the beginning."""
        return deadline.share(self.share)

    def run(self, deadline: Deadline) -> Outcome | None:
        """How the other search ended; None where it needs more than this one, and so did not."""
        try:
            return self.search.run(deadline.share(self.share))
        except UnwrittenError:
            raise
        except ResourceError:
            return None
