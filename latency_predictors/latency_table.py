"""What every profile becomes for one search space: a table that predicts candidates, whatever stands behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from latency_predictors.models.base import Array, Prediction

if TYPE_CHECKING:
    from latency_predictors.profile import DeviceProfile
    from search_spaces.space import Indices, SearchSpace


class LatencyTable(Protocol):
    """Predicted latency of the candidates of one search space on one device."""

    @property
    def space(self) -> SearchSpace:
        """The search space."""

    def predict(self, matrix: Indices) -> Prediction:
        """Latency in ms (N,), 90 % interval and extrapolation of candidates (N, decisions)."""

    def latency_ms(self, matrix: Indices) -> Array:
        """Latency in ms (N,) alone."""

    def option_ms(self, stage: str, option: str) -> float | None:
        """What one stage option takes by itself, in ms; None where that is not known."""


@dataclass(frozen=True)
class DeviceTable:
    """A device profile for one search space."""

    profile: DeviceProfile
    space: SearchSpace

    def predict(self, matrix: Indices) -> Prediction:
        """Latency in ms (N,), 90 % interval and extrapolation of candidates (N, decisions)."""
        return self.profile.predict(self.space, matrix)

    def latency_ms(self, matrix: Indices) -> Array:
        """Latency in ms (N,) alone."""
        return self.profile.latency_ms(self.space, matrix)

    def option_ms(self, stage: str, option: str) -> float | None:
        """Measured or estimated latency of one stage option in ms; None where nothing is known."""
        return self.profile.option_ms(stage, option)
