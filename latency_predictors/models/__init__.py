"""Latency predictors that learn from few measurements, and from other devices where there are some.

prior = learn_prior(candidates, source_measured_ms, rng)   # or unlearned_prior(candidates): no source devices
rows = propose(prior, candidates, measured=[], num=10)     # what to measure
fitted = Ensemble(prior=prior).fit(candidates.rows(rows), latency_ms)
fitted.predict(candidates)                                 # latency_ms, low_ms, high_ms, extrapolates
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from latency_predictors.models.additive import Additive, FittedAdditive
from latency_predictors.models.base import FittedModel, Inputs, Model, Prediction
from latency_predictors.models.ensemble import Ensemble, FittedEnsemble
from latency_predictors.models.gp import FittedGp, Gp
from latency_predictors.models.learning import learn_prior
from latency_predictors.models.nnls import FittedNnls, Nnls
from latency_predictors.models.onehot import FittedOneHot, OneHotRidge
from latency_predictors.models.prior import LatencyPrior, unlearned_prior
from latency_predictors.models.roofline import FittedRoofline, kernel_cost_ms, roofline
from latency_predictors.models.select import propose, propose_for
from search_spaces.errors import UserError

__all__ = [
    "Additive",
    "AnyFitted",
    "Ensemble",
    "FittedAdditive",
    "FittedEnsemble",
    "FittedModel",
    "FittedRoofline",
    "Gp",
    "Inputs",
    "LatencyPrior",
    "Model",
    "Nnls",
    "OneHotRidge",
    "Prediction",
    "from_json",
    "kernel_cost_ms",
    "learn_prior",
    "propose",
    "propose_for",
    "roofline",
    "unlearned_prior",
]

#: Any fitted model, told apart by its `kind`, as a field of something that is kept as JSON.
AnyFitted = Annotated[
    FittedAdditive | FittedEnsemble | FittedGp | FittedNnls | FittedOneHot | FittedRoofline,
    Field(discriminator="kind"),
]
_ANY: TypeAdapter[FittedModel] = TypeAdapter(AnyFitted)


def from_json(text: str) -> FittedModel:
    """The fitted model of this JSON text (`FittedModel.to_json`); UserError, naming the field, for anything else."""
    try:
        return _ANY.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "content"
        raise UserError(f"fitted model: {where}: {first['msg']}; fit it again, or restore the file") from None
