"""What kernels cost on devices in general: a population learned from source devices, the prior of a new one.

A device is the vector of its shares: what each kernel sum, and a constant, contributes to the latency of a typical
network. The shares of a new device are taken to be a draw from the population of which the source devices are a sample
(empirical Bayes), so ten measurements need not tell all kernels apart on their own. Devices differ from the mean in
what a unit of a kernel costs wherever it runs, and in what it costs in each place (`name@place`, see base.py); how
much in either way is left to the measurements.
"""

from __future__ import annotations

from functools import cached_property
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from latency_predictors.models.base import Array, group_sums
from latency_predictors.models.fields import Matrix, Vector, check_length, check_width

#: Standard deviations of a measurement in relative error; how many times the covariance of the source devices that
#: of a new one may be, of a kernel's costs everywhere and in each place. Every combination counts by the marginal
#: likelihood of the measurements.
_NOISES = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
_WIDTHS = (0.3, 1.0, 3.0, 10.0)
_PLACE_WIDTHS = (0.1, 0.3, 1.0)
_LEAST_WEIGHT = 0.01


class Population(BaseModel):
    """Shares of a typical network's latency over devices: constant last.

    mean: (P,); everywhere: (P, P) covariance of what changes a kernel's cost in all its places alike; places: (P, P)
    covariance of the shares themselves, None where every kernel has one place.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: Vector
    everywhere: Matrix
    places: Matrix | None

    @model_validator(mode="after")
    def _is_square(self) -> Self:
        for field, rows in (("everywhere", self.everywhere), ("places", self.places)):
            if rows is not None:
                check_length(field, rows, len(self.mean), "one row per number in mean")
                check_width(field, rows, len(self.mean), "one per number in mean")
        return self

    @classmethod
    def of(cls, kernel_names: tuple[str, ...], typical: Array, shares: Array, group_shares: Array) -> Population:
        """The population of which these devices are a sample.

        typical: (K,) kernel sums of a typical network; shares: (S, K + 1) of the devices; group_shares: the same
        with the places of a kernel taken together, as base.group_sums orders them, from a fit of its own.
        """
        places = _covariance(shares)
        groups, sums = group_sums(kernel_names, typical[None])
        if len(groups) == len(kernel_names):
            return cls(mean=shares.mean(0), everywhere=places, places=None)
        spread = np.zeros((len(kernel_names) + 1, len(groups) + 1))
        spread[-1, -1] = 1.0
        for row, name in enumerate(kernel_names):
            column = groups.index(name.partition("@")[0])
            spread[row, column] = typical[row] / sums[0, column] if sums[0, column] else 0.0
        return cls(mean=shares.mean(0), everywhere=spread @ _covariance(group_shares) @ spread.T, places=places)

    @cached_property
    def _settings(self) -> list[tuple[Array, Array]]:
        """Per pair of widths the covariance C (P, P) and a root R with R^T R = C^-1."""
        mean, everywhere = np.array(self.mean), np.array(self.everywhere)
        # All shares together may be larger or smaller: the measured networks are not the typical one. The last term
        # only keeps the root finite.
        always = np.outer(mean, mean) + 1e-10 * np.eye(len(mean))
        covariances = [always + width * everywhere for width in _WIDTHS]
        if self.places is not None:
            places = np.array(self.places)
            covariances = [c + width * places for c in covariances for width in _PLACE_WIDTHS]
        return [(c, np.linalg.inv(np.linalg.cholesky(c))) for c in covariances]

    def solve(self, design: Array, weights: Array, least_share: float = 0.0) -> Array:
        """Non-negative shares (P,) for which design @ shares is about 1.

        design: (N, P) features relative to a typical network's, each row over its measured latency relative to the
        typical one; weights: (N,) factors of the rows' errors; least_share: no share is below this fraction of its mean
        in the population. The average of the maximum a posteriori shares of every setting, weighted by its likelihood.
        """
        from scipy.optimize import nnls

        mean = np.array(self.mean)
        least = least_share * np.maximum(mean, 0.0)
        design = design * weights[:, None]
        residual, noises = weights - design @ mean, np.array(_NOISES)
        likelihoods = []
        for covariance, _ in self._settings:
            values, vectors = np.linalg.eigh(design @ covariance @ design.T)
            total = np.maximum(values, 0.0) + noises[:, None] ** 2
            likelihoods.append(-0.5 * ((vectors.T @ residual) ** 2 / total + np.log(total)).sum(1))
        likely = np.exp(np.array(likelihoods) - np.max(likelihoods))
        likely[likely < _LEAST_WEIGHT * likely.sum()] = 0.0
        likely /= likely.sum()
        shares = np.zeros(len(mean))
        for setting, at in np.argwhere(likely):
            root = self._settings[setting][1]
            rows = np.vstack([design / noises[at], root])
            aims = np.concatenate([weights / noises[at], root @ mean])
            shares += likely[setting, at] * (least + nnls(rows, aims - rows @ least)[0])
        return shares


def _covariance(shares: Array) -> Array:
    """Covariance (P, P) of a population from a few of its devices (S, P).

    One imagined device that differs from the mean by an equal share of every column is added, and correlations are
    halved: shrinkage towards the diagonal (Ledoit and Wolf 2004).
    """
    num, size = shares.shape
    away = shares - shares.mean(0)
    covariance = (away.T @ away + np.eye(size) / size**2) / (num + 1)
    shrunk: Array = 0.5 * (covariance + np.diag(np.diag(covariance)))
    return shrunk
