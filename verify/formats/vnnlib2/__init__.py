"""Reader of VNN-LIB 2.0: a query about several networks becomes a property of one, their joint network.

**What a query is.** It declares networks with their input, hidden and output tensors, and asserts formulas over the elements of
all of them; it is satisfiable where inputs exist for which all assertions hold. Put all networks side by side, and that is
what VNN-LIB 1.0 says of a single one: a formula over flat inputs and outputs. So the result, `Query`, holds the same
`Property` as the reader of version 1.0 makes, by the same code, exactly and lazily.

**What is added to the outputs.** Hidden tensors are further outputs of the joint network, and so are initialized inputs, which
are constants, and the products of variables in the assertions, one for each that is different: with them every assertion is linear.

**The rooms.** `declarations` (networks and variables), `elements` (text to numbers of variables), `reader` (the grammar),
`relations` (equal inputs, bounds that follow), `query` (the result), `files` (the way in, for both versions).
docs/vnnlib.md tells what is read and refused.
"""

from verify.formats.vnnlib2.declarations import INITIALIZED, ISOMORPHIC, REAL, Declaration, Variable
from verify.formats.vnnlib2.files import is_query, parse, parse_query, read
from verify.formats.vnnlib2.query import Query

__all__ = [
    "INITIALIZED",
    "ISOMORPHIC",
    "REAL",
    "Declaration",
    "Query",
    "Variable",
    "is_query",
    "parse",
    "parse_query",
    "read",
]
