"""Which networks to measure next: greedy optimal design under the latency prior."""

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
    _check(total, measured, num)
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


def propose_for(
    prior: LatencyPrior, targets: Inputs, candidates: Inputs, measured: Sequence[int], num: int
) -> list[int]:
    """Rows of `num` candidates to measure next, so that the `targets` are predicted best; the best first.

    Each is the one that lowers the mean variance of the targets' log latencies most, given the rows `measured` and
    those already chosen: greedy I-optimal design, also known as active learning after Cohn (Cohn 1996; Seo et al.
    2000). D-optimal design (`propose`) asks for what is least like anything measured, the corners of a space; this one
    asks for what tells most of the others, which matters with ten measurements and fewer
    (docs/calibrating.md).
    O(targets * candidates + candidates^2) memory; latencies play no part.

    Raises UserError as `propose`.
    """
    total = len(candidates)
    _check(total, measured, num)
    variances = np.median(np.array(prior.variances), axis=0)
    offered, wanted = prior.features(candidates), prior.features(targets)
    own: Array = combine(variances, offered.parts(offered))
    cross: Array = combine(variances, wanted.parts(offered))
    free = np.ones(total, dtype=bool)

    def condition(row: int) -> None:
        nonlocal own, cross
        known = own[row] / (own[row, row] + variances[4])
        cross = cross - np.outer(cross[:, row], known)
        own = own - np.outer(own[:, row], known)
        free[row] = False

    for row in measured:
        condition(row)
    chosen: list[int] = []
    for _ in range(num):
        gain = np.sum(cross**2, axis=0) / (np.maximum(np.diag(own), 0.0) + variances[4])
        row = int(np.argmax(np.where(free, gain, -np.inf)))
        condition(row)
        chosen.append(row)
    return chosen


def _check(total: int, measured: Sequence[int], num: int) -> None:
    wrong = [row for row in measured if not 0 <= row < total]
    if wrong:
        raise UserError(f"measured: row {wrong[0]} of {total} candidates; rows are 0 to {total - 1}")
    left = total - len(set(measured))
    if not 0 <= num <= left:
        raise UserError(f"num: {num} candidates asked for, {left} are not measured yet; give 0 to {left}")
