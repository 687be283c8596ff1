"""The contract of latency predictors: what they read, what they return, how they are stored.

A model is a small frozen configuration with `fit(inputs, latency_ms) -> FittedModel`. What it returns predicts, knows
how sure it is, and is a pydantic model: its JSON reads back to exactly the same predictions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Annotated, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, FiniteFloat

from search_spaces.errors import UserError

Array = NDArray[np.float64]
Digits = NDArray[np.int64]


def _as_lists(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


#: The truth is assumed within this factor of a prediction whose error nobody could estimate (a spec sheet's figure, a
#: fit to one measurement). An assumption: no measurement stands behind it.
UNKNOWN_FACTOR = 3.0

Vector = Annotated[tuple[FiniteFloat, ...], BeforeValidator(_as_lists)]
Matrix = Annotated[tuple[tuple[FiniteFloat, ...], ...], BeforeValidator(_as_lists)]
DigitMatrix = Annotated[tuple[tuple[int, ...], ...], BeforeValidator(_as_lists)]


@dataclass(frozen=True)
class Inputs:
    """What is known of N networks without timing them on the target device.

    kernels: (N, K) analytic kernel sums, non-negative, any unit (MACs, bytes, counts); `kernel_names` names them, and
        those that end in `_macs` add up to the network's MACs.
    structure: (N, D) categorical digits, or None.
    sources: (N, S) latencies in ms of these networks on other devices, measured or predicted, or None.

    Raises UserError for shapes that do not fit, negative or non-finite sums, and latencies that are not positive.
    """

    kernels: Array
    kernel_names: tuple[str, ...]
    structure: Digits | None = None
    sources: Array | None = None

    def __post_init__(self) -> None:
        kernels = np.asarray(self.kernels, dtype=np.float64)
        # Without kernels there is nothing to tell networks apart by, unless other latencies do.
        named = bool(self.kernel_names) or self.sources is not None
        if kernels.ndim != 2 or kernels.shape[1] != len(self.kernel_names) or not named:
            raise UserError(
                f"kernels: shape {kernels.shape}, needed is (networks, {len(self.kernel_names)}), one column for each "
                "of at least one kernel name"
            )
        bad = np.argwhere(~(np.isfinite(kernels) & (kernels >= 0)))
        if len(bad):
            row, column = (int(i) for i in bad[0])
            raise UserError(
                f"kernels: {self.kernel_names[column]} of row {row} is {kernels[row, column]}; sums are finite and >= 0"
            )
        object.__setattr__(self, "kernels", kernels)
        for field, dtype in (("structure", np.int64), ("sources", np.float64)):
            given = getattr(self, field)
            if given is None:
                continue
            value = np.asarray(given, dtype=dtype)
            if value.ndim != 2 or len(value) != len(kernels):
                raise UserError(f"{field}: shape {value.shape}, needed is ({len(kernels)}, columns), as kernels")
            object.__setattr__(self, field, value if value.shape[1] else None)
        if self.sources is not None and self.sources.size:
            check_latency(self.sources.ravel(), self.sources.size, "sources")

    def __len__(self) -> int:
        return len(self.kernels)

    @property
    def num_sources(self) -> int:
        """Number of source devices; 0 where there are none."""
        return 0 if self.sources is None else self.sources.shape[1]

    def rows(self, index: ArrayLike | slice) -> Inputs:
        """The networks of these rows."""
        at = index if isinstance(index, slice) else np.asarray(index)
        return replace(
            self,
            kernels=self.kernels[at],
            structure=None if self.structure is None else self.structure[at],
            sources=None if self.sources is None else self.sources[at],
        )

    def with_sources(self, columns: list[int]) -> Inputs:
        """The same networks with only these source devices."""
        assert self.sources is not None
        return replace(self, sources=self.sources[:, columns])


@dataclass(frozen=True)
class Prediction:
    """Latency of N networks in ms with its 90 % interval; each array has shape (N,).

    `extrapolates` marks networks whose kernel sums lie far outside those of the measured networks: their interval
    is a guess.
    """

    latency_ms: Array
    low_ms: Array
    high_ms: Array
    extrapolates: NDArray[np.bool_]


class Support(BaseModel):
    """Where measurements were taken: the range of every kernel sum over the measured networks.

    A network extrapolates when a kernel sum leaves this range by more than half its width; so also does one with
    a kernel that no measured network has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: Vector
    high: Vector

    @classmethod
    def of(cls, inputs: Inputs) -> Support:
        """The range of these networks."""
        return cls(low=inputs.kernels.min(0), high=inputs.kernels.max(0))

    def is_outside(self, inputs: Inputs) -> NDArray[np.bool_]:
        """Whether each network (N,) extrapolates."""
        low, high = np.array(self.low), np.array(self.high)
        margin = 0.5 * (high - low)
        outside: NDArray[np.bool_] = ((inputs.kernels < low - margin) | (inputs.kernels > high + margin)).any(1)
        return outside


