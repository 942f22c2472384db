"""VNN-LIB for `make fuzz`: properties by a small grammar, often damaged, and queries of version 2.0."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.random import Generator

from benchmarks.fuzz import Case, orderly
from benchmarks.fuzz_models import LIMIT, model_of, plain
from verify.checker.errors import Refused
from verify.checker.query import read_query
from verify.errors import InputError
from verify.formats.vnnlib import parse

_TOKENS = (
    "(", ")", "(assert", "(declare-const", "(declare-fun", "X_0", "X_1", "Y_0", "Y_1", "X_00", "Y_9", "Real", "Int", "<=", ">=", "<", ">", "=", "and",
    "or", "not", "=>", "+", "-", "*", "/", "0", "-0", "1", "0.1", "1e400", "1e-400", "1e999999999", "+5", ".5", "5.", "0x1", "inf", "nan", "1/3",
    "true", "false", "let", ";", "\r", "\n", "\x00", "\u2028", "\xa0", "|X_0|", '"', '";"', "(check-sat)", "(exit)", "(set-logic QF_LRA)", "(push 1)",
)  # fmt: skip


def _term(random: Generator, depth: int = 0) -> str:
    if depth > 2 or random.integers(3):
        number = random.choice(["0.1", "-2", "3.25", "1e-3", "7", "0.33333333333333333333"])
        return str(random.choice(["X_0", "X_1", "Y_0", "Y_1", number, number]))
    parts = [_term(random, depth + 1) for _ in range(int(random.integers(1, 4)))]
    return f"({random.choice(['+', '-', '*'])} {' '.join(parts)})"


def _formula(random: Generator, depth: int = 0) -> str:
    if depth > 2 or random.integers(2):
        return f"({random.choice(['<=', '>=', '<', '>', '<=', '>='])} {_term(random)} {_term(random)})"
    parts = [_formula(random, depth + 1) for _ in range(int(random.integers(0, 4)))]
    return f"({random.choice(['and', 'or'])} {' '.join(parts)})"


def _text(random: Generator) -> str:
    """A property of two inputs and two outputs, often damaged."""
    lines = [f"(declare-const {name}_{i} Real)" for name in "XY" for i in (0, 1)]
    for i in (0, 1):
        low, high = sorted(
            random.choice(["-1", "0.1", "0.1", "2", "-0.5", "0.30000001"], 2).tolist(), key=float
        )
        lines += [f"(assert (>= X_{i} {low}))", f"(assert (<= X_{i} {high}))"]
    lines += [f"(assert {_formula(random)})" for _ in range(int(random.integers(1, 3)))]
    text = "\n".join(lines) + "\n"
    for _ in range(int(random.choice([0, 0, 1, 2, 4]))):
        words = text.split(" ")
        at = int(random.integers(len(words)))
        match int(random.integers(4)):
            case 0:
                words[at] = str(random.choice(_TOKENS))
            case 1:
                words.insert(at, str(random.choice(_TOKENS)))
            case 2:
                del words[at]
            case _:
                words[at] += str(random.choice(_TOKENS))
        text = " ".join(words)
    return text


def vnnlib_1(folder: Path, seed: int) -> Case:
    """A property that both readers must see alike, where both read it."""
    text = _text(np.random.default_rng(seed))
    (folder / "property.vnnlib").write_text(text, encoding="utf-8", newline="")
    return Case(
        f"vnnlib_1 {seed}", lambda: _read_twice(text, seed), orderly, "benchmarks.fuzz_texts._read_twice"
    )


def _read_twice(text: str, seed: int) -> int:
    """Compares both readers on points. A difference is an exception, and so a finding."""
    try:
        mine, theirs = parse(text), read_query(text)
    except (InputError, Refused):
        return 2
    assert (mine.inputs, mine.outputs, len(mine.clauses)) == (
        theirs.inputs,
        theirs.outputs,
        len(theirs.clauses),
    )
    random = np.random.default_rng([seed, 1])
    values = [Fraction(text) for text in ("-1", "0.1", "2", "-0.5", "0", "3.25", "0.2", "0.30000001")]
    for _ in range(200):
        x = [values[k] for k in random.integers(len(values), size=mine.inputs)]
        y = [values[k] for k in random.integers(len(values), size=mine.outputs)]
        assert mine.violated(x, y) == theirs.violated(x, y), (x, y)
    return 0


_TOKENS_2 = (*_TOKENS, "(vnnlib-version <2.0>)", "(vnnlib-version <9>)", "(declare-network f", "(declare-input X float32 [1,2])", "(declare-output Y float32 [1,2])",
             "(declare-hidden H float32 [2] \"h\")", "X[0,0]", "Y[0,1]", "X[9]", "Y[]", "[", "]", "float32", "int8", "==", "!=", "(equal-to f)", "(isomorphic-to f)")  # fmt: skip


def vnnlib_2(folder: Path, seed: int) -> Case:
    """A query of version 2.0 of a drawn model, often damaged."""
    random = np.random.default_rng(seed)
    model = model_of(random)
    inputs, outputs = (
        [int(d.dim_value) for d in end.type.tensor_type.shape.dim]
        for end in (model.graph.input[0], model.graph.output[0])
    )
    names = [",".join(map(str, index)) for index in np.ndindex(*inputs)]
    lines = [
        "(vnnlib-version <2.0>)",
        "(declare-network f",
        f"(declare-input X float32 {inputs})".replace(" [", " ["),
        f"(declare-output Y float32 {outputs})",
        ")",
    ]
    lines += [f"(assert (>= X[{name}] -0.25))\n(assert (<= X[{name}] 0.5))" for name in names]
    first = ",".join("0" for _ in outputs)
    lines.append(f"(assert (<= Y[{first}] {random.choice(['0.0', '-100', '-1.5'])}))")
    text = "\n".join(lines).replace(", ", ",") + "\n"
    for _ in range(int(random.choice([0, 1, 2, 4]))):
        words = text.split(" ")
        words[int(random.integers(len(words)))] = str(random.choice(_TOKENS_2))
        text = " ".join(words)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "query.vnnlib").write_text(text, encoding="utf-8", newline="")
    return plain(f"vnnlib_2 {seed}", "run", "model.onnx", "query.vnnlib", "--timeout", LIMIT, "--quiet")
