"""A Gaussian process to which observations are added one at a time, seen from fixed lists of candidates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from nas.search.surrogate.kernel import Kernel

Floats = NDArray[np.float64]
_JITTER = 1e-9


class Process:
    """Observed candidates and the Cholesky factor of their covariance (Rasmussen and Williams 2006, algorithm 2.1).

    Args:
        kernel: with its noise.
        observed: features (n, columns).
        variances: (n,) of each observation's own noise beyond the kernel's (None: none).
    """

    def __init__(self, kernel: Kernel, observed: Floats, variances: Floats | None = None) -> None:
        self.kernel = kernel
        covariance = kernel(observed, observed)
        covariance.flat[:: len(observed) + 1] += kernel.noise + _JITTER + (0.0 if variances is None else variances)
        self._factor = _Growing(np.asarray(np.linalg.cholesky(covariance), dtype=np.float64), square=True)
        self._x = _Growing(observed)

    @property
    def num_observed(self) -> int:
        """n."""
        return len(self._x.rows)

    @property
    def observed(self) -> Floats:
        """Features (n, columns)."""
        return self._x.rows

    @property
    def factor(self) -> Floats:
        """Lower Cholesky factor (n, n)."""
        return self._factor.rows

    def add(self, features: Floats, variance: float = 0.0) -> None:
        """One more observation, at features (columns,), with noise of its own. O(n^2)."""
        row = features[None]
        part = solve_triangular(self.factor, self.kernel(self.observed, row)[:, 0], lower=True, check_finite=False)
        own = float(self.kernel.diagonal(row)[0]) + self.kernel.noise + variance + _JITTER - float(part @ part)
        self._factor.append(np.append(part, np.sqrt(max(own, 1e-12))))
        self._x.append(features)

    def whiten(self, z: Floats) -> Floats:
        """L^-1 z (n,) of values (n,)."""
        return np.asarray(solve_triangular(self.factor, z, lower=True, check_finite=False))

    def believe(self, z: Floats) -> Floats:
        """Values (n,) with those missing (NaN) replaced by their posterior means given the others (Kriging believer).

        With such values the weights K^-1 z of the missing ones are zero: they change no mean, only variances.
        """
        missing = np.flatnonzero(np.isnan(z))
        if not len(missing):
            return z
        filled = np.where(np.isnan(z), 0.0, z)
        units = np.zeros((len(z), len(missing)))
        units[missing, np.arange(len(missing))] = 1.0
        # The precision matrix is L^-T L^-1, of which only the rows of missing values are needed.
        half = solve_triangular(self.factor, units, lower=True, check_finite=False)
        filled[missing] = -np.linalg.solve(half.T @ half, half.T @ self.whiten(filled))
        return filled


class View:
    """Posterior mean and variance of fixed candidates.

    The whitened covariances V = L^-1 K(observed, candidates) are kept, so that an observation that was added to the
    process costs O(n N) instead of O(n^2 N).

    Args:
        process: may grow afterwards.
        candidates: features (N, columns).
    """

    def __init__(self, process: Process, candidates: Floats) -> None:
        self._process, self._candidates = process, candidates
        white = process.kernel(process.observed, candidates)
        white = solve_triangular(process.factor, white, lower=True, check_finite=False, overwrite_b=True)
        self._white = _Growing(white)
        self._variance = process.kernel.diagonal(candidates) - np.einsum("ij,ij->j", white, white)

    def _catch_up(self) -> None:
        process = self._process
        start = len(self._white.rows)
        if start == process.num_observed:
            return
        covariance = process.kernel(process.observed[start:], self._candidates)
        for row, values in zip(process.factor[start:], covariance, strict=True):
            num = len(self._white.rows)
            values -= row[:num] @ self._white.rows
            values /= row[num]
            self._white.append(values)
            self._variance = self._variance - values * values

    def mean(self, z: Floats) -> Floats:
        """Posterior mean (N,) given the observed values (n,)."""
        self._catch_up()
        return self._process.whiten(z) @ self._white.rows

    @property
    def variance(self) -> Floats:
        """Posterior variance (N,) of the noise-free function."""
        self._catch_up()
        return np.maximum(self._variance, 1e-12)


class _Growing:
    """A matrix whose rows (and columns, if it is square and lower triangular) are appended without copying it all."""

    def __init__(self, start: Floats, square: bool = False) -> None:
        self._num, self._square = len(start), square
        self._buffer = start

    @property
    def rows(self) -> Floats:
        return self._buffer[: self._num, : self._num] if self._square else self._buffer[: self._num]

    def append(self, row: Floats) -> None:
        if self._num == len(self._buffer):
            room = self._num + max(16, self._num // 4)
            grown = np.zeros((room, room if self._square else self._buffer.shape[1]))
            grown[: self._num, : self.rows.shape[1]] = self.rows
            self._buffer = grown
        self._buffer[self._num, : len(row)] = row
        self._num += 1
