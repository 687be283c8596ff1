"""Profiles of NPUs: a fitted roofline, what it holds for, and how far it was off; JSON that predicts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from latency_predictors.models.base import UNKNOWN_FACTOR, Prediction
from latency_predictors.npu.roofline import Attention, Positive, Roofline, Work, network_ms, operators_ms
from latency_predictors.profile_checks import MOST_LATENTS
from latency_predictors.profile_checksum import check_checksum, with_checksum, without_checksum
from latency_predictors.shipped_profiles import shipped_profiles
from search_spaces.atomic import write_json
from search_spaces.errors import UserError
from search_spaces.precision import Precision
from search_spaces.space import Indices, SearchSpace
from search_spaces.tracing import Trace
from search_spaces.unet import UNet
from search_spaces.vae import VAE
from search_spaces.vae_option import STEPS, VAE_STAGES

if TYPE_CHECKING:
    from search_spaces.stage_costs import StageCosts

Floats = NDArray[np.float64]
_MEND = "fit it again, or restore the file"


class Error(BaseModel):
    """Prediction minus measurement of one network, in whole per cent of the measurement."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: str
    error_pct: int = Field(gt=-100, le=100_000)


class Published(BaseModel):
    """A figure that others published and that the fit never saw."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    what: str
    published_ms: Positive
    predicted_ms: Positive
    source: str


class ErrorStatement(BaseModel):
    """How far the fit is off on networks that it did not see.

    ``without_diffusion``: fitted without any Stable Diffusion or ControlNet network. ``leave_one_model_out``: fitted
    without any component of the network's model; the other models' near-identical graphs stay, so that it says
    how far toolchains scatter as much as how well the model generalises.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    without_diffusion: tuple[Error, ...]
    leave_one_model_out: tuple[Error, ...]
    published: tuple[Published, ...]

    def interval_factor(self, *components: str) -> float:
        """The truth is within this factor of a prediction, nine times in ten, as far as the statement tells.

        Student's t times the root mean square of the log errors of the networks that are one of these components
        (``unet``, ``vae``), over both ways of leaving out: the first knows no network of the kind at all, the second
        knows near-identical ones, and a candidate is between the two. Since the rows of one model's component
        are almost the same graph, degrees of freedom are the models. ``UNKNOWN_FACTOR`` where there is no such row.
        """
        from scipy.special import stdtrit

        rows = [
            (error.network.split("/")[0], np.log1p(error.error_pct / 100.0))
            for error in (*self.without_diffusion, *self.leave_one_model_out)
            if set(error.network.split("/")) & set(components)
        ]
        if not rows:
            return UNKNOWN_FACTOR
        models = {model for model, _ in rows}
        log_std = np.sqrt(np.mean([log_error**2 for _, log_error in rows]))
        return float(np.exp(stdtrit(len(models), 0.95) * log_std))


