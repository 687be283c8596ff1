"""The numbers of a kernel from observations: maximum a posteriori, with analytic gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack
from scipy.optimize import minimize

from nas.search.surrogate.features import Group
from nas.search.surrogate.kernel import Kernel

Floats = NDArray[np.float64]
_LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Prior:
    """Log-normal priors (median, spread of the logarithm), for targets of variance 1."""

    linear: tuple[float, float] = (0.3, 1.5)
    rates: tuple[float, float] = (0.5, 1.0)
    scale: tuple[float, float] = (0.5, 1.0)
    noise: tuple[float, float] = (1e-3, 2.0)


@dataclass(frozen=True)
class Fitted:
    """A kernel and how well it explains the observations."""

    kernel: Kernel
    log_evidence: float
    """ln of likelihood times prior density at the maximum."""
    theta: Floats
    """Logarithms of its numbers, from which a later fit may start."""


class Fit:
    """Posterior density of a kernel's numbers, for observations (n,) at features (n, columns).

    Args:
        groups: of the features.
        linear: numbers of the groups with a linear term.
        rates: numbers of the groups in the exponential.
    """

    def __init__(
        self,
        x: Floats,
        z: Floats,
        groups: Sequence[Group],
        linear: Sequence[int],
        rates: Sequence[int],
        prior: Prior | None = None,
    ) -> None:
        self.x, self.z, self.groups = x, z, tuple(groups)
        self.linear, self.rates = tuple(linear), tuple(rates)
        self.num = len(z)
        self._products = (
            np.stack([x[:, groups[g].columns] @ x[:, groups[g].columns].T for g in linear]) if linear else None
        )
        self._distances = np.stack([_squared(x[:, groups[g].columns]) for g in rates])
        p = prior or Prior()
        parts = [p.linear] * len(self.linear) + [p.rates] * len(self.rates) + [p.scale, p.noise]
        self.center = np.log(np.array([part[0] for part in parts]))
        self.spread = np.array([part[1] for part in parts])
        # Rates: the sum over groups is what the prior speaks of.
        if len(self.rates):
            first = len(self.linear)
            self.center[first : first + len(self.rates)] -= math.log(len(self.rates))
        if len(self.linear):
            self.center[: len(self.linear)] -= math.log(len(self.linear))

    def __call__(self, theta: Floats) -> tuple[float, Floats]:
        """Negative log posterior density and its gradient at logarithms of the numbers."""
        values = np.exp(theta)
        num_linear, num_rates = len(self.linear), len(self.rates)
        rates = values[num_linear : num_linear + num_rates]
        scale, noise = values[-2], values[-1]
        exponent = np.tensordot(rates, self._distances, axes=1)
        np.negative(exponent, out=exponent)
        local = np.exp(exponent, out=exponent)
        local *= scale
        total = local + 1.0
        if self._products is not None:
            total += np.tensordot(values[:num_linear], self._products, axes=1)
        total.flat[:: self.num + 1] += noise
        factor, info = lapack.dpotrf(total, lower=1, clean=1, overwrite_a=1)
        if info != 0:
            return 1e25, np.zeros_like(theta)
        alpha, _ = lapack.dpotrs(factor, self.z, lower=1)
        value = 0.5 * float(self.z @ alpha) + float(np.log(np.diag(factor)).sum()) + 0.5 * self.num * _LOG_2PI
        inverse, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
        inverse = np.tril(inverse)
        weight = np.outer(alpha, alpha) - inverse - np.tril(inverse, -1).T
        gradient = np.empty_like(theta)
        if self._products is not None:
            gradient[:num_linear] = values[:num_linear] * np.tensordot(self._products, weight, axes=2)
        weighted = weight * local
        gradient[num_linear : num_linear + num_rates] = -rates * np.tensordot(self._distances, weighted, axes=2)
        gradient[-2] = weighted.sum()
        gradient[-1] = noise * np.trace(weight)
        off = (theta - self.center) / self.spread
        value += 0.5 * float(off @ off)
        return value, -0.5 * gradient + off / self.spread

    def maximise(self, starts: Sequence[Floats] = (), max_evaluations: int = 60) -> Fitted:
        """The most probable numbers, from the prior's medians and from `starts`."""
        best: tuple[float, Floats] | None = None
        bounds = [(c - 5 * s, c + 5 * s) for c, s in zip(self.center, self.spread, strict=True)]
        bounds[-1] = (math.log(1e-6), math.log(10.0))
        for start in starts or (self.center,):
            found = minimize(
                self,
                start,
                jac=True,
                method="L-BFGS-B",
                bounds=bounds,
                options={"maxfun": max_evaluations, "maxiter": max_evaluations, "ftol": 1e-5, "gtol": 1e-2},
            )
            if best is None or found.fun < best[0]:
                best = (float(found.fun), np.asarray(found.x))
        assert best is not None
        return Fitted(self.kernel(best[1]), -best[0], best[1])

    def kernel(self, theta: Floats) -> Kernel:
        """The kernel of logarithms of numbers."""
        values = np.exp(theta)
        linear, rates = np.zeros(len(self.groups)), np.zeros(len(self.groups))
        linear[list(self.linear)] = values[: len(self.linear)]
        rates[list(self.rates)] = values[len(self.linear) : len(self.linear) + len(self.rates)]
        return Kernel.of(self.groups, linear, rates, float(values[-2]), float(values[-1]))


def _squared(x: Floats) -> Floats:
    norms = (x * x).sum(axis=1)
    return np.maximum(norms[:, None] + norms[None, :] - 2.0 * (x @ x.T), 0.0)
