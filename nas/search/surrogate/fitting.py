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

    The logarithms of the numbers are one vector: linear weights, for each component its rates and its scale, noise.

    Args:
        groups: of the features.
        linear: numbers of the groups with a linear term.
        components: numbers of the groups in each exponential.
        variances: (n,) of each observation's own noise, known beforehand.
    """

    def __init__(
        self,
        x: Floats,
        z: Floats,
        groups: Sequence[Group],
        linear: Sequence[int],
        components: Sequence[Sequence[int]],
        prior: Prior | None = None,
        variances: Floats | None = None,
    ) -> None:
        self.x, self.z, self.groups, self.num = x, z, tuple(groups), len(z)
        self.variances = 0.0 if variances is None else variances
        self.linear, self.components = tuple(linear), tuple(tuple(part) for part in components)
        shape = (len(self.linear), self.num, self.num)
        products = [x[:, groups[g].columns] @ x[:, groups[g].columns].T for g in linear]
        self._products = np.stack(products) if products else np.zeros(shape)
        distances = {g: _squared(x[:, groups[g].columns]) for g in {g for part in self.components for g in part}}
        self._distances = [np.stack([distances[g] for g in part]) for part in self.components]
        p = prior or Prior()
        # Medians are those of the sum over groups: more groups are not more flexible a priori.
        shared = [(p.linear[0] / max(1, len(self.linear)), p.linear[1])] * len(self.linear)
        for part in self.components:
            shared += [(p.rates[0] / len(part), p.rates[1])] * len(part)
            shared += [(p.scale[0] / len(self.components), p.scale[1])]
        shared.append(p.noise)
        self.center = np.log(np.array([median for median, _ in shared]))
        self.spread = np.array([spread for _, spread in shared])

    def __call__(self, theta: Floats) -> tuple[float, Floats]:
        """Negative log posterior density and its gradient at logarithms of the numbers."""
        values = np.exp(theta)
        num = len(self.linear)
        total = np.tensordot(values[:num], self._products, axes=1)
        total += 1.0
        locals_ = []
        start = num
        for distances in self._distances:
            rates, scale = values[start : start + len(distances)], values[start + len(distances)]
            local = np.tensordot(-rates, distances, axes=1)
            np.exp(local, out=local)
            local *= scale
            total += local
            locals_.append((start, rates, local))
            start += len(distances) + 1
        total.flat[:: self.num + 1] += values[-1] + self.variances
        factor, info = lapack.dpotrf(total, lower=1, clean=1, overwrite_a=1)
        if info != 0:
            return 1e25, np.zeros_like(theta)
        alpha, _ = lapack.dpotrs(factor, self.z, lower=1)
        value = 0.5 * float(self.z @ alpha) + float(np.log(np.diag(factor)).sum()) + 0.5 * self.num * _LOG_2PI
        inverse, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
        inverse = np.tril(inverse)
        weight = np.outer(alpha, alpha) - inverse - np.tril(inverse, -1).T
        gradient = np.empty_like(theta)
        gradient[:num] = values[:num] * np.tensordot(self._products, weight, axes=2)
        for (start, rates, local), distances in zip(locals_, self._distances, strict=True):
            local *= weight
            gradient[start : start + len(rates)] = -rates * np.tensordot(distances, local, axes=2)
            gradient[start + len(rates)] = local.sum()
        gradient[-1] = values[-1] * np.trace(weight)
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
        linear, rates = np.zeros(len(self.groups)), np.zeros((len(self.components), len(self.groups)))
        linear[list(self.linear)] = values[: len(self.linear)]
        start, scales = len(self.linear), []
        for row, part in zip(rates, self.components, strict=True):
            row[list(part)] = values[start : start + len(part)]
            scales.append(values[start + len(part)])
            start += len(part) + 1
        return Kernel.of(self.groups, linear, rates, np.array(scales), float(values[-1]))


def _squared(x: Floats) -> Floats:
    norms = (x * x).sum(axis=1)
    return np.maximum(norms[:, None] + norms[None, :] - 2.0 * (x @ x.T), 0.0)
