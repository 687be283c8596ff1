"""Scales on which an objective is close to Gaussian, and what is expected of it below a level.

A surrogate predicts z ~ N(m, s^2) on the transformed scale; the hypervolume is counted in the objective's own units. So
each transform knows E[(a - f)+], the expected amount by which an objective f with that prediction falls below a.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
TransformName = Literal["identity", "log"]

_ROOT_2PI = math.sqrt(2 * math.pi)


@dataclass(frozen=True)
class Transform:
    """z = (f - location) / scale, or the same of ln(f - offset).

    Attributes:
        name: `identity` or `log`.
        location: subtracted; the mean of what was observed, so that z has mean 0.
        scale: divided by; its standard deviation.
        offset: of the logarithm, below every value observed.
    """

    name: TransformName
    location: float = 0.0
    scale: float = 1.0
    offset: float = 0.0

    @classmethod
    def of(cls, values: Floats, name: TransformName, offset: float = 0.0) -> Transform:
        """The transform that gives `values` (N,) mean 0 and standard deviation 1.

        Logarithms are only defined above `offset`.
        """
        raw = np.log(values - offset) if name == "log" else values
        spread = float(raw.std())
        return cls(
            name, float(raw.mean()), spread if spread > 1e-12 * max(1.0, abs(float(raw.mean()))) else 1.0, offset
        )

    def forward(self, values: Floats) -> Floats:
        """Objective values to z."""
        raw = np.log(values - self.offset) if self.name == "log" else values
        return (raw - self.location) / self.scale

    def inverse(self, z: Floats) -> Floats:
        """z to objective values; quantiles stay quantiles, so the inverse of m is the median."""
        raw = np.asarray(z) * self.scale + self.location
        return np.exp(raw) + self.offset if self.name == "log" else raw

    def spread(self, values: Floats, deviations: Floats) -> Floats:
        """Standard deviations of z (N,) from those of objective values (N,); to first order for logarithms."""
        return deviations / ((values - self.offset) * self.scale if self.name == "log" else self.scale)

    def log_density_change(self, values: Floats) -> float:
        """Sum of ln |dz/df| (change of variables): makes likelihoods of different transforms comparable."""
        total = -len(values) * math.log(self.scale)
        return total - float(np.log(values - self.offset).sum()) if self.name == "log" else total

    def expected_below(self, level: Floats, mean: Floats, deviation: Floats) -> Floats:
        """E[(a - f)+] for z ~ N(m, s^2).

        identity: s (u Phi(u) + phi(u)) with u = (a - m) / s; logarithm: (a - c) Phi(u) - exp(m + s^2/2) Phi(u - s)
        with u = (ln(a - c) - m) / s, m and s those of ln(f - c). Zero where the level is minus infinity.

        Args:
            level: a, broadcast against the others.
            mean: m.
            deviation: s > 0.
        """
        from scipy.special import ndtr

        center = mean * self.scale + self.location
        spread = deviation * self.scale
        if self.name == "identity":
            with np.errstate(invalid="ignore", over="ignore"):
                u = (level - center) / spread
                value = spread * (u * ndtr(u) + np.exp(-0.5 * u * u) / _ROOT_2PI)
            return np.where(np.isneginf(level), 0.0, np.maximum(value, 0.0))
        above = np.maximum(level - self.offset, 0.0)
        with np.errstate(divide="ignore"):
            u = (np.log(above) - center) / spread
        value = above * ndtr(u) - np.exp(center + 0.5 * spread * spread) * ndtr(u - spread)
        return np.maximum(value, 0.0)
