"""Device profiles: what calibration found out about one device, as a versioned JSON file that predicts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from latency_predictors.measurement import Measurement, Milliseconds, Precision
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.options import NONE
from search_spaces.space import listed

if TYPE_CHECKING:
    from search_spaces.space import SearchSpace

MEND = "calibrate again (nanosd calibrate), or restore the file"


class Check(BaseModel):
    """One whole U-Net, measured and predicted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidate: str
    measured_ms: Milliseconds
    predicted_ms: Milliseconds
    measurement: Measurement

    @property
    def error_pct(self) -> float:
        """Prediction minus measurement, in per cent of the measurement."""
        return 100.0 * (self.predicted_ms / self.measured_ms - 1.0)


class Fit(BaseModel):
    """latency_ms = intercept_ms + scale * (base + sum of the stages' medians).

    The intercept may be negative: a stage measured alone pays for a call, for cold instructions and
    for the change of layout at its edges; a whole network pays for them once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: float = Field(gt=0, allow_inf_nan=False)
    intercept_ms: float = Field(allow_inf_nan=False)


class DeviceProfile(BaseModel):
    """Latency of every stage option on one device + runtime + precision, with the fit and its check.

    `options[stage][option]` is null for an option that runs nothing (`none`). `fitted` are the whole U-Nets
    that the fit saw, `validation` those that it did not; the errors are over `validation`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
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
    fit: Fit
    base: Measurement
    options: dict[str, dict[str, Measurement | None]]
    fitted: tuple[Check, ...]
    validation: tuple[Check, ...]

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

    @classmethod
    def load(cls, path: Path) -> DeviceProfile:
        """Reads a profile; UserError, naming the field, for anything that does not belong into one."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"device profile {path}: {error.strerror}; {MEND}") from None
        except UnicodeDecodeError:
            raise UserError(f"device profile {path}: not UTF-8 text; {MEND}") from None
        except ValidationError as error:
            raise UserError(f"device profile {path}: {_first(error)}; {MEND}") from None

    def save(self, path: Path) -> None:
        """Writes the profile as JSON; the file is complete or not there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(self.model_dump(mode="json"), file, indent=1, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def check(self, space: SearchSpace, teacher_key: str | None = None, latent_size: int | None = None) -> None:
        """Raises UserError unless this profile speaks of this space, teacher and latent size."""
        for field, own, wanted in (
            ("teacher_key", self.teacher_key, teacher_key),
            ("latent_size", self.latent_size, latent_size),
        ):
            if wanted is not None and own != wanted:
                raise UserError(
                    f"device profile: {field} is {own!r}, needed is {wanted!r}; calibrate with this teacher"
                )
        self._tables(space)

    def predict(self, space: SearchSpace, matrix: NDArray[np.integer]) -> NDArray[np.float64]:
        """Latency in ms (N,) of the candidates `matrix` (N, decisions), by table lookup.

        Raises UserError when the space has a stage or an option that was not calibrated.
        """
        tables = self._tables(space)
        rows = space.stage_rows(np.atleast_2d(np.asarray(matrix)))
        total = np.full(len(rows), self.fit.intercept_ms + self.fit.scale * self.base.median_ms)
        for column, table in enumerate(tables):
            total += self.fit.scale * table[rows[:, column]]
        return total

    def predict_candidate(self, candidate: Candidate) -> float:
        """Latency in ms of one candidate."""
        if tuple(candidate.options) != tuple(self.options):
            raise UserError(
                f"device profile: candidate {candidate.id} has stages {' '.join(candidate.options)}, calibrated are "
                f"{' '.join(self.options)}; calibrate for this search space"
            )
        parts = [self._option_ms(stage, option) for stage, option in candidate.options.items()]
        return self.fit.intercept_ms + self.fit.scale * (self.base.median_ms + sum(parts))

    def _tables(self, space: SearchSpace) -> list[NDArray[np.float64]]:
        if space.stages != tuple(self.options):
            raise UserError(
                f"device profile: calibrated stages are {' '.join(self.options)}, search space {space.name!r} has "
                f"{' '.join(space.stages)}; calibrate for this search space"
            )
        return [np.array([self._option_ms(stage, o) for o in space.options[stage]]) for stage in space.stages]

    def _option_ms(self, stage: str, option: str) -> float:
        if option not in self.options[stage]:
            raise UserError(
                f"device profile: option {option!r} of stage {stage} was not calibrated (there are "
                f"{listed(tuple(self.options[stage]))}); calibrate for a search space that has it"
            )
        measurement = self.options[stage][option]
        return 0.0 if measurement is None else measurement.median_ms


def fit_additive(additive_ms: NDArray[np.float64], measured_ms: NDArray[np.float64], least_ms: float) -> Fit:
    """The fit of whole networks' latencies (N,) to the sums of their parts (N,), both in ms.

    Least squares in relative error: minimises sum(((intercept + scale * a) / m - 1)^2). `least_ms` is the
    smallest sum in the search space: a fit that makes its latency zero or less, or the scale negative,
    is replaced by the one with non-negative coefficients.
    On the toy teacher's U-Nets (median / worst error of unseen ones, mean of 100 draws of 8 fitted):
    free intercept 0.9 / 2.9 %, non-negative 4.3 / 28 %, non-negative after subtracting the measured time of an
    empty graph from every part 1.9 / 11.5 %.
    """
    design = np.stack([1.0 / measured_ms, additive_ms / measured_ms], axis=1)
    ones = np.ones(len(measured_ms))
    intercept, scale = (float(w) for w in np.linalg.lstsq(design, ones, rcond=None)[0])
    if scale <= 0 or intercept + scale * least_ms <= 0:
        from scipy.optimize import nnls

        intercept, scale = (float(w) for w in nnls(design, ones)[0])
        if scale <= 0:  # the sums say nothing: a constant would call every network equal
            raise UserError(
                "calibration: whole U-Nets' latencies do not grow with their stages'; the machine is too busy, "
                "calibrate again when it is quieter or with a larger max_seconds"
            )
    return Fit(scale=scale, intercept_ms=intercept)


def _first(error: ValidationError) -> str:
    first: Any = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "content"
    value = "" if first["type"] in ("json_invalid", "missing") else f" is {_short(first['input'])}:"
    return f"{where}{value} {first['msg']}"


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
