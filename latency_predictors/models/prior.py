"""What is known of a new device's latencies before the first one is measured there.

The prior is a Gaussian process on log latency. Its mean is the average of the source devices' log latencies; where
there are none, the logarithm of a roofline. Its covariance is a sum of five parts, each with a variance:

    constant                           the device's speed; wide
    mean x mean                        slope against the prior mean
    deviations x deviations / S        how source devices differ from their average: a new one differs in the same ways
    intensities x intensities / K      other rates than the source devices
    exp(-4 x Hamming distance)         what structure does beyond sums
    noise                              repeatability

Intensities are kernel sums, and a constant, over the prior mean (each relative to its average, then standardised): a
device whose latency is a sum of kernel sums over rates differs from the prior mean, to first order in the logarithm,
by a linear function of them.

The variances are hyperparameters; learning.py learns them from source devices.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, model_validator

from latency_predictors.models.base import Array, Digits, Inputs, group_sums, num_groups
from latency_predictors.models.fields import NonNegativeMatrix, NonNegatives, Vector, check_length, check_width
from latency_predictors.models.nnls import Features
from latency_predictors.models.population import Population
from search_spaces.errors import UserError

CONSTANT_VARIANCE = 100.0
#: Of the slope, the deviations, the intensities, the structure and the noise.
NUM_VARIANCES = 5
#: Without source devices nothing can be learned: rates unknown within 10 to 100 %, noise 1 to 10 %.
_DEFAULT = np.array(
    [[0.1, 0.0, rates, 0.1 * rates, noise] for rates in (0.01, 0.1, 1.0) for noise in (1e-4, 1e-3, 1e-2)]
)
_LENGTH = 4.0


@dataclass(frozen=True)
class GpFeatures:
    """N networks as the covariance sees them."""

    mean: Array
    slope: Array
    deviations: Array
    intensities: Array
    structure: Digits | None

    def parts(self, other: GpFeatures) -> Array:
        """The unscaled covariance parts (5, N, M) between these networks and the others."""
        own = self.structure
        if own is None or other.structure is None:
            structure = np.zeros((len(self.mean), len(other.mean)))
        else:
            # The longer axis last and one decision at a time: five times as fast as comparing (N, M, D) at once.
            different = np.zeros((len(other.mean), len(own)))
            for mine, theirs in zip(np.ascontiguousarray(own.T), other.structure.T, strict=True):
                different += theirs[:, None] != mine
            structure = np.exp(-_LENGTH / own.shape[1] * different.T)
        return np.stack(
            [
                np.full(structure.shape, CONSTANT_VARIANCE),
                np.outer(self.slope, other.slope),
                self.deviations @ other.deviations.T,
                self.intensities @ other.intensities.T,
                structure,
            ]
        )

    def diagonal(self) -> Array:
        """The unscaled covariance parts (5, N) of each network with itself."""
        ones = np.ones(len(self.mean))
        return np.stack(
            [
                CONSTANT_VARIANCE * ones,
                self.slope**2,
                (self.deviations**2).sum(1),
                (self.intensities**2).sum(1),
                0.0 * ones if self.structure is None else ones,
            ]
        )


class LatencyPrior(BaseModel):
    """The prior, as data: how features are scaled, and the settings of the variances.

    source_log_ms: mean log latency of every source device (S,); empty where there are none.
    kernel_mean: (K,) mean kernel sums of the candidates.
    intensity_mean, intensity_std: (G + 1,) over the candidates, of the G kernels without places.
    kernel_cost_ms: (K,) ms per unit of a kernel sum, for the roofline that is the mean without source devices.
    variances: (settings, 5) of slope, deviations, intensities, structure and noise, in log(ms)^2.
    population: of the kernels' shares on source devices, None where none has taught any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kernel_names: tuple[str, ...]
    source_log_ms: Vector
    kernel_mean: NonNegatives
    intensity_mean: Vector
    intensity_std: NonNegatives
    kernel_cost_ms: NonNegatives
    variances: NonNegativeMatrix
    population: Population | None = None

    @model_validator(mode="after")
    def _is_of_the_kernels(self) -> Self:
        num, groups = len(self.kernel_names), num_groups(self.kernel_names)
        check_length("kernel_mean", self.kernel_mean, num, "one per kernel name")
        check_length("kernel_cost_ms", self.kernel_cost_ms, num, "one per kernel name")
        check_length("intensity_mean", self.intensity_mean, groups + 1, "one per kernel, and the constant")
        check_length("intensity_std", self.intensity_std, groups + 1, "one per kernel, and the constant")
        check_width("variances", self.variances, NUM_VARIANCES, "as in the other rows")
        if not self.variances or min(row[-1] for row in self.variances) <= 0:
            raise ValueError("variances: needed is at least one row, and a noise (the last number) above 0 in each")
        if not self.source_log_ms and not sum(map(operator.mul, self.kernel_mean, self.kernel_cost_ms)) > 0:
            raise ValueError("kernel_mean, kernel_cost_ms: a typical network takes no time")
        if self.population is not None:
            check_length("population.mean", self.population.mean, num + 1, "one per kernel name, and the constant")
        return self

    @property
    def num_sources(self) -> int:
        """Number of source devices."""
        return len(self.source_log_ms)

    @cached_property
    def scales(self) -> dict[Features, Array]:
        """Typical values of the columns of these features."""
        typical = np.array(self.kernel_mean)
        return {
            "kernels": group_sums(self.kernel_names, typical[None])[1][0],
            "places": typical,
            "sources": np.exp(np.array(self.source_log_ms)),
        }

    def features(self, inputs: Inputs) -> GpFeatures:
        """The networks as the covariance sees them; UserError when kernels or sources are not the prior's."""
        if inputs.kernel_names != self.kernel_names or inputs.num_sources != self.num_sources:
            raise UserError(
                f"prior: kernels {', '.join(inputs.kernel_names)} and {inputs.num_sources} source devices given; it "
                f"was learned on {', '.join(self.kernel_names)} and {self.num_sources}; give those"
            )
        mean, slope, deviations = self._shape(inputs)
        std = np.array(self.intensity_std)
        # An intensity that is the same for all candidates tells them apart no more than the constant does.
        unit = np.where(std > 1e-12, 1.0 / np.maximum(std, 1e-12), 0.0) / np.sqrt(len(std))
        intensities = (self._intensities(inputs, slope) - np.array(self.intensity_mean)) * unit
        return GpFeatures(mean, slope, deviations, intensities, inputs.structure)

    def _shape(self, inputs: Inputs) -> tuple[Array, Array, Array]:
        """Prior mean in log ms (N,), the same around its average over the candidates, deviations (N, S)."""
        if inputs.sources is None:
            costs = np.array(self.kernel_cost_ms)
            typical = np.array(self.kernel_mean) @ costs
            # A network without any kernel has no logarithm; a millionth of the typical one's cost is as good as none.
            mean = np.log(np.maximum(inputs.kernels @ costs, 1e-6 * typical))
            return mean, mean - np.log(typical), np.zeros((len(inputs), 0))
        centred = np.log(inputs.sources) - np.array(self.source_log_ms)
        mean = centred.mean(1)
        return mean, mean, (centred - mean[:, None]) / np.sqrt(self.num_sources)

    def _intensities(self, inputs: Inputs, slope: Array) -> Array:
        typical = self.scales["kernels"]
        relative = inputs.groups[1] / np.where(typical > 0, typical, 1.0)
        return np.column_stack([relative, np.ones(len(inputs))]) * np.exp(-slope)[:, None]


