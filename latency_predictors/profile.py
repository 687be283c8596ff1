"""Device profiles: what is known of latency on one device, as a versioned JSON file that predicts."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from latency_predictors.importers.records import ImportedPrecision
from latency_predictors.judgement import Judgement
from latency_predictors.kernel_tables import KernelTables
from latency_predictors.latency_table import DeviceTable
from latency_predictors.manifest import Manifest
from latency_predictors.measurement import Conditions
from latency_predictors.models import AnyFitted, FittedAdditive, Inputs, Prediction
from latency_predictors.profile_checks import MOST_LATENTS, MOST_TOKENS, check_fields
from latency_predictors.profile_checksum import with_checksum
from latency_predictors.profile_records import Check, Part, SourceDevice
from latency_predictors.training import Training
from search_spaces.atomic import write_json
from search_spaces.errors import UserError
from search_spaces.space import Indices, SearchSpace, listed

if TYPE_CHECKING:
    from search_spaces.unet import UNet
    from search_spaces.vae import VAE

Floats = NDArray[np.float64]
Information = Literal["spec_sheet", "anchor", "networks", "some_blocks", "blocks"]
#: Candidates predicted at a time: their kernel sums stay in the processor's cache.
_BLOCK = 8192


class _Tables(NamedTuple):
    """A profile's parts in the order of one space: base first, then per stage (options, ...)."""

    base_kernels: Floats
    kernels: list[Floats]
    base_ms: Floats
    ms: list[Floats]
    structure: list[NDArray[np.int64]]


