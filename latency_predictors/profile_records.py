"""What a device profile holds besides its model: parts, other devices, whole networks measured and predicted."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from latency_predictors.measurement import Milliseconds
from latency_predictors.training import Timing


class Part(BaseModel):
    """What is known of the base, or of one stage option, on the device.

    Attributes:
        kernels: analytic kernel sums, in the order of the profile's ``kernel_names``.
        timing: its own timing; None: it was not measured by itself, or it runs nothing.
        estimated_ms: of a part that was not measured, by the kernel model fitted to what was; 0 for ``none``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kernels: tuple[NonNegativeInt, ...]
    timing: Timing | None
    estimated_ms: float | None = Field(ge=0, allow_inf_nan=False)

    @property
    def latency_ms(self) -> float | None:
        """Measured, else estimated, 0 for ``none``; None: nothing is known."""
        return self.estimated_ms if self.timing is None else self.timing.latency_ms


class SourceDevice(BaseModel):
    """Another device's latencies in ms as sums over parts, for predictors that transfer from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    base_ms: float = Field(allow_inf_nan=False)
    options_ms: dict[str, dict[str, float]]


class Check(BaseModel):
    """One whole U-Net, measured and predicted with its 90 % interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidate: str
    measured_ms: Milliseconds
    predicted_ms: Milliseconds
    low_ms: Milliseconds
    high_ms: Milliseconds
    timing: Timing

    @property
    def error_pct(self) -> float:
        """Prediction minus measurement, in per cent of the measurement."""
        return 100.0 * (self.predicted_ms / self.measured_ms - 1.0)
