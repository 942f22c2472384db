"""Reader of VNN-LIB 1.0: text in, a disjunction of boxes with linear rows out.

**What a property is.** A file states when a network is *unsafe*: a formula over its inputs `X_i` and outputs
`Y_j`. Verification wants that formula as a disjunction of clauses "x in a box, and C y + E x <= d". The
result, `Property`, offers the clauses as a lazy sequence, since the largest files have thousands of them
over hundreds of inputs each and nobody needs all of them as float matrices at once.

**Exact first, rounded last.** Most decimals are no binary floats. Rounding them on sight would move bounds in
both directions, so a proof could be about a smaller box than the file's. Here everything stays exact until a
float is asked for, and then a lower bound is rounded down, an upper bound and a threshold up: the unsafe
region only grows, so a proof of its emptiness holds for the file's region. Strict comparisons are read as
non-strict ones for the same reason (a `strict` flag per row stays for those who look for witnesses).
`Property.violated` judges points without any rounding.

**The rooms.** `literals` (decimals as ranks and float neighbours), `terms` (exact linear terms), `reader`
(text to formula), `formula` (exact truth, normal form), `boxes` and `rows` (what clauses are made of),
`clauses` (the result), `files` (the way in, and its errors). docs/vnnlib.md tells what is read and refused.
"""

from verify.formats.vnnlib.clauses import Clause, Property
from verify.formats.vnnlib.files import parse, read

__all__ = ["Clause", "Property", "parse", "read"]
