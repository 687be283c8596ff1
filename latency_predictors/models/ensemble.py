"""The default predictor: analytic and transferred predictions, weighted by what each got right."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, model_validator

from latency_predictors.models.base import FittedModel, Inputs, Prediction, Support, check_latency, interval
from latency_predictors.models.fields import NonNegative, NonNegatives, check_length, check_weights
from latency_predictors.models.gp import FittedGp, Gp
from latency_predictors.models.nnls import FittedNnls, Nnls
from latency_predictors.models.prior import LatencyPrior

#: With fewer measurements the members cannot be judged, and the Gaussian process alone predicts.
_LEAST_JUDGED = 5
#: Of the analytic member against the others: it alone owes nothing to devices that may be unlike the new one.
_ANALYTIC_TRUST = 2.0
#: As many measurements' worth of trust in the Gaussian process' own variance where it alone predicts, and elsewhere.
#: Noise differs twentyfold between devices: sharing more (10) made intervals of quiet ones too wide, of others too
#: narrow (column `coverage90` of `python -m experiments.bench.latency`, whose devices those are).
_PRIOR_COUNT_ALONE, _PRIOR_COUNT = 10.0, 1.0
#: Of a kernel's mean share on other devices, which say what it costs: only nothing at all is excluded. 3 %, as without
#: other devices, adds 0.01 to the mean error on FBNet's (`python -m experiments.bench.latency`).
_LEAST_POPULATION_SHARE = 0.001


class Ensemble(BaseModel):
    """Weighted geometric mean of NNLS on kernel sums and NNLS on source devices, or of NNLS and the Gaussian process.

    With what kernels cost on other devices (`prior.population`), the analytic member learns from that, and the
    Gaussian process predicts only while there are fewer than five measurements; without, it is a member. Without source
    devices the member that needs them is left out. A member's weight is the inverse square of its mean squared
    leave-one-out error, doubled for the analytic one.

    From five measurements on the interval's relative width is the same for all networks: the ensemble's leave-one-out
    errors, and as one more the Gaussian process' idea of the noise, by Student's t.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prior: LatencyPrior

    def fit(self, inputs: Inputs, latency_ms: ArrayLike) -> FittedEnsemble:
        """Fits every member to the measured latencies (N,) in ms; UserError as the members raise it."""
        measured = check_latency(latency_ms, len(inputs))
        gp = Gp(prior=self.prior).fit(inputs, measured)
        gp_errors, gp_std = np.array(gp.loo_log_errors), np.array(gp.loo_log_std)
        common = {"kernel_names": inputs.kernel_names, "num_sources": inputs.num_sources, "support": Support.of(inputs)}
        if len(measured) < _LEAST_JUDGED:
            ratio = _PRIOR_COUNT_ALONE + float(np.sum((gp_errors / gp_std) ** 2))
            return FittedEnsemble(
                gp=gp,
                additive=(),
                weights=np.ones(1),
                log_std=None,
                gp_std_factor=float(np.sqrt(ratio / (_PRIOR_COUNT_ALONE + len(gp_errors)))),
                loo_log_errors=gp_errors,
                **common,
            )
        additive = [model.fit(inputs, measured) for model in self._additive()]
        member = None if self.prior.population is not None else gp
        each = np.array([m.loo_log_errors for m in (*additive, *([] if member is None else [member]))])
        # A floor of 0.1 %: a member that happens to fit a few rows exactly is not infinitely better.
        weights = (np.mean(each**2, axis=1) + 1e-6) ** -2.0
        weights[0] *= _ANALYTIC_TRUST
        weights /= weights.sum()
        errors = weights @ each
        total = _PRIOR_COUNT * float(np.median(gp_std)) ** 2 + float(errors @ errors)
        return FittedEnsemble(
            gp=member,
            additive=tuple(additive),
            weights=weights,
            log_std=float(np.sqrt(total / (_PRIOR_COUNT + len(errors)))),
            gp_std_factor=None,
            loo_log_errors=errors,
            **common,
        )

    def _additive(self) -> list[Nnls]:
        scales, population = self.prior.scales, self.prior.population
        if population is None:
            models = [Nnls(scale=scales["kernels"], robust=True)]
        else:
            places = {"scale": scales["places"], "population": population, "least_share": _LEAST_POPULATION_SHARE}
            models = [Nnls(features="places", robust=True, **places)]
        if self.prior.num_sources:
            # Whatever the shares: no network takes no time on any of the other devices.
            models.append(Nnls(features="sources", scale=scales["sources"], robust=True, least_share=0.0))
        return models


class FittedEnsemble(FittedModel):
    """The members and their weights: additive ones first, then the Gaussian process if it is one.

    `log_std` is the standard deviation of every network's log latency, `gp_std_factor` what the Gaussian process' own
    is multiplied with where it alone predicts: one of the two is None. `widest_factor`: no end of an interval is
    further from the prediction, because a spec sheet bounds it; None: nothing does.
    """

    kind: Literal["ensemble"] = "ensemble"
    gp: FittedGp | None
    additive: tuple[FittedNnls, ...]
    weights: NonNegatives
    log_std: NonNegative | None
    gp_std_factor: NonNegative | None
    widest_factor: float | None = Field(default=None, gt=1.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _members_fit_together(self) -> Self:
        members: list[FittedModel] = [*self.additive, *([] if self.gp is None else [self.gp])]
        if (self.log_std is None) == (self.gp_std_factor is None):
            raise ValueError("log_std, gp_std_factor: one of the two is null, the other a number")
        if self.log_std is None and (self.gp is None or self.additive):
            raise ValueError("gp_std_factor: only the Gaussian process predicts with one, log_std is null")
        if not members:
            raise ValueError("additive: no members, and gp is null")
        check_length("weights", self.weights, len(members), "one per member")
        check_weights("weights", self.weights)
        for member in members:
            if (member.kernel_names, member.num_sources) != (self.kernel_names, self.num_sources):
                raise ValueError("kernel_names, num_sources: a member has others")
            check_length("loo_log_errors", self.loo_log_errors, len(member.loo_log_errors), "as its members have")
        return self

    @property
    def num_decisions(self) -> int | None:
        """Number of digits of a network's structure that it reads; None where it reads none."""
        return None if self.gp is None else self.gp.num_decisions

    def predict(self, inputs: Inputs) -> Prediction:
        """Latency in ms (N,) with 90 % intervals of a new measurement."""
        self._check(inputs)
        log_ms, std = np.zeros(len(inputs)), np.full(len(inputs), self.log_std or 0.0)
        for weight, member in zip(self.weights, self.additive, strict=False):
            log_ms += weight * np.log(member.predict(inputs).latency_ms)
        if self.gp is not None:
            log_gp, variance = self.gp.posterior(inputs)
            log_ms += self.weights[-1] * log_gp
            if self.gp_std_factor is not None:
                std = self.gp_std_factor * np.sqrt(variance)
        dof = len(self.loo_log_errors) + (_PRIOR_COUNT_ALONE if self.log_std is None else _PRIOR_COUNT - 1.0)
        return interval(np.exp(log_ms), std, dof, self.support.is_outside(inputs), self.widest_factor)
