"""Which networks to measure next: greedy D-optimal design under the latency prior."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latency_predictors.models.base import Array, Inputs
from latency_predictors.models.prior import LatencyPrior, combine
from search_spaces.errors import UserError


def propose(prior: LatencyPrior, candidates: Inputs, measured: Sequence[int], num: int) -> list[int]:
    """Rows of `num` candidates to measure next, the most informative first.

    Each is the one whose latency is the least certain given the rows `measured` and those already chosen. That is
    greedy maximisation of the determinant of the covariance (D-optimal design), within 1 - 1/e of the best set's
    information (Krause, Singh and Guestrin 2008; Nemhauser et al. 1978). The variances are the median of the
    prior's settings; latencies play no part, so all `num` can be measured at once.
    O(candidates * (measured + num)^2): a pivoted Cholesky factorisation.

    Raises UserError when fewer than `num` unmeasured candidates are left, or a measured row does not exist.
    """
    total = len(candidates)
    wrong = [row for row in measured if not 0 <= row < total]
    if wrong:
        raise UserError(f"measured: row {wrong[0]} of {total} candidates; rows are 0 to {total - 1}")
    left = total - len(set(measured))
    if not 0 <= num <= left:
        raise UserError(f"num: {num} candidates asked for, {left} are not measured yet; give 0 to {left}")
    variances = np.median(np.array(prior.variances), axis=0)
    features = prior.features(candidates)
    uncertainty = combine(variances, features.diagonal())
    factor = np.zeros((total, len(measured) + num))

    def condition(row: int, step: int) -> None:
        cross = combine(variances, features.parts(prior.features(candidates.rows([row]))))[:, 0]
        known: Array = factor[:, :step] @ factor[row, :step]
        factor[:, step] = (cross - known) / np.sqrt(max(uncertainty[row], 0.0) + variances[4])
        np.subtract(uncertainty, factor[:, step] ** 2, out=uncertainty)

    for step, row in enumerate(measured):
        condition(row, step)
    free = np.ones(total, dtype=bool)
    free[list(measured)] = False
    chosen: list[int] = []
    for step in range(len(measured), len(measured) + num):
        row = int(np.argmax(np.where(free, uncertainty, -np.inf)))
        condition(row, step)
        free[row] = False
        chosen.append(row)
    return chosen
