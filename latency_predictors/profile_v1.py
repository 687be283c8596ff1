"""Device profiles of format 1: timings of all options and an additive fit, without kernel sums or intervals."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from latency_predictors.fitting import ProfileFacts, fit_profile
from latency_predictors.kernel_tables import KernelTables
from latency_predictors.measurement import Measurement, Milliseconds, Precision
from latency_predictors.profile import DeviceProfile
from latency_predictors.subject_names import BASE, option_subject
from latency_predictors.training import Training
from search_spaces.options import NONE
from search_spaces.space import SearchSpace


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FitV1(_Model):
    """latency_ms = intercept_ms + scale * (base + sum of the stages' medians)."""

    scale: float = Field(gt=0, allow_inf_nan=False)
    intercept_ms: float = Field(allow_inf_nan=False)


class CheckV1(_Model):
    """One whole U-Net, measured and predicted."""

    candidate: str
    measured_ms: Milliseconds
    predicted_ms: Milliseconds
    measurement: Measurement


class DeviceProfileV1(_Model):
    """What a file of format 1 holds."""

    format_version: Literal[1]
    device: str
    runtime: str
    precision: Precision
    threads: PositiveInt
    teacher_key: str
    space: str
    latent_size: PositiveInt
    num_tokens: PositiveInt
    median_error_pct: float = Field(ge=0, allow_inf_nan=False)
    worst_error_pct: float = Field(ge=0, allow_inf_nan=False)
    fit: FitV1
    base: Measurement
    options: dict[str, dict[str, Measurement | None]]
    fitted: tuple[CheckV1, ...]
    validation: tuple[CheckV1, ...]

    @model_validator(mode="after")
    def _only_none_is_free(self) -> Self:
        for stage, options in self.options.items():
            for option, measurement in options.items():
                if (measurement is None) != (option == NONE):
                    raise ValueError(
                        f"options.{stage}.{option} is {'null' if measurement is None else 'a measurement'}; "
                        f"only {NONE!r} is null, every other option has a measurement"
                    )
        return self

    def converted(self) -> DeviceProfile:
        """The same timings fitted again; kernel sums stay unknown, since the teacher is not at hand."""
        space = SearchSpace.model_validate(
            {"name": self.space, "options": {stage: list(options) for stage, options in self.options.items()}}
        )
        parts = {BASE: self.base} | {
            option_subject(s, o): m for s, options in self.options.items() for o, m in options.items() if m is not None
        }
        checks = {check.candidate: check.measurement for check in (*self.fitted, *self.validation)}
        stages = {stage: np.zeros((len(options), 0), np.int64) for stage, options in self.options.items()}
        return fit_profile(
            space,
            KernelTables((), np.zeros(0, np.int64), stages),
            Training(parts=parts, networks=checks),
            ProfileFacts.of(self.base, self.teacher_key, self.latent_size, self.num_tokens),
            held_out=[check.candidate for check in self.validation],
            power=False,
        )
