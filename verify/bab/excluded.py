"""Clauses that need no search: a strict row of theirs holds nowhere, by the outputs' intervals alone.

A dual bound shows `C y > d`, never `C y >= d`: rounding is charged. So `y < 0` for a sigmoid's value y, whose infimum is 0 in
every arithmetic, would stay open for ever; but the interval of y has 0 as its lower end, and nothing is below it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from verify.bounders.ibp import interval
from verify.formats.vnnlib import Clause
from verify.network.graph import Network
from verify.problem import Problem

_MOST = 1000  # clauses; of more, each would have to be made


def without_excluded(problem: Problem, network: Network) -> Problem:
    """The problem less such clauses; only rows of the form `+-y_i < d` are looked at."""
    clauses = problem.specification.clauses
    if not clauses.strict or len(clauses) > _MOST:
        return problem
    excluded = np.zeros(len(clauses), dtype=np.bool_)
    for index, clause in enumerate(clauses):
        if clause.strict.any():
            lower, upper = problem.boxes([index])
            _, outputs = interval(network, lower.to(network.device), upper.to(network.device))
            excluded[index] = _excludes(clause, outputs)
    return replace(problem, specification=replace(problem.specification, clauses=clauses.without(excluded)))


def _excludes(clause: Clause, outputs: tuple[Tensor, Tensor]) -> bool:
    """Whether a strict row holds for no outputs [1, outputs] of that interval."""
    lower, upper = (end[0].cpu().double().numpy() for end in outputs)
    rows = clause.output_coefficients
    units = clause.strict & (np.abs(rows).sum(1) == 1) & (np.abs(rows).max(1, initial=0) == 1)
    if clause.input_coefficients is not None:
        units &= ~clause.input_coefficients.any(1)
    places = np.abs(rows).argmax(1)
    least = np.where(rows.min(1, initial=0) < 0, -upper[places], lower[places])
    return bool((units & (least >= clause.thresholds)).any())
