"""The contract of latency predictors: what they read, what they return, how they are stored.

A model is a small frozen configuration with `fit(inputs, latency_ms) -> FittedModel`. What it returns predicts, knows
how sure it is, and is a pydantic model: its JSON reads back to exactly the same predictions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, NonNegativeInt, model_validator

from latency_predictors.models.fields import NonNegatives, Vector, check_length
from search_spaces.errors import UserError

Array = NDArray[np.float64]
Digits = NDArray[np.int64]


#: The truth is assumed within this factor of a prediction whose error nobody could estimate (a spec sheet's figure, a
#: fit to one measurement). An assumption: no measurement stands behind it.
UNKNOWN_FACTOR = 3.0

#: An interval is at most this factor wide on either side, so that both ends stay numbers; nothing is known long before.
_WIDEST_FACTOR = 1e100
#: A prediction below this is no latency of a network, and one above it (thirty years) neither.
_LEAST_MS, _MOST_MS = 1e-9, 1e12


@dataclass(frozen=True)
class Inputs:
    """What is known of N networks without timing them on the target device.

    kernels: (N, K) analytic kernel sums, non-negative, any unit (MACs, bytes, counts); `kernel_names` names them, and
        those that end in `_macs` add up to the network's MACs. `name@place` (say `depthwise_macs@16`, at 16 x 16
        pixels) is one kernel's sum in one of the places where it runs: models that know of other devices read places
        apart, the others only their sum.
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
    def groups(self) -> tuple[tuple[str, ...], Array]:
        """Kernel names without places, and their sums (N, groups) over the places."""
        return group_sums(self.kernel_names, self.kernels)

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

    def checked(self, what: str) -> Self:
        """The same; UserError unless every latency is one, and between the two ends of its interval."""
        latency_ms, low_ms, high_ms = self.latency_ms, self.low_ms, self.high_ms
        good = (latency_ms >= _LEAST_MS) & (latency_ms <= _MOST_MS) & (low_ms > 0) & np.isfinite(high_ms)
        good &= (low_ms <= latency_ms) & (latency_ms <= high_ms)
        if not good.all():  # also where one is no number: every comparison with it is false
            row = int(np.argmin(good))
            raise UserError(
                f"{what}: row {row} is predicted to take {latency_ms[row]:.3g} ms, from {low_ms[row]:.3g} to "
                f"{high_ms[row]:.3g}, which is no latency; the profile is damaged: restore it or calibrate again"
            )
        return self


class Support(BaseModel):
    """Where measurements were taken: the range of every kernel sum over the measured networks.

    A network extrapolates when a kernel sum leaves this range by more than half its width; so also does one with
    a kernel that no measured network has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: NonNegatives
    high: NonNegatives

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        check_length("high", self.high, len(self.low), "one per number in low")
        if any(low > high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError("low is above high")
        return self

    @classmethod
    def of(cls, inputs: Inputs) -> Support:
        """The range of these networks."""
        sums = inputs.groups[1]
        return cls(low=sums.min(0), high=sums.max(0))

    def is_outside(self, inputs: Inputs) -> NDArray[np.bool_]:
        """Whether each network (N,) extrapolates."""
        low, high = np.array(self.low), np.array(self.high)
        margin, sums = 0.5 * (high - low), inputs.groups[1]
        outside: NDArray[np.bool_] = ((sums < low - margin) | (sums > high + margin)).any(1)
        return outside


class FittedModel(BaseModel, ABC):
    """A fitted predictor; `to_json` and `models.from_json` keep it.

    `loo_log_errors`: for every measured network log(prediction / measured) of the model fitted without it; empty for
    one measurement.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kernel_names: tuple[str, ...]
    num_sources: NonNegativeInt
    support: Support
    loo_log_errors: Vector

    @model_validator(mode="after")
    def _support_is_of_the_kernels(self) -> Self:
        # That of a model which has seen no network is never read; it has a zero per kernel, whatever its place.
        nowhere = not self.num_measured and len(self.support.low) == len(self.kernel_names)
        if not nowhere:
            check_length("support.low", self.support.low, num_groups(self.kernel_names), "one per kernel")
        return self

    @property
    def num_measured(self) -> int | None:
        """Number of networks that it was fitted to; None where it does not say."""
        return len(self.loo_log_errors) or None

    @property
    def num_decisions(self) -> int | None:
        """Number of digits of a network's structure that it reads; None where it reads none."""
        return None

    def _check_num_errors(self, num: int) -> None:
        wanted = num if num > 1 else 0
        check_length("loo_log_errors", self.loo_log_errors, wanted, "one per measured network, none for a single one")

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


def num_groups(kernel_names: tuple[str, ...]) -> int:
    """Number of kernels without their places."""
    return len({name.partition("@")[0] for name in kernel_names})


def group_sums(kernel_names: tuple[str, ...], kernels: Array) -> tuple[tuple[str, ...], Array]:
    """Names without their places, in order of first appearance, and the sums (N, groups) of kernels (N, K)."""
    own = [name.partition("@")[0] for name in kernel_names]
    groups = tuple(dict.fromkeys(own))
    if len(groups) == len(own):
        return groups, kernels
    return groups, kernels @ np.array([[name == group for group in groups] for name in own], dtype=np.float64)


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


def interval(
    latency_ms: Array, log_std: ArrayLike, dof: float, outside: NDArray[np.bool_], widest_factor: float | None = None
) -> Prediction:
    """The prediction (N,) with 90 % intervals from the log latency's standard deviation, Student's t of `dof`.

    widest_factor: by which the ends may be off the prediction at most.
    """
    from scipy.special import stdtrit

    with np.errstate(over="ignore"):
        factor = np.minimum(np.exp(float(stdtrit(dof, 0.95)) * np.asarray(log_std)), widest_factor or _WIDEST_FACTOR)
    return Prediction(latency_ms, latency_ms / factor, latency_ms * factor, outside)


def loo_interval(latency_ms: Array, fitted: FittedModel, outside: NDArray[np.bool_]) -> Prediction:
    """The prediction (N,) with one relative 90 % interval for all, from the leave-one-out errors."""
    errors = np.array(fitted.loo_log_errors)
    if not len(errors):
        return Prediction(latency_ms, latency_ms / UNKNOWN_FACTOR, latency_ms * UNKNOWN_FACTOR, outside)
    return interval(latency_ms, np.full(len(latency_ms), np.sqrt(np.mean(errors**2))), max(len(errors) - 1, 1), outside)