class DeviceProfile(BaseModel):
    """A latency predictor of one device, runtime and precision; see :func:`latency_predictors.fitting.fit_profile`.

    Attributes:
        toolchain: compiler or exporter that made the networks; None: unknown.
        conditions: of the machine when the first part was measured; None: unknown.
        manifest: of the session that measured the parts (versions, placement, quantisation, drift); None: unknown.
        teacher_key: of the teacher whose options these are; None: unknown.
        space, latent_size, num_tokens: what it was calibrated for.
        options: per stage, in the order of the space, every option.
        model: the fitted predictor.
        sources: devices that the model transfers from.
        information: what it was fitted from.
        training_sha256: of the rows that it was fitted from and checked on; see :class:`Training`.
        num_parts, num_networks: that were measured, and fitted.
        fitted, validation: whole U-Nets that the fit saw, and those that it did not.
        judgement: on ``validation``, else leave-one-out; None: there is nothing to judge by.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["device"] = "device"
    format_version: Literal[2] = 2
    device: str
    runtime: str
    precision: ImportedPrecision
    threads: PositiveInt | None
    toolchain: str | None
    conditions: Conditions | None
    manifest: Manifest | None = None
    teacher_key: str | None
    space: str
    latent_size: int = Field(ge=1, le=MOST_LATENTS)
    num_tokens: int = Field(ge=1, le=MOST_TOKENS)
    information: Information
    training_sha256: str
    num_parts: NonNegativeInt
    num_networks: NonNegativeInt
    judgement: Judgement | None
    kernel_names: tuple[str, ...]
    base: Part
    options: dict[str, dict[str, Part]]
    model: AnyFitted
    sources: tuple[SourceDevice, ...]
    fitted: tuple[Check, ...]
    validation: tuple[Check, ...]

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        check_fields(self)
        return self

    @classmethod
    def load(cls, path: Path) -> DeviceProfile:
        """Reads a profile, of the first format too; UserError, naming the field, for what does not belong into one."""
        from latency_predictors.profile_file import read_device_profile

        return read_device_profile(path)

    def save(self, path: Path) -> None:
        """Writes JSON; the file is complete or not there. UserError: the place is full, read-only or no folder."""
        write_json(path, with_checksum(self.model_dump(mode="json")))

    @cached_property
    def own_space(self) -> SearchSpace:
        """The options that it knows, as a search space: one decision a stage."""
        return SearchSpace.model_validate(
            {"name": self.space, "options": {stage: list(options) for stage, options in self.options.items()}}
        )

    @property
    def kernel_tables(self) -> KernelTables:
        """Kernel sums of the parts, for :attr:`own_space`."""
        stages = {s: np.array([p.kernels for p in parts.values()], np.int64) for s, parts in self.options.items()}
        return KernelTables(self.kernel_names, np.array(self.base.kernels, np.int64), stages)

    @property
    def training(self) -> Training:
        """The timings that it was fitted from and checked on."""
        from latency_predictors.subject_names import BASE, option_subject

        parts = {BASE: self.base} | {
            option_subject(s, o): part for s, options in self.options.items() for o, part in options.items()
        }
        return Training(
            parts={name: part.timing for name, part in parts.items() if part.timing is not None},
            networks={check.candidate: check.timing for check in (*self.fitted, *self.validation)},
        )

    def check(self, space: SearchSpace, teacher_key: str | None = None, latent_size: int | None = None) -> None:
        """Raises UserError unless this profile speaks of this space, teacher and latent size."""
        for field, own, wanted in (
            ("teacher_key", self.teacher_key, teacher_key),
            ("latent_size", self.latent_size, latent_size),
        ):
            if own is not None and wanted is not None and own != wanted:
                raise UserError(
                    f"device profile: {field} is {own!r}, needed is {wanted!r}; calibrate with this teacher"
                )
        self._tables(space)

    def tabulate(
        self, unet: UNet | None, space: SearchSpace, latent_size: int, num_tokens: int, vae: VAE | None = None
    ) -> DeviceTable:
        """This profile for one space; the networks are not needed: what is known of them is in the parts.

        Raises:
            UserError: it was not calibrated for this space or these latents.
        """
        self.check(space, latent_size=latent_size)
        return DeviceTable(self, space)

    def sums_ms(self, space: SearchSpace) -> tuple[FittedAdditive, float, list[Floats]] | None:
        """Where latency is an increasing function of a sum of parts: that function, the base, per stage (options,).

        For exact ranges and counts over a space; None for other models.
        """
        if not isinstance(self.model, FittedAdditive):
            return None
        tables = self._tables(space)
        return self.model, float(tables.base_ms[0]), [ms[:, 0] for ms in tables.ms]

    def option_ms(self, stage: str, option: str) -> float | None:
        """What one stage option takes by itself, in ms: measured, else estimated; None where nothing is known."""
        part = self.options.get(stage, {}).get(option)
        return None if part is None else part.latency_ms

    def latency_ms(self, space: SearchSpace, matrix: Indices) -> Floats:
        """Latency in ms (N,) of candidates (N, decisions); as :meth:`predict`."""
        return self.predict(space, matrix).latency_ms

    def predict(self, space: SearchSpace, matrix: Indices) -> Prediction:
        """Latency in ms (N,), 90 % interval and extrapolation of candidates (N, decisions), from the parts alone.

        Raises:
            UserError: the space has a stage or an option that was not calibrated.
        """
        tables = self._tables(space)
        rows = space.stage_rows(np.atleast_2d(np.asarray(matrix)))
        if space.num_candidates <= len(rows) // 2:  # fewer networks than rows: each is predicted once
            every = self._predict_rows(tables, space.stage_rows(space.enumerate()))
            at = np.ravel_multi_index(tuple(rows.T), space.stage_sizes)
            return Prediction(every.latency_ms[at], every.low_ms[at], every.high_ms[at], every.extrapolates[at])
        return self._predict_rows(tables, rows)

    def _predict_rows(self, tables: _Tables, rows: Indices) -> Prediction:
        num = len(rows)
        latency_ms, low_ms, high_ms = np.empty(num), np.empty(num), np.empty(num)
        extrapolates = np.empty(num, dtype=bool)
        for start in range(0, num, _BLOCK):
            at = slice(start, start + _BLOCK)
            with np.errstate(all="ignore"):  # what is no number in the end is refused, in one line
                found = self.model.predict(self._inputs(tables, rows[at]))
            latency_ms[at], low_ms[at], high_ms[at] = found.latency_ms, found.low_ms, found.high_ms
            extrapolates[at] = found.extrapolates
        return Prediction(latency_ms, low_ms, high_ms, extrapolates).checked(f"device profile of {self.device}")

    def _inputs(self, tables: _Tables, rows: Indices) -> Inputs:
        kernels = np.tile(tables.base_kernels, (len(rows), 1))
        sources = np.tile(tables.base_ms, (len(rows), 1))
        structure = np.empty(rows.shape, dtype=np.int64)
        for column, (sums, ms, digits) in enumerate(zip(tables.kernels, tables.ms, tables.structure, strict=True)):
            chosen = rows[:, column]
            kernels += sums.take(chosen, axis=0)
            sources += ms.take(chosen, axis=0)
            structure[:, column] = digits[chosen]
        return Inputs(kernels, self.kernel_names, structure, sources)

    def inputs(self, space: SearchSpace, matrix: Indices) -> Inputs:
        """What the model reads of candidates (N, decisions)."""
        return self._inputs(self._tables(space), space.stage_rows(np.atleast_2d(np.asarray(matrix))))

    def _tables(self, space: SearchSpace) -> _Tables:
        if space.stages != tuple(self.options):
            raise UserError(
                f"device profile: calibrated stages are {' '.join(self.options)}, search space {space.name!r} has "
                f"{' '.join(space.stages)}; calibrate for this search space"
            )
        for stage in space.stages:
            for option in space.options[stage]:
                if option not in self.options[stage]:
                    raise UserError(
                        f"device profile: option {option!r} of stage {stage} was not calibrated (there are "
                        f"{listed(tuple(self.options[stage]))}); calibrate for a search space that has it"
                    )
        columns, base_ms = self._source_columns()
        kernels, ms, structure = [], [], []
        for stage in space.stages:
            numbers = {option: number for number, option in enumerate(self.options[stage])}
            parts = [self.options[stage][option] for option in space.options[stage]]
            kernels.append(np.array([p.kernels for p in parts], np.float64).reshape(len(parts), -1))
            ms.append(np.array([[column[stage][o] for column in columns] for o in space.options[stage]], np.float64))
            structure.append(np.array([numbers[option] for option in space.options[stage]]))
        return _Tables(np.array(self.base.kernels, np.float64), kernels, base_ms, ms, structure)

    def _source_columns(self) -> tuple[list[dict[str, dict[str, float]]], Floats]:
        """The latencies that the model reads: the parts' own sum, or those of other devices."""
        if self.model.kind == "additive":
            own = {s: {o: p.latency_ms or 0.0 for o, p in parts.items()} for s, parts in self.options.items()}
            return [own], np.array([self.base.latency_ms or 0.0])
        return [s.options_ms for s in self.sources], np.array([s.base_ms for s in self.sources])
