"""Ranges of the costs of a search space, and how many of its candidates are within budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from search_spaces.budget_counts import count_within
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.precision import Precision
from search_spaces.vae_option import STEPS

if TYPE_CHECKING:
    from latency_predictors.profile import DeviceProfile
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
    table: CostTable, precision: Precision, device: DeviceProfile | None, matrix: Indices
) -> dict[str, Floats]:
    """Every cost (N,) by name of candidates (N, decisions); latency where a device profile is given."""
    found = {name: values.astype(np.float64) for name, values in table.all_costs(matrix, precision).items()}
    if device is not None:
        found["latency_ms"] = device.latency_ms(table.space, matrix)
    return found


def _sums(
    table: CostTable, precision: Precision, device: DeviceProfile | None, name: str
) -> list[tuple[float, list[Floats]]]:
    """A cost as sums over stages, one for each number of steps: what is in no stage, and (options,) of every stage.

    Empty for a cost that is no sum.
    """
    if name == "peak_bytes":
        return []
    if name == "latency_ms":
        assert device is not None
        if not device.is_sum_of_parts:
            return []
        # The first options' latency, and what each other option adds to it.
        space = table.space
        rows = np.zeros((1 + sum(space.stage_sizes), len(space.stage_sizes)), dtype=np.int64)
        ends = 1 + np.cumsum(space.stage_sizes)
        for column, (end, size) in enumerate(zip(ends, space.stage_sizes, strict=True)):
            rows[end - size : end, column] = np.arange(size)
        latency = device.latency_ms(space, space.from_stage_rows(rows))
        added = [latency[end - size : end] - latency[0] for end, size in zip(ends, space.stage_sizes, strict=True)]
        return [(float(latency[0]), added)]
    steps = [int(n) for n in table.space.options[STEPS]] if table.space.is_pipeline else [1]
    found = []
    for num_steps in steps:
        base, stages = table.option_costs(name, precision, num_steps)
        found.append((float(base), [costs.astype(np.float64) for costs in stages.values()]))
    return found


def range_of(
    table: CostTable, precision: Precision, device: DeviceProfile | None, name: str, values: Floats, counted: bool
) -> CostRange:
    """Range of one cost, of which ``values`` (N,) are those of the candidates looked at, all of them if ``counted``."""
    sums = _sums(table, precision, device, name)
    low, high = float(values.min()), float(values.max())
    if sums and not counted:
        low = min(base + sum(float(costs.min()) for costs in stages) for base, stages in sums)
        high = max(base + sum(float(costs.max()) for costs in stages) for base, stages in sums)
    return CostRange(
        name, low, float(np.median(values)), high, counted or bool(sums), _teacher(table, precision, device, name)
    )


def _teacher(table: CostTable, precision: Precision, device: DeviceProfile | None, name: str) -> float | None:
    """The teacher's own cost; peak memory and latency only where the teacher is a candidate of the space."""
    if name not in ("peak_bytes", "latency_ms"):
        base, _ = table.option_costs(name, precision)
        return base + sum(table.teacher_costs(name, precision).values())
    own = Candidate(options={**table.teacher_options, **({STEPS: "1"} if table.space.is_pipeline else {})})
    if not table.space.contains(own):
        return None
    return float(costs_of(table, precision, device, table.space.encode(own)[None])[name][0])


def budget_counts(
    table: CostTable,
    precision: Precision,
    device: DeviceProfile | None,
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
        return None if counted else _searched_for(table, precision, device, limits)

    found = []
    together = np.ones(len(next(iter(values.values()))), dtype=bool)
    for name, limit in budgets.items():
        meets = values[name] <= limit
        together &= meets
        sums = [] if counted else _sums(table, precision, device, name)
        if sums:
            bounds = [count_within(stages, limit - base) for base, stages in sums]
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
    table: CostTable, precision: Precision, device: DeviceProfile | None, limits: Mapping[str, float]
) -> str | None:
    """Id of a candidate within limits that hardly any candidate is within."""
    from search_spaces.sampling import sample_within

    def cost(name: str, matrix: Indices) -> Floats:
        return costs_of(table, precision, device, matrix)[name]

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