class NpuProfile(BaseModel):
    """A latency predictor of one NPU from public measurements of whole models; no block was measured on the device.

    Attributes:
        attention: the export that it holds for.
        toolchain: compiler and runtime that made the measurements, as far as they say.
        latent_size: latents (height and width) that its errors were found at; others extrapolate.
        precision_factors: latency of other precisions relative to ``precision``, medians over networks that have both.
        training_sha256: of the measurement file; the measurements themselves are not part of the profile.
        num_networks: fitted measurements.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["npu"] = "npu"
    format_version: Literal[1] = 1
    device: str
    soc: str
    precision: Precision
    attention: Attention
    toolchain: str
    latent_size: int = Field(ge=1, le=MOST_LATENTS)
    roofline: Roofline
    precision_factors: dict[str, Positive]
    training_sha256: str
    num_networks: PositiveInt
    errors: ErrorStatement
    notes: tuple[str, ...]

    @classmethod
    def load(cls, name_or_path: str | Path) -> NpuProfile:
        """A profile that comes with the package, by name (``sm8750-w8a16``), or one from a file.

        Raises:
            UserError: neither, or a field that does not belong.
        """
        names, what = shipped_profiles(), f"NPU profile {str(name_or_path)!r}"
        try:
            source = names.get(str(name_or_path))
            text = source.read_text(encoding="utf-8") if source else Path(name_or_path).read_text(encoding="utf-8")
            data = json.loads(text)
            profile = cls.model_validate_json(json.dumps(without_checksum(data)))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{what} cannot be read ({error}); give a file or one of {', '.join(names)}") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "content"
            raise UserError(f"{what}: {where}: {first['msg']}; {_MEND}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{what}: not JSON ({error}); {_MEND}") from None
        check_checksum(data, what, _MEND)
        return profile

    def save(self, path: Path) -> None:
        """Writes JSON; the file is complete or not there. UserError: the place is full, read-only or no folder."""
        write_json(path, with_checksum(self.model_dump(mode="json")))

    def trace_ms(self, trace: Trace) -> float:
        """Latency in ms of a whole recorded network."""
        return network_ms(self.roofline, Work.of(trace, self.precision, self.attention))

    def tabulate(
        self, unet: UNet, space: SearchSpace, latent_size: int, num_tokens: int, vae: VAE | None = None
    ) -> NpuTable:
        """Latency of every option of a space on a teacher's architecture; only shapes are computed.

        Raises:
            UserError: options that the teacher does not have, or a space of pipelines without a VAE.
        """
        from search_spaces.stage_costs import stage_costs

        if space.is_pipeline and vae is None:
            raise UserError(f"search space {space.name!r} is one of pipelines; give vae")
        return self.of_costs(stage_costs(unet, space, latent_size, num_tokens, 1, vae), space, latent_size)

    def of_costs(self, costs: StageCosts, space: SearchSpace, latent_size: int) -> NpuTable:
        """The same from options that were traced already."""

        def milliseconds(trace: Trace) -> float:
            with np.errstate(all="ignore"):  # what is no number in the end is refused when it predicts
                return operators_ms(self.roofline, Work.of(trace, self.precision, self.attention))

        options = {
            stage: np.array([milliseconds(cost.trace) for cost in stage_options])
            for stage, stage_options in costs.options.items()
        }
        factor = self.errors.interval_factor("vae" if space.is_pipeline else "unet", "unet")
        head_ms = milliseconds(costs.head.trace)
        return NpuTable(space, head_ms, options, self.roofline.constant_ms, factor, latent_size != self.latent_size)


@dataclass(frozen=True)
class NpuTable:
    """Predicted latency of every option of a space.

    Attributes:
        space: the search space.
        head_ms: the U-Net's input and output convolutions and time embedding.
        options_ms: per stage an array (options,).
        constant_ms: once per network that is called: the U-Net, each half of the VAE.
        interval_factor: see :meth:`ErrorStatement.interval_factor`.
        extrapolates: whether latents have another size than those that the errors were found at.
    """

    space: SearchSpace
    head_ms: float
    options_ms: Mapping[str, Floats]
    constant_ms: float
    interval_factor: float = UNKNOWN_FACTOR
    extrapolates: bool = False

    def __post_init__(self) -> None:
        for stage in self.space.stages:
            wanted = len(self.space.options[stage])
            given = self.options_ms[stage].shape if stage in self.options_ms else ()
            if stage != STEPS and given != (wanted,):
                raise UserError(
                    f"options_ms: latencies of shape {given} for stage {stage}, which has {wanted} options in search "
                    f"space {self.space.name!r}; tabulate the profile for this space"
                )

    def predict(self, matrix: Indices) -> Prediction:
        """Latency in ms (N,), 90 % interval and extrapolation of candidates (N, decisions).

        Raises:
            UserError: no index matrix of the space, or a prediction that is no latency.
        """
        with np.errstate(all="ignore"):  # what is no number in the end is refused, in one line
            latency_ms, factor = self._sums_ms(matrix), self.interval_factor
            outside = np.full(len(latency_ms), self.extrapolates)
            found = Prediction(latency_ms, latency_ms / factor, latency_ms * factor, outside)
        return found.checked("NPU profile")

    def option_ms(self, stage: str, option: str) -> float | None:
        """Latency in ms of one stage option run once; None where the space does not have it."""
        if option not in self.space.options.get(stage, ()) or stage not in self.options_ms:
            return None
        return float(self.options_ms[stage][self.space.options[stage].index(option)])

    def latency_ms(self, matrix: Indices) -> Floats:
        """Latency in ms (N,) of candidates (N, decisions): one U-Net pass, or one run of the pipeline; as `predict`."""
        return self.predict(matrix).latency_ms

    def _sums_ms(self, matrix: Indices) -> Floats:
        rows = self.space.stage_rows(np.atleast_2d(np.asarray(matrix)))
        total = np.full(len(rows), self.head_ms + self.constant_ms)
        once = np.zeros(len(rows))
        steps = np.ones(len(rows))
        for column, stage in enumerate(self.space.stages):
            if stage == STEPS:
                steps = np.array([float(name) for name in self.space.options[STEPS]])[rows[:, column]]
            elif stage in VAE_STAGES:
                once += self.options_ms[stage][rows[:, column]] + self.constant_ms
            else:
                total += self.options_ms[stage][rows[:, column]]
        return total * steps + once
