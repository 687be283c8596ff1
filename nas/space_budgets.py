"""Ranges of the costs of a search space, and how many of its candidates are within budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas.latency_sums import latency_sums
from search_spaces.budget_counts import count_within
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.precision import Precision
from search_spaces.vae_option import STEPS

if TYPE_CHECKING:
    from latency_predictors.latency_table import LatencyTable
    from search_spaces.costs import CostTable
    from search_spaces.space import Indices

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CostRange:
    """One cost over the candidates of a space.

    Attributes:
        cost: its name, unit included, such as ``num_macs``.
        minimum, maximum: ends of the cost; of all candidates where ``ends_are_exact``, else of those looked at.
        median: of the candidates looked at.
        teacher: the teacher's own, where it is known.
    """

    cost: str
    minimum: float
    median: float
    maximum: float
    ends_are_exact: bool
    teacher: float | None


@dataclass(frozen=True)
class BudgetCount:
    """How many candidates meet a budget.

    Attributes:
        cost: the cost that is bounded; ``None``: all budgets together.
        limit: largest value, ``None`` for all together.
        num_low, num_high: bounds of the number: equal where every candidate was looked at.
        certain: whether the bounds are certain (counted), or hold with 95 % confidence (a sample's, Wilson).
        example: id of a candidate that meets it: of those looked at the one with most parameters, else one that was
            searched for; ``None``: none was found.
    """

    cost: str | None
    limit: float | None
    num_low: float
    num_high: float
    certain: bool
    example: str | None


def costs_of(
    table: CostTable, precision: Precision, latency: LatencyTable | None, matrix: Indices
) -> dict[str, Floats]:
    """Every cost (N,) by name of candidates (N, decisions); latency where a table of it is given."""
    found = {name: values.astype(np.float64) for name, values in table.all_costs(matrix, precision).items()}
    if latency is not None:
        found["latency_ms"] = np.asarray(latency.latency_ms(matrix), dtype=np.float64)
    return found


def _sums(table: CostTable, precision: Precision, name: str) -> list[tuple[float, list[Floats]]]:
    """A cost as sums over stages, one for each number of steps: what is in no stage, and (options,) of every stage.

    Empty for a cost that is no sum.
    """
    if name in ("peak_bytes", "latency_ms"):
        return []
    steps = [int(n) for n in table.space.options[STEPS]] if table.space.is_pipeline else [1]
    found = []
    for num_steps in steps:
        base, stages = table.option_costs(name, precision, num_steps)
        found.append((float(base), [costs.astype(np.float64) for costs in stages.values()]))
    return found


def _ends(table: CostTable, precision: Precision, latency: LatencyTable | None, name: str) -> list[tuple[float, float]]:
    """Least and most of a cost over all candidates, for each number of steps; empty where they are not known."""
    if name == "latency_ms" and latency is not None:
        return [part.ends_ms for part in latency_sums(latency)]
    return [
        (base + sum(float(costs.min()) for costs in stages), base + sum(float(costs.max()) for costs in stages))
        for base, stages in _sums(table, precision, name)
    ]


def range_of(
    table: CostTable, precision: Precision, latency: LatencyTable | None, name: str, values: Floats, counted: bool
) -> CostRange:
    """Range of one cost, of which ``values`` (N,) are those of the candidates looked at, all of them if ``counted``."""
    low, high = float(values.min()), float(values.max())
    ends = [] if counted else _ends(table, precision, latency, name)
    if ends:
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
    return CostRange(
        name, low, float(np.median(values)), high, counted or bool(ends), _teacher(table, precision, latency, name)
    )


def _num_within(
    table: CostTable, precision: Precision, latency: LatencyTable | None, name: str, limit: float
) -> list[tuple[float, float]]:
    """Certain bounds of the candidates within a budget, for each number of steps; empty where there are none."""
    if name == "latency_ms" and latency is not None:
        return [part.num_within(limit) for part in latency_sums(latency)]
    return [count_within(stages, limit - base) for base, stages in _sums(table, precision, name)]


def _teacher(table: CostTable, precision: Precision, latency: LatencyTable | None, name: str) -> float | None:
    """The teacher's own cost; peak memory and latency only where the teacher is a candidate of the space."""
    if name not in ("peak_bytes", "latency_ms"):
        base, _ = table.option_costs(name, precision)
        return base + sum(table.teacher_costs(name, precision).values())
    own = Candidate(options={**table.teacher_options, **({STEPS: "1"} if table.space.is_pipeline else {})})
    if not table.space.contains(own):
        return None
    return float(costs_of(table, precision, latency, table.space.encode(own)[None])[name][0])


def budget_counts(
    table: CostTable,
    precision: Precision,
    latency: LatencyTable | None,
    matrix: Indices,
    values: Mapping[str, Floats],
    budgets: Mapping[str, float],
) -> list[BudgetCount]:
    """How many candidates meet each budget, and all of several; those of ``matrix`` (N, decisions) were looked at."""
    total = table.space.num_candidates
    counted = len(matrix) == total

    def example(meets: NDArray[np.bool_], limits: Mapping[str, float]) -> str | None:
        found = np.flatnonzero(meets)
        if len(found):
            return table.space.decode(matrix[found[np.argmax(values["num_params"][found])]]).id
        return None if counted else _searched_for(table, precision, latency, limits)

    found = []
    together = np.ones(len(next(iter(values.values()))), dtype=bool)
    for name, limit in budgets.items():
        meets = values[name] <= limit
        together &= meets
        bounds = [] if counted else _num_within(table, precision, latency, name, limit)
        if bounds:
            low, high = sum(b[0] for b in bounds), sum(b[1] for b in bounds)
            found.append(BudgetCount(name, limit, low, high, True, example(meets, {name: limit})))
        else:
            found.append(
                BudgetCount(name, limit, *_of_sample(meets, total, counted), counted, example(meets, {name: limit}))
            )
    if len(budgets) > 1:
        bounds_of_all = _of_sample(together, total, counted)
        found.append(BudgetCount(None, None, *bounds_of_all, counted, example(together, budgets)))
    return found


def _searched_for(
    table: CostTable, precision: Precision, latency: LatencyTable | None, limits: Mapping[str, float]
) -> str | None:
    """Id of a candidate within limits that hardly any candidate is within."""
    from search_spaces.sampling import sample_within

    def cost(name: str, matrix: Indices) -> Floats:
        return costs_of(table, precision, latency, matrix)[name]

    costs = {name: partial(cost, name) for name in limits}
    try:
        (found,) = sample_within(table.space, costs, limits, np.random.default_rng(0), 1)
    except UserError:
        return None
    return table.space.decode(found).id


def _of_sample(meets: NDArray[np.bool_], total: int, counted: bool) -> tuple[float, float]:
    """Bounds of the number of candidates of which ``meets`` is a sample, or all."""
    hits = int(meets.sum())
    if counted:
        return hits, hits
    from scipy.stats import binomtest

    bounds = binomtest(hits, len(meets)).proportion_ci(0.95, method="wilson")
    return float(bounds.low) * total, float(bounds.high) * total
