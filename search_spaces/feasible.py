"""Finding combinations within budgets where drawing at random finds too few or none.

Where costs add up over stages the question is exact: a mixed-integer programme with one choice a stage, solved by
HiGHS through scipy. Where they do not, chains walk downhill. From what is found, Gibbs sampling goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Violation = Callable[[Rows], NDArray[np.float64]]
"""Option numbers (N, stages) to how far beyond their budgets they are (N,), 0 where within all."""

_TRIES = 20
_SWEEPS_DOWN = 12
_PAIR_MOVES = 16
_TOLERANCE = 1e-9  # of a budget: rounding of floating-point sums must lose no combination
_OPTIMAL, _INFEASIBLE = 0, 2  # of scipy's milp


@dataclass(frozen=True)
class Answer:
    """What is known of the combinations within budgets.

    Attributes:
        rows: option numbers (stages,) of one of them; ``None``: there are none, or none was found.
        unsure: why that is not the last word: better ones, or any at all, may have been missed. Empty: it is
            proven that ``rows`` is the best, or that there are none.
    """

    rows: NDArray[np.int64] | None
    unsure: str = ""


def solve(
    costs: Sequence[NDArray[np.float64]],
    budgets: NDArray[np.float64],
    minimise: int | None = None,
    excluded: Sequence[NDArray[np.int64]] = (),
    seconds: float = 20.0,
) -> Answer:
    """One option a stage such that the summed costs stay within budgets.

    Args:
        costs: per stage (options, budgets).
        budgets: (budgets,); infinity for none.
        minimise: which cost to make smallest; ``None``: how much of its budget the tightest one takes.
        excluded: option numbers (stages,) that must not be the answer.
        seconds: when to stop.

    Returns:
        The answer within the solver's tolerance of 1e-6 of a budget: check, and exclude what fails.
    """
    if seconds <= 0:
        return Answer(None, "the solver had no time left")
    from scipy.optimize import Bounds, LinearConstraint, milp

    sizes = [len(table) for table in costs]
    ends = np.cumsum(sizes)
    stacked = np.concatenate([table - table.min(axis=0) for table in costs])
    least = np.sum([table.min(axis=0) for table in costs], axis=0)
    slack = budgets - least
    if (slack < -_TOLERANCE * np.maximum(np.abs(budgets), np.abs(least))).any():
        return Answer(None)
    scale = np.where(np.isfinite(slack) & (slack > 0), slack, np.maximum(stacked.max(axis=0), 1e-300))
    amounts = stacked / scale
    num, extra = len(stacked), len(stacked) + 1  # the last variable bounds the share of every budget
    one_each = np.zeros((len(costs), extra))
    for stage, (size, end) in enumerate(zip(sizes, ends, strict=True)):
        one_each[stage, end - size : end] = 1
    constraints = [LinearConstraint(one_each, 1, 1)]
    limited = np.isfinite(slack)
    if limited.any():
        rows = np.concatenate([amounts[:, limited].T, np.zeros((int(limited.sum()), 1))], axis=1)
        constraints.append(LinearConstraint(rows, -np.inf, (slack / scale)[limited]))
        if minimise is None:
            rows = rows.copy()
            rows[:, -1] = -1
            constraints.append(LinearConstraint(rows, -np.inf, 0))
    for answer in excluded:
        row = np.zeros(extra)
        row[ends - sizes + answer] = 1
        constraints.append(LinearConstraint(row[None], -np.inf, len(costs) - 1))
    objective = np.zeros(extra)
    objective[-1] = 1.0
    if minimise is not None:
        objective[:num], objective[-1] = amounts[:, minimise], 0.0
    whole = np.concatenate([np.ones(num), [0]])
    result = milp(
        objective,
        integrality=whole,
        bounds=Bounds(np.zeros(extra), np.concatenate([np.ones(num), [np.inf]])),
        constraints=constraints,
        options={"time_limit": seconds, "mip_rel_gap": 0.0},
    )
    unsure = ""
    if result.status not in (_OPTIMAL, _INFEASIBLE):
        unsure = f"the solver stopped after {seconds:.3g} seconds"
    if result.x is None:
        return Answer(None, unsure)
    chosen = result.x[:num]
    each = [int(np.argmax(chosen[end - size : end])) for size, end in zip(sizes, ends, strict=True)]
    return Answer(np.array(each), unsure)


def best_within(
    costs: Sequence[NDArray[np.float64]],
    budgets: NDArray[np.float64],
    violation: Violation,
    seconds: float,
    minimise: int | None = None,
) -> Answer:
    """As :func:`solve`, and truly within the budgets: answers that are not are excluded, one after the other.

    Args:
        violation: of option numbers (N, stages), by the true costs.
        seconds: of all tries together.
    """
    deadline = time.monotonic() + seconds
    excluded: list[NDArray[np.int64]] = []
    for _ in range(_TRIES):
        answer = solve(costs, budgets, minimise, excluded, deadline - time.monotonic())
        if answer.rows is None or violation(answer.rows[None])[0] == 0:
            return answer
        excluded.append(answer.rows)
    return Answer(None, f"what the solver found in {_TRIES} tries is beyond a budget by its rounding")


def walk_down(rows: Rows, sizes: Sequence[int], violation: Violation, rng: np.random.Generator) -> Rows:
    """Change one stage at a time to the option that goes least beyond the budgets, ties at random.

    Returns:
        Those (M, stages) of the chains (N, stages) that got within all budgets, perhaps none.
    """
    rows = rows.copy()
    for _ in range(_SWEEPS_DOWN):
        if (violation(rows) == 0).any():
            break
        for stage in rng.permutation(len(sizes)):
            beyond = _each_option(rows, stage, sizes[stage], violation)
            ties = beyond == beyond.min(axis=1, keepdims=True)
            rows[:, stage] = (rng.random(beyond.shape) * ties).argmax(axis=1)
    return rows[violation(rows) == 0]


def sweep(rows: Rows, sizes: Sequence[int], violation: Violation, rng: np.random.Generator) -> None:
    """One Gibbs sweep of chains (N, stages) within the budgets, in place; uniform combinations stay uniform.

    Every stage in turn is drawn anew among the options that keep its chain within; then pairs of stages, which one
    stage at a time may not get past, change together if that stays within (a Metropolis step).
    """
    for stage in rng.permutation(len(sizes)):
        within = _each_option(rows, stage, sizes[stage], violation) == 0
        rows[:, stage] = (rng.random(within.shape) * within).argmax(axis=1)
    if len(sizes) < 2:
        return
    every = np.arange(len(rows))
    for _ in range(_PAIR_MOVES):
        proposed = rows.copy()
        pair = rng.random((len(rows), len(sizes))).argsort(axis=1)[:, :2]
        for stage in pair.T:
            proposed[every, stage] = rng.integers(0, np.array(sizes)[stage])
        within = violation(proposed) == 0
        rows[within] = proposed[within]


def _each_option(rows: Rows, stage: int, size: int, violation: Violation) -> NDArray[np.float64]:
    """(N, options) how far beyond the budgets each chain is with each option of a stage."""
    every = np.repeat(rows, size, axis=0)
    every[:, stage] = np.tile(np.arange(size), len(rows))
    return violation(every).reshape(len(rows), size)
