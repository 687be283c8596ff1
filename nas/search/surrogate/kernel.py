"""The covariance of two candidates: trends that add up, and deviations that only near candidates share.

k(x, y) = constant + sum_g linear_g <x_g, y_g> + scale exp(-sum_g rate_g |x_g - y_g|^2) (+ noise, for the same one)

over feature groups g. A linear term on one-hot columns is an additive model of the decisions, on thermometer columns
one whose neighbouring values are alike, on a cost a straight trend. In the exponential, squared distances of one-hot
columns count differing decisions and those of thermometer columns count steps, so it is the exponential kernel in
these and the squared exponential one in the costs.
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
    """A kernel with its numbers; `columns` entries repeat those of the groups."""

    linear: Floats
    """(columns,) weights of the linear term."""
    rates: Floats
    """(columns,) weights of squared distances."""
    scale: float
    noise: float
    constant: float = 1.0

    @classmethod
    def of(
        cls, groups: Sequence[Group], linear: Floats, rates: Floats, scale: float, noise: float, constant: float = 1.0
    ) -> Kernel:
        """From one number per group."""
        width = groups[-1].columns.stop
        by_column = np.zeros((2, width))
        for number, group in enumerate(groups):
            by_column[:, group.columns] = np.array([[linear[number]], [rates[number]]])
        return cls(by_column[0], by_column[1], scale, noise, constant)

    def __call__(self, x: Floats, y: Floats) -> Floats:
        """Covariance (N, M) of features (N, columns) and (M, columns), without noise."""
        root = np.sqrt(self.rates)
        a, b = x * root, y * root
        distance = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None, :]
        distance -= 2.0 * (a @ b.T)
        np.maximum(distance, 0.0, out=distance)
        np.negative(distance, out=distance)
        out = np.exp(distance, out=distance)
        out *= self.scale
        used = self.linear > 0
        if used.any():
            out += (x[:, used] * self.linear[used]) @ y[:, used].T
        out += self.constant
        return out

    def diagonal(self, x: Floats) -> Floats:
        """Variance (N,), without noise."""
        return self.constant + self.scale + (x * x) @ self.linear