class FittedModel(BaseModel, ABC):
    """A fitted predictor; `to_json` and `models.from_json` keep it.

    `loo_log_errors`: for every measured network log(prediction / measured) of the model fitted without it; empty for
    one measurement.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kernel_names: tuple[str, ...]
    num_sources: int
    support: Support
    loo_log_errors: Vector

    @abstractmethod
    def predict(self, inputs: Inputs) -> Prediction:
        """Latency in ms of N networks with 90 % intervals; UserError when they lack what the fit had."""

    def to_json(self) -> str:
        """This model as JSON text."""
        return self.model_dump_json(indent=1)

    def _check(self, inputs: Inputs) -> None:
        if inputs.kernel_names != self.kernel_names:
            raise UserError(
                f"kernels: given are {', '.join(inputs.kernel_names)}; this model was fitted on "
                f"{', '.join(self.kernel_names)}; give those"
            )
        if inputs.num_sources != self.num_sources:
            raise UserError(
                f"sources: {inputs.num_sources} source devices given, this model was fitted with {self.num_sources}; "
                "give the same devices in the same order"
            )


class Model(Protocol):
    """A predictor before it has seen a measurement."""

    def fit(self, inputs: Inputs, latency_ms: ArrayLike) -> FittedModel:
        """Fits to the measured latencies (N,) in ms of N networks; UserError for too few or impossible ones."""


def check_latency(latency_ms: ArrayLike, num_rows: int, what: str = "latency_ms") -> Array:
    """The latencies (num_rows,) in ms as an array; UserError, naming the row, unless all are finite and positive."""
    values = np.asarray(latency_ms, dtype=np.float64)
    if values.shape != (num_rows,) or not num_rows:
        raise UserError(f"{what}: shape {values.shape}, needed is ({num_rows},) with at least one network")
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if len(bad):
        raise UserError(
            f"{what}: entry {int(bad[0])} is {values[bad[0]]} ms; latencies are finite and above 0, leave that one out"
        )
    return values


def interval(latency_ms: Array, log_std: ArrayLike, dof: float, outside: NDArray[np.bool_]) -> Prediction:
    """The prediction (N,) with 90 % intervals from the log latency's standard deviation, Student's t of `dof`."""
    from scipy.special import stdtrit

    factor = np.exp(float(stdtrit(dof, 0.95)) * np.asarray(log_std))
    return Prediction(latency_ms, latency_ms / factor, latency_ms * factor, outside)


def loo_interval(latency_ms: Array, fitted: FittedModel, outside: NDArray[np.bool_]) -> Prediction:
    """The prediction (N,) with one relative 90 % interval for all, from the leave-one-out errors."""
    errors = np.array(fitted.loo_log_errors)
    if not len(errors):
        return Prediction(latency_ms, latency_ms / UNKNOWN_FACTOR, latency_ms * UNKNOWN_FACTOR, outside)
    return interval(latency_ms, np.full(len(latency_ms), np.sqrt(np.mean(errors**2))), max(len(errors) - 1, 1), outside)
