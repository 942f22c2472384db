"""The verdict of one property, with what shows it.

`unsat` needs a program (`milp.py`) for each clause whose minimum is clearly positive; `sat` needs a float32
witness inside the decimals of the file on which ONNX Runtime's own outputs are clearly unsafe. Anything
nearer to zero than `CLEAR` is `unknown`. Clauses are visited by their relaxation's bound, and those bounded
above the best point found need no program of their own.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from properties.export import open_session, run_session
from properties.milp import Encoding, encode
from properties.network import Array, Network
from properties.spec import Query, read_queries, violated

CLEAR = 1e-3
"""The least distance of a margin from zero that counts as a verdict."""

SECONDS = 60.0
"""The time limit of one program."""

BUDGET = {False: 90.0, True: 40.0}
"""The time limit of a property's programs together, without and with a witness in hand."""


@dataclass(frozen=True)
class Decision:
    """``lower_bound <= least margin over the clauses <= margin``; `relaxation` is the root's lower bound."""

    verdict: str
    method: str
    relaxation: float
    lower_bound: float
    margin: float
    unstable: int
    seconds: float
    witness: tuple[float, ...] | None


def margin_at(network: Network, query: Query, x: Array) -> float:
    """The clause's margin at a point, in float64."""
    return float(np.max(query.coefficients @ network.forward(x) - query.threshold))


def attack(network: Network, query: Query, restarts: int = 5, steps: int = 40) -> Array:
    """Projected sign descent on the margin; returns the best point."""
    random, width = np.random.default_rng(0), query.upper - query.lower
    points = []
    for _ in range(restarts):
        x = query.lower + width * random.random(len(width))
        for step in range(steps):
            worst = np.argmax(query.coefficients @ network.forward(x) - query.threshold)
            slope = network.gradient(x, query.coefficients[worst])
            x = np.clip(x - width * 0.2 * 0.9**step * np.sign(slope), query.lower, query.upper)
            points.append(x)
    return min(points, key=lambda point: margin_at(network, query, point))


def round_inward(query: Query, x: Array) -> np.ndarray:
    """The float32 point nearest to `x` within the box."""
    rounded = x.astype(np.float32)
    rounded = np.where(rounded < query.lower, np.nextafter(rounded, np.float32(np.inf)), rounded)
    rounded = np.where(rounded > query.upper, np.nextafter(rounded, np.float32(-np.inf)), rounded)
    return rounded.astype(np.float32)


def confirmed(onnx_path: Path, text: str, query: Query, witness: np.ndarray) -> bool:
    """Whether ONNX Runtime's outputs at the witness are unsafe, clearly and by the file's own decimals."""
    outputs = run_session(open_session(onnx_path), witness).astype(np.float64)
    clear = bool(np.max(query.coefficients @ outputs - query.threshold) < -CLEAR)
    return clear and violated(text, witness.tolist(), outputs.tolist())


def decide(onnx_path: Path, text: str) -> Decision:
    """Decide a property file against a network file."""
    start = time.perf_counter()
    queries = read_queries(text)
    encodings: list[Encoding] = [encode(onnx_path, query.lower, query.upper) for query in queries]
    network = encodings[0].network
    points = [(query, attack(network, query)) for query in queries]
    bounds = [
        encoding.minimise(query.coefficients, query.threshold, integer=False).lower_bound
        for encoding, query in zip(encodings, queries, strict=True)
    ]
    relaxation, spent = min(bounds), 0.0
    for index in np.argsort(bounds):
        query = queries[index]
        best = min(margin_at(network, *point) for point in points)
        seconds = min(SECONDS, BUDGET[best < -CLEAR] - spent)
        if bounds[index] < best and seconds > 0:
            began = time.perf_counter()
            found = encodings[index].minimise(query.coefficients, query.threshold, seconds=seconds)
            bounds[index] = max(bounds[index], found.lower_bound)
            points.append((query, found.x))
            spent += time.perf_counter() - began
    query, x = min(points, key=lambda point: margin_at(network, *point))
    witness, least = round_inward(query, x), min(bounds)
    verdict, method = "unknown", "none"
    if least > CLEAR:
        verdict, method = "unsat", "milp"
    elif confirmed(onnx_path, text, query, witness):
        verdict, method = "sat", "witness"
    return Decision(
        verdict,
        method,
        relaxation,
        least,
        margin_at(network, query, x),
        max(encoding.unstable for encoding in encodings),
        time.perf_counter() - start,
        tuple(witness.tolist()) if verdict == "sat" else None,
    )
