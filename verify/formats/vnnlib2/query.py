"""The result of reading: a query, and what it says of its networks' joint inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from verify.formats.vnnlib.clauses import Property
from verify.formats.vnnlib.literals import Integers
from verify.formats.vnnlib2.declarations import EQUAL, Declaration, Variable


@dataclass(frozen=True, eq=False)
class Query:
    """A query about a *joint network*, which is all networks side by side.

    `property`: of the joint network's flat inputs and outputs. Its outputs are those of all networks in order of
    declaration, then all hidden variables, then all initialized inputs, then the products that the assertions speak of; `products` holds the factors of
    each: 2 i for joint input i, 2 j + 1 for joint output j.  `input_of`: int64 [elements of declared inputs], the joint
    input of each; inputs that must be equal are one, and where there are none, there is one that is 0 and that nothing depends on.
    """

    networks: tuple[Declaration, ...]
    property: Property
    input_of: Integers
    products: tuple[tuple[int, ...], ...]

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """All variables, in order of declaration."""
        return tuple(variable for network in self.networks for variable in network.variables)

    @cached_property
    def implemented(self) -> tuple[str, ...]:
        """The names of the networks that need a model: all that are not equal to another one."""
        return tuple(network.name for network in self.networks if network.relation != EQUAL)
