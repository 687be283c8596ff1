"""The covariance of two candidates: trends that add up, and deviations that only near candidates share.

k(x, y) = constant + sum_g linear_g <x_g, y_g> + sum_c scale_c exp(-sum_g rate_cg |x_g - y_g|^2) (+ noise, for the same)

over feature groups g and components c. A linear term on one-hot columns is an additive model of the decisions, on a
cost a straight trend. In an exponential, squared distances of one-hot columns count differing decisions and those of
thermometer columns count steps, so it is the exponential kernel in these and the squared exponential one in the costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.search.surrogate.features import Group

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Kernel:
    """A kernel with its numbers."""

    linear: Floats
    """(columns,) weights of the linear term."""
    rates: Floats
    """(components, columns) weights of squared distances."""
    scales: Floats
    """(components,) variances."""
    noise: float
    constant: float = 1.0

    @classmethod
    def of(
        cls,
        groups: Sequence[Group],
        linear: Floats,
        rates: Floats,
        scales: Floats,
        noise: float,
        constant: float = 1.0,
    ) -> Kernel:
        """From numbers per group: `linear` (groups,), `rates` (components, groups), `scales` (components,)."""
        width = groups[-1].columns.stop
        by_column = np.zeros((1 + len(rates), width))
        for number, group in enumerate(groups):
            by_column[0, group.columns] = linear[number]
            by_column[1:, group.columns] = rates[:, [number]]
        return cls(by_column[0], by_column[1:], np.asarray(scales, dtype=np.float64), noise, constant)

    def __call__(self, x: Floats, y: Floats) -> Floats:
        """Covariance (N, M) of features (N, columns) and (M, columns), without noise."""
        used = self.linear > 0
        out = (x[:, used] * self.linear[used]) @ y[:, used].T
        out += self.constant
        for rates, scale in zip(self.rates, self.scales, strict=True):
            root = np.sqrt(rates[rates > 0])
            a, b = x[:, rates > 0] * root, y[:, rates > 0] * root
            # -|a - b|^2 = 2 ab - a^2 - b^2, and exp of it, in place: this is where the time goes.
            local = a @ b.T
            local *= 2.0
            local -= (a * a).sum(axis=1)[:, None]
            local -= (b * b).sum(axis=1)
            np.minimum(local, 0.0, out=local)
            np.exp(local, out=local)
            local *= scale
            out += local
        return out

    def diagonal(self, x: Floats) -> Floats:
        """Variance (N,), without noise."""
        return self.constant + float(self.scales.sum()) + (x * x) @ self.linear
