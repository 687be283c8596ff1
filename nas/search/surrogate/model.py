"""The surrogate of one unknown quantity: its scale and kernel chosen by evidence, and kept up to date."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from nas.search.surrogate.features import Group
from nas.search.surrogate.fitting import Fit, Fitted, Prior
from nas.search.surrogate.process import Process, View
from nas.search.surrogate.transforms import Transform, TransformName

Floats = NDArray[np.float64]

# Numbers kept of a view: 240 MB. Beyond it, posteriors are computed in blocks and forgotten.
_MAX_KEPT = 30_000_000
_BLOCK = 8192
# Up to so many observations a fit starts from the prior's medians as well as from the last fit.
_FEW = 48
# A scale whose evidence is behind by more than this (in nats) is tried again only when observations have grown by half.
_BEHIND = 6.0


@dataclass(frozen=True)
class SurrogateSettings:
    """What a surrogate may choose from, and how often it chooses again."""

    transforms: tuple[TransformName, ...] = ("log", "identity")
    """Scales among which the evidence decides; logarithms only where all values are positive."""
    linear: tuple[str, ...] = ("category", "order", "cost", "given")
    """Feature groups with a linear (additive) term."""
    components: tuple[tuple[str, ...], ...] = (("category", "order", "cost", "given"),)
    """Feature groups in each exponential term."""
    prior: Prior = field(default_factory=Prior)
    own_deviation: bool = True
    """Whether a candidate's own deviation from the smooth model is part of its value (it comes out the same when
    the candidate is evaluated again), or noise of the measurement."""
    refit_growth: float = 0.1
    """Numbers are fitted again when the observations have grown by this share."""
    max_fit: int = 128
    """Most observations that numbers are fitted to."""
    max_observed: int = 1000
    """Most observations that a posterior starts from; the best half of more, and an even choice of the others."""


@dataclass(frozen=True)
class Predicted:
    """z ~ N(mean, deviation^2) of N candidates, on the scale of `transform`."""

    mean: Floats
    deviation: Floats
    transform: Transform

    def __len__(self) -> int:
        return len(self.mean)

    def expected_below(self, levels: Floats, rows: slice) -> Floats:
        """E[(a - f)+] of the candidates `rows` for each level a of (levels,): (rows, levels)."""
        return self.transform.expected_below(levels, self.mean[rows, None], self.deviation[rows, None])

    def probability_below(self, level: float) -> Floats:
        """P(f <= level) (N,)."""
        return np.asarray(ndtr((self.transform.forward(np.array(level)) - self.mean) / self.deviation))

    def quantiles(self, row: int, units: Sequence[float]) -> list[float]:
        """Values of one candidate `units` standard deviations from the median."""
        return [float(self.transform.inverse(self.mean[row] + unit * self.deviation[row])) for unit in units]


class Surrogate:
    """Predicts one unknown quantity of candidates from those observed, as if pending ones had come out as predicted.

    Call :meth:`update`, then :meth:`predict` for any arrays of candidates.
    """

    def __init__(self, groups: Sequence[Group], settings: SurrogateSettings) -> None:
        self._groups, self._settings = tuple(groups), settings
        self._linear = _chosen(groups, settings.linear)
        chosen = [_chosen(groups, names) for names in settings.components]
        self._components = [part for part in chosen if part]
        self.fitted: Fitted | None = None
        self.transform = Transform("identity")
        self._process: Process | None = None
        self._fitted_at = 0
        self._rivals: tuple[TransformName, ...] = ()
        self._compared_at = 0
        self._position: dict[int, int] = {}
        self._wrong: dict[int, float] = {}
        self._dropped: set[int] = set()
        self._z: Floats = np.zeros(0)
        self._view: View | None = None
        self._viewed: Floats | None = None

    def update(self, keys: Sequence[int], features: Floats, values: Floats, deviations: Floats | None = None) -> bool:
        """Take in what is known now.

        Args:
            keys: (n + p,) whole numbers that name the observed, then the pending candidates.
            features: (n + p, columns) of them.
            values: (n,) of the observed ones, n >= 1.
            deviations: (n,) standard deviations of what is wrong with them beyond the noise of all (None: nothing).

        Returns:
            Whether the kernel was chosen anew.
        """
        num = len(values)
        wrong = np.zeros(num) if deviations is None else deviations
        anew = self._is_due(keys, values)
        # A pending candidate that was stopped is known less well than it was believed to become.
        known = dict(zip(keys[:num], wrong.tolist(), strict=True))
        if anew or any(self._wrong[key] != known.get(key, 0.0) for key in self._position):
            kept = subset(values, self._settings.max_observed)
            if anew:
                self._fit(features[kept], values[kept], wrong[kept])
                self._fitted_at = num
            assert self.fitted is not None
            rows = np.concatenate([kept, np.arange(num, len(keys))])
            variances = np.concatenate([self.transform.spread(values, wrong) ** 2, np.zeros(len(keys) - num)])
            self._process = Process(self.fitted.kernel, features[rows], variances[rows])
            self._wrong = {key: known.get(key, 0.0) for key in keys}
            self._position = {keys[row]: i for i, row in enumerate(rows)}
            self._dropped = {key for key in keys[:num] if key not in self._position}
            self._view = self._viewed = None
        assert self._process is not None
        own = dict.fromkeys(keys[num:], 0.0)
        own |= dict(zip(keys[:num], (self.transform.spread(values, wrong) ** 2).tolist(), strict=True))
        for key, row in zip(keys, features, strict=True):
            if key not in self._position and key not in self._dropped:
                self._position[key] = self._process.num_observed
                self._wrong[key] = known.get(key, 0.0)
                self._process.add(row, own[key])
        z = np.full(self._process.num_observed, np.nan)
        transformed = self.transform.forward(values)
        for key, value in zip(keys[:num], transformed, strict=True):
            if key in self._position:
                z[self._position[key]] = value
        self._z = self._process.believe(z)
        return anew

    def _is_due(self, keys: Sequence[int], values: Floats) -> bool:
        num = len(values)
        if self._process is None or num < self._fitted_at:
            return True
        if self.transform.name == "log" and values.min() <= self.transform.offset:
            return True
        # Candidates that failed stay in the process as believed ones; many of them would be felt.
        if len(self._position.keys() - set(keys)) > max(2, self._fitted_at // 20):
            return True
        base = min(self._fitted_at, self._settings.max_observed)
        return num - self._fitted_at >= max(1.0, self._settings.refit_growth * base)

    def believed(self, keys: Sequence[int]) -> Floats:
        """Values that pending candidates are believed to have."""
        return self.transform.inverse(self._z[[self._position[key] for key in keys]])

    def predict(self, candidates: Floats, keep: bool = False) -> Predicted:
        """Prediction of `candidates` (N, columns).

        Args:
            candidates: features.
            keep: whether the same array will be given again: its posterior is then kept, and brought up to date
                at little cost.
        """
        assert self._process is not None and self.fitted is not None
        noise = self.fitted.kernel.noise if self._settings.own_deviation else 0.0
        if keep and len(candidates) * self._process.num_observed <= _MAX_KEPT:
            if self._view is None or candidates is not self._viewed:
                self._view, self._viewed = View(self._process, candidates), candidates
            mean, variance = self._view.mean(self._z), self._view.variance
        else:
            mean, variance = np.empty(len(candidates)), np.empty(len(candidates))
            for start in range(0, len(candidates), _BLOCK):
                rows = slice(start, start + _BLOCK)
                view = View(self._process, candidates[rows])
                mean[rows], variance[rows] = view.mean(self._z), view.variance
        return Predicted(mean, np.sqrt(variance + noise), self.transform)

    def _fit(self, features: Floats, values: Floats, wrong: Floats) -> None:
        """Choose the transform and the kernel's numbers by the evidence of observations."""
        keep = subset(values, self._settings.max_fit)
        x, y, wrong = features[keep], values[keep], wrong[keep]
        legal = tuple(name for name in self._settings.transforms if name != "log" or values.min() > 0)
        names = tuple(name for name in self._rivals if name in legal)
        if not names or not self._compared_at <= len(values) < 1.5 * self._compared_at:
            names, self._compared_at = legal, len(values)
        found: dict[TransformName, tuple[float, Fitted, Transform]] = {}
        last = self.fitted
        for name in names:
            transform = Transform.of(y, name)
            own = transform.spread(y, wrong) ** 2
            z = transform.forward(y)
            fit = Fit(x, z, self._groups, self._linear, self._components, self._settings.prior, own)
            starts = [] if last is None else [last.theta]
            if last is None or len(keep) <= _FEW:
                starts.append(fit.center)
            fitted = fit.maximise(starts)
            found[name] = fitted.log_evidence + transform.log_density_change(y), fitted, transform
            last = fitted
        assert found, "no transform is defined for these values"
        best, self.fitted, self.transform = max(found.values(), key=lambda one: one[0])
        self._rivals = tuple(name for name, (evidence, _, _) in found.items() if evidence > best - _BEHIND)


def subset(values: Floats, most: int) -> NDArray[np.int64]:
    """Numbers of at most `most` observations: the best half, and an even choice of the others."""
    if len(values) <= most:
        return np.arange(len(values))
    order = np.argsort(values, kind="stable")
    half = most // 2
    rest = order[half:]
    return np.sort(np.concatenate([order[:half], rest[np.linspace(0, len(rest) - 1, most - half).astype(int)]]))


def _chosen(groups: Sequence[Group], names: Sequence[str]) -> list[int]:
    return [i for i, group in enumerate(groups) if group.name.rstrip("0123456789") in names]