def unlearned_prior(inputs: Inputs, kernel_cost_ms: ArrayLike | None = None) -> LatencyPrior:
    """A prior with default variances, scaled on the candidates `inputs`.

    kernel_cost_ms: (K,) from a spec sheet, see roofline.py; by default every kernel has the same share of the latency
        of an average candidate.
    """
    mean = inputs.kernels.mean(0)
    if not mean.any():
        raise UserError("kernels: every sum of every network is 0; give networks that compute something")
    groups, sums = group_sums(inputs.kernel_names, mean[None])
    # The same share for every kernel, whatever the number of places where it runs.
    mean_of = dict(zip(groups, sums[0], strict=True))
    totals = np.array([mean_of[name.partition("@")[0]] for name in inputs.kernel_names])
    cost = np.where(totals > 0, 1.0 / np.where(totals > 0, totals, 1.0), 0.0)
    prior = LatencyPrior(
        kernel_names=inputs.kernel_names,
        source_log_ms=np.zeros(0) if inputs.sources is None else np.log(inputs.sources).mean(0),
        kernel_mean=mean,
        intensity_mean=np.zeros(len(groups) + 1),
        intensity_std=np.ones(len(groups) + 1),
        kernel_cost_ms=cost if kernel_cost_ms is None else np.asarray(kernel_cost_ms, dtype=np.float64),
        variances=_DEFAULT + (0.0 if inputs.sources is None else np.array([0.0, 0.3, 0.0, 0.0, 0.0])),
    )
    intensities = prior._intensities(inputs, prior._shape(inputs)[1])
    scaled = {"intensity_mean": intensities.mean(0).tolist(), "intensity_std": intensities.std(0).tolist()}
    return LatencyPrior.model_validate(prior.model_dump() | scaled)


def covariance(variances: Array, parts: Array) -> Array:
    """The covariance (N, N) of measured log latencies, noise included."""
    total: Array = combine(variances, parts)
    return total + variances[4] * np.eye(parts.shape[1])


def combine(variances: Array, parts: Array) -> Array:
    """The sum of covariance parts (5, ...) scaled by the variances, without noise."""
    total: Array = parts[0] + np.tensordot(variances[:4], parts[1:], axes=1)
    return total
