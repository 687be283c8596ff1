"""Candidates of a run's space that it never evaluated, and that another device's front would want."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nas.run.worthwhile import worthwhile
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from latency_predictors.latency_table import LatencyTable
    from nas.run.context import RunContext
    from nas.search.store import CandidateRecord
    from search_spaces.space import Indices

NUM_PROMISING = 8
"""Candidates that are listed."""


@dataclass(frozen=True)
class Promising:
    """A candidate that was never evaluated; `gain` is what it would add to the new front's hypervolume."""

    candidate: str
    predicted_error: float
    latency_ms: float
    low_ms: float
    high_ms: float
    extrapolates: bool
    num_params: int
    gain: float


@dataclass(frozen=True)
class Unevaluated:
    """`prior_ratio`: median of measured error over sum of single swaps, by which the sums were multiplied."""

    candidates: tuple[Promising, ...]
    prior_ratio: float


def promising(
    run: RunContext,
    records: Sequence[CandidateRecord],
    evaluated: Indices,
    table: LatencyTable,
    max_latency_ms: float | None = None,
    max_params: int | None = None,
) -> Unevaluated | str:
    """What to evaluate next for a device, or in one sentence why that cannot be said.

    Args:
        records: the finished candidates; their rows are `evaluated` (M, decisions).
        table: latency on the new device.
        max_latency_ms, max_params: budgets that they keep to; of errors the run's own holds.
    """
    from nas.fidelity.swap import SwapTable, additivity
    from nas.search.settings import table_or_sample

    if not run.directory.swap_table.is_file():
        return "the run has no table of single swaps yet, from which errors are predicted"
    try:
        swaps = SwapTable.load(run.directory.swap_table)
        costs = run.shape_costs
    except UserError as error:
        return str(error)
    if {stage: tuple(options) for stage, options in swaps.errors.items()} != run.space.options:
        return f"{run.directory.swap_table} is of other stage options than search space {run.space.name!r}"
    space = run.space
    prior = swaps.prior(space.stage_rows(evaluated))
    errors = np.array([record.metrics["latent_error"] for record in records])
    try:
        ratio = additivity(prior, errors).ratio_median
    except ValueError:  # no finite sum among them: taken as they are
        ratio = 1.0
    matrix = table_or_sample(space, run.recipe.seed)
    predicted = np.stack(
        [ratio * swaps.prior(space.stage_rows(matrix)), table.latency_ms(matrix), costs.params(matrix)], axis=1
    )
    known = np.stack([errors, table.latency_ms(evaluated), [float(r.num_params) for r in records]], axis=1)
    allowed = ~np.isin(space.rank(matrix), space.rank(evaluated))
    for column, limit in enumerate((run.recipe.picks.max_error, max_latency_ms, max_params)):
        if limit is not None:
            allowed &= predicted[:, column] <= limit
    best = worthwhile(known, predicted, allowed, NUM_PROMISING)
    latency = table.predict(matrix[best.rows]) if len(best.rows) else None
    return Unevaluated(
        tuple(
            Promising(
                candidate=space.decode(matrix[row]).id,
                predicted_error=float(predicted[row, 0]),
                latency_ms=float(latency.latency_ms[i]),
                low_ms=float(latency.low_ms[i]),
                high_ms=float(latency.high_ms[i]),
                extrapolates=bool(latency.extrapolates[i]),
                num_params=int(predicted[row, 2]),
                gain=float(best.gain[i]),
            )
            for i, row in enumerate(best.rows)
            if latency is not None
        ),
        ratio,
    )
