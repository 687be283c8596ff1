"""The default predictor: analytic, transferred and Gaussian process predictions, weighted by what each got right."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict

from latency_predictors.models.base import FittedModel, Inputs, Prediction, Support, Vector, check_latency, interval
from latency_predictors.models.gp import FittedGp, Gp
from latency_predictors.models.nnls import Features, FittedNnls, Nnls
from latency_predictors.models.prior import LatencyPrior

#: With fewer measurements the members cannot be judged, and the Gaussian process alone predicts. With 3, the mean
#: rank correlation leave-one-device-out on NAS-Bench-201 is 0.877 for it and 0.845 for the ensemble; with 5, 0.920
#: and 0.924.
_LEAST_JUDGED = 5
#: As many measurements' worth of trust in the Gaussian process' own variance.
_PRIOR_COUNT = 10.0


class Ensemble(BaseModel):
    """Weighted geometric mean of NNLS on kernel sums, NNLS on source devices, and the Gaussian process.

    A member's weight is the inverse square of its mean squared leave-one-out error (inverse-variance weights, Bates and
    Granger 1969, are flatter and did slightly worse; so did a fourth member, NNLS on both kinds of features). Without
    source devices the member that needs them is left out; with fewer than five measurements only the Gaussian process
    is there. The interval is the Gaussian process' own, widened or narrowed by the ensemble's leave-one-out errors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prior: LatencyPrior

    def fit(self, inputs: Inputs, latency_ms: ArrayLike) -> FittedEnsemble:
        """Fits every member to the measured latencies (N,) in ms; UserError as the members raise it."""
        measured = check_latency(latency_ms, len(inputs))
        gp = Gp(prior=self.prior).fit(inputs, measured)
        additive: list[FittedNnls] = []
        if len(measured) >= _LEAST_JUDGED:
            sources, kernels = self.prior.scales
            scales: dict[Features, np.ndarray] = {"kernels": kernels}
            if inputs.sources is not None:
                scales["sources"] = sources
            additive = [Nnls(features=f, scale=scale).fit(inputs, measured) for f, scale in scales.items()]
        members: list[FittedModel] = [*additive, gp]
        weights, errors = np.ones(1), np.array(gp.loo_log_errors)
        if additive:
            each = np.array([m.loo_log_errors for m in members])
            # A floor of 0.1 %: a member that happens to fit a few rows exactly is not infinitely better.
            weights = (np.mean(each**2, axis=1) + 1e-6) ** -2.0
            weights /= weights.sum()
            errors = weights @ each
        ratio = float(np.sum((errors / np.array(gp.loo_log_std)) ** 2)) if len(errors) else 0.0
        return FittedEnsemble(
            gp=gp,
            additive=tuple(additive),
            weights=weights,
            std_factor=float(np.sqrt((_PRIOR_COUNT + ratio) / (_PRIOR_COUNT + len(errors)))),
            kernel_names=inputs.kernel_names,
            num_sources=inputs.num_sources,
            support=Support.of(inputs),
            loo_log_errors=errors,
        )


class FittedEnsemble(FittedModel):
    """The members, their weights (additive ones first, then the Gaussian process), and the interval's factor."""

    kind: Literal["ensemble"] = "ensemble"
    gp: FittedGp
    additive: tuple[FittedNnls, ...]
    weights: Vector
    std_factor: float

    def predict(self, inputs: Inputs) -> Prediction:
        """Latency in ms (N,) with 90 % intervals of a new measurement."""
        self._check(inputs)
        log_gp, variance = self.gp.posterior(inputs)
        log_ms = self.weights[-1] * log_gp
        for weight, member in zip(self.weights[:-1], self.additive, strict=True):
            log_ms += weight * np.log(member.predict(inputs).latency_ms)
        dof = _PRIOR_COUNT + len(self.loo_log_errors)
        return interval(np.exp(log_ms), self.std_factor * np.sqrt(variance), dof, self.support.is_outside(inputs))
