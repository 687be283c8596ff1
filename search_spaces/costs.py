"""Exact costs of every option of a space, and of arrays of candidates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.kernels import TRAFFIC
from search_spaces.layer_traces import NumParams, StageCost
from search_spaces.liveness import AFTER
from search_spaces.peaks import UNetPeaks
from search_spaces.precision import Precision
from search_spaces.space import Indices, SearchSpace
from search_spaces.stage_costs import Size, StageCosts, check_space, meta_copy, stage_costs, trace
from search_spaces.unet import UNet
from search_spaces.vae import VAE
from search_spaces.vae_option import STEPS, VAE_STAGES

__all__ = ["CandidateCost", "CostTable", "check_space", "meta_copy", "trace"]

IntArray = NDArray[np.int64]

_MATRICES, _VECTORS, _MACS, _TRAFFIC = range(4)
#: Rows at a time: what is gathered for them stays in the processor's cache.
_BLOCK = 8192


@dataclass(frozen=True)
class CandidateCost:
    """Costs of one candidate: of one U-Net forward pass, or of one run of the pipeline."""

    num_params: int
    num_macs: int


@dataclass(frozen=True)
class CostTable:
    """Costs per (stage, option), in the order of a search space, and the rules that make them a candidate's.

    Of a space of U-Nets, costs are those of one forward pass of the U-Net. Of a space of pipelines they are those of
    one run: the VAE's encoder once, the U-Net once a step, the VAE's decoder once; parameters count once. All
    sums are exact, because stages share nothing but their inputs; so is the peak, by the rule of
    :mod:`search_spaces.peaks`. Text encoder and scheduler are not part of a candidate.

    Attributes:
        space: the search space whose options are listed.
        sums: per stage an array (options, 4): elements of parameters with two or more dimensions, elements of other
            parameters, MACs, activation elements read and written.
        stage_kernels: per stage an array (options, kernels), in the order of ``kernel_names``.
        kernel_names: names of the sums that latency predictors use; see :func:`search_spaces.kernels.sums_of`.
        base_sums, base_kernels: the same of the U-Net's input convolution, time embedding, output norm and convolution.
        unet_peaks: peaks of U-Nets.
        vae_peaks: per stage of the VAE an array (options,) of peak activation elements.
        teacher: cost of the teacher's own U-Net, or of its pipeline with one step.
        teacher_options: the teacher's own option of every stage that it has.
        teacher_sums: per stage of the teacher an array (4,), as in ``sums``.
        teacher_kernels: per stage of the teacher an array (kernels,).
    """

    space: SearchSpace
    sums: Mapping[str, IntArray]
    stage_kernels: Mapping[str, IntArray]
    kernel_names: tuple[str, ...]
    base_sums: IntArray
    base_kernels: IntArray
    unet_peaks: UNetPeaks
    vae_peaks: Mapping[str, IntArray]
    teacher: CandidateCost
    teacher_options: Mapping[str, str]
    teacher_sums: Mapping[str, IntArray]
    teacher_kernels: Mapping[str, IntArray]

    @classmethod
    def from_unet(
        cls,
        unet: UNet,
        space: SearchSpace,
        latent_size: Size,
        num_tokens: int,
        batch: int = 1,
        vae: VAE | None = None,
    ) -> CostTable:
        """Count every option of a space on a teacher; nothing is computed, only shapes.

        Args:
            unet: the teacher's U-Net, on any device; its weights are not read.
            space: the search space.
            latent_size: height and width of the latents.
            num_tokens: text tokens.
            batch: samples in one forward pass.
            vae: the teacher's VAE; needed for a space of pipelines.

        Raises:
            UserError: stages or options that this teacher does not have, or a space of pipelines without a VAE.
        """
        if space.is_pipeline and vae is None:
            raise UserError(
                f"search space {space.name!r} is one of pipelines, whose costs need the teacher's VAE; give vae"
            )
        return cls._of(space, stage_costs(unet, space, latent_size, num_tokens, batch, vae))

    @classmethod
    def _of(cls, space: SearchSpace, costs: StageCosts) -> CostTable:
        head = costs.head
        every = [*(c for cs in costs.options.values() for c in cs), *costs.teacher.values()]
        names = tuple(sorted({*head.sums, *(name for cost in every for name in cost.trace.sums)}))
        sums = {s: np.array([_row(c.params, c.trace.sums) for c in cs]) for s, cs in costs.options.items()}
        kernels = {
            s: np.array([[c.trace.sums[n] for n in names] for c in cs], dtype=np.int64)
            for s, cs in costs.options.items()
        }
        if space.is_pipeline:
            sums[STEPS] = np.zeros((len(space.options[STEPS]), 4), dtype=np.int64)
            kernels[STEPS] = np.zeros((len(space.options[STEPS]), len(names)), dtype=np.int64)
        unet_stages = [stage for stage in space.stages if stage not in (*VAE_STAGES, STEPS)]
        base = _row(head.params, head.sums)
        own = {stage: _row(c.params, c.trace.sums) for stage, c in costs.teacher.items()}
        total = np.sum([base, *own.values()], axis=0)
        return cls(
            space=space,
            sums=sums,
            stage_kernels=kernels,
            kernel_names=names,
            base_sums=base,
            base_kernels=np.array([head.sums[n] for n in names], dtype=np.int64),
            unet_peaks=UNetPeaks.of(unet_stages, costs.options, head.peak, head.network_inputs),
            vae_peaks={
                stage: np.array([_peak(cost) for cost in costs.options[stage]], dtype=np.int64)
                for stage in VAE_STAGES
                if space.is_pipeline
            },
            teacher=CandidateCost(int(total[_MATRICES] + total[_VECTORS]), int(total[_MACS])),
            teacher_options=dict(costs.teacher_options),
            teacher_sums=own,
            teacher_kernels={
                stage: np.array([c.trace.sums[n] for n in names], dtype=np.int64) for stage, c in costs.teacher.items()
            },
        )

    @cached_property
    def num_params(self) -> dict[str, IntArray]:
        """Parameters (options,) of every stage."""
        return {stage: table[:, _MATRICES] + table[:, _VECTORS] for stage, table in self.sums.items()}

    @cached_property
    def num_macs(self) -> dict[str, IntArray]:
        """MACs (options,) of every stage, run once."""
        return {stage: table[:, _MACS] for stage, table in self.sums.items()}

    @property
    def base_num_params(self) -> int:
        """Parameters of the U-Net's input convolution, time embedding, output norm and convolution."""
        return int(self.base_sums[_MATRICES] + self.base_sums[_VECTORS])

    @property
    def base_num_macs(self) -> int:
        """MACs of the same."""
        return int(self.base_sums[_MACS])

    def params(self, matrix: Indices) -> IntArray:
        """Parameters (N,) of candidates given as an index matrix (N, decisions)."""
        totals = self._totals(matrix)
        return totals[:, _MATRICES] + totals[:, _VECTORS]

    def macs(self, matrix: Indices) -> IntArray:
        """MACs (N,) of candidates given as an index matrix (N, decisions)."""
        return self._totals(matrix)[:, _MACS]

    def weight_bytes(self, matrix: Indices, precision: Precision) -> IntArray:
        """Bytes (N,) of the weights of candidates given as an index matrix (N, decisions)."""
        return _weight_bytes(self._totals(matrix), precision)

    def traffic_bytes(self, matrix: Indices, precision: Precision) -> IntArray:
        """Bytes (N,) of activations that operators read and write, for an index matrix (N, decisions)."""
        return self._totals(matrix)[:, _TRAFFIC] * precision.bytes_per_activation

    def peak_bytes(self, matrix: Indices, precision: Precision) -> IntArray:
        """Most bytes (N,) of activations alive at once, for an index matrix (N, decisions).

        Of a pipeline: the most of VAE encoder, U-Net and VAE decoder, which run one after the other.
        """
        peaks = [self._peaks(self.space.stage_rows(matrix[block])) for block in _blocks(len(matrix))]
        return np.concatenate([np.empty(0, dtype=np.int64), *peaks]) * precision.bytes_per_activation

    def kernels(self, matrix: Indices) -> IntArray:
        """Kernel sums (N, kernels) by ``kernel_names``, for an index matrix (N, decisions)."""
        totals = np.empty((len(matrix), len(self.kernel_names)), dtype=np.int64)
        for block in _blocks(len(matrix)):
            rows = self.space.stage_rows(matrix[block])
            self._add_up(rows, self.stage_kernels, self.base_kernels, totals[block])
        return totals

    def all_costs(self, matrix: Indices, precision: Precision) -> dict[str, IntArray]:
        """Every cost (N,) by name, for an index matrix (N, decisions).

        Returns:
            ``num_params``, ``num_macs``, ``weight_bytes``, ``traffic_bytes`` and ``peak_bytes``.
        """
        totals = np.empty((len(matrix), 4), dtype=np.int64)
        peaks = np.empty(len(matrix), dtype=np.int64)
        for block in _blocks(len(matrix)):
            rows = self.space.stage_rows(matrix[block])
            self._add_up(rows, self.sums, self.base_sums, totals[block])
            peaks[block] = self._peaks(rows)
        return {
            "num_params": totals[:, _MATRICES] + totals[:, _VECTORS],
            "num_macs": totals[:, _MACS],
            "weight_bytes": _weight_bytes(totals, precision),
            "traffic_bytes": totals[:, _TRAFFIC] * precision.bytes_per_activation,
            "peak_bytes": peaks * precision.bytes_per_activation,
        }

    def option_costs(self, name: str, precision: Precision, num_steps: int = 1) -> tuple[int, dict[str, IntArray]]:
        """One cost that adds up: of what is in no stage, and (options,) of every stage of the networks.

        The sum over stages, and the first number, is the candidate's; ``steps`` is no stage of a network.

        Args:
            name: ``num_params``, ``num_macs``, ``weight_bytes`` or ``traffic_bytes``.
            precision: of the bytes.
            num_steps: of the pipeline; MACs and traffic of the U-Net count once a step.
        """
        times = num_steps if name in ("num_macs", "traffic_bytes") else 1
        base = int(_named(name, self.base_sums[None], precision)[0]) * times
        return base, {
            stage: _named(name, table, precision) * (1 if stage in VAE_STAGES else times)
            for stage, table in self.sums.items()
            if stage != STEPS
        }

    def teacher_costs(self, name: str, precision: Precision) -> dict[str, int]:
        """One cost that adds up, of every stage of the teacher run once; without what is in no stage."""
        return {stage: int(_named(name, sums[None], precision)[0]) for stage, sums in self.teacher_sums.items()}

    def cost(self, candidate: Candidate) -> CandidateCost:
        """Parameters and MACs of one candidate of the space."""
        row = self.space.encode(candidate)[None]
        return CandidateCost(int(self.params(row)[0]), int(self.macs(row)[0]))

    @cached_property
    def _num_steps(self) -> IntArray:
        return np.array([int(name) for name in self.space.options[STEPS]], dtype=np.int64)

    def _totals(self, matrix: Indices) -> IntArray:
        totals = np.empty((len(matrix), 4), dtype=np.int64)
        for block in _blocks(len(matrix)):
            self._add_up(self.space.stage_rows(matrix[block]), self.sums, self.base_sums, totals[block])
        return totals

    def _add_up(self, rows: Indices, tables: Mapping[str, IntArray], base: IntArray, out: IntArray) -> None:
        """Write the sums (N, columns) over the stages of option numbers (N, stages)."""
        out[:] = base
        for column, stage in enumerate(self.space.stages):
            if stage not in (*VAE_STAGES, STEPS):
                out += tables[stage].take(rows[:, column], axis=0)
        if self.space.is_pipeline:
            first = _MACS if tables is self.sums else 0  # the columns before are parameters, which no step adds to
            columns = {stage: column for column, stage in enumerate(self.space.stages)}
            out[:, first:] *= self._num_steps[rows[:, columns[STEPS]], None]
            for stage in VAE_STAGES:
                out += tables[stage].take(rows[:, columns[stage]], axis=0)

    def _peaks(self, rows: Indices) -> IntArray:
        peak = self.unet_peaks.elements(rows)
        if self.space.is_pipeline:
            for stage in VAE_STAGES:
                np.maximum(peak, self.vae_peaks[stage][rows[:, self.space.stages.index(stage)]], out=peak)
        return peak


def _row(params: NumParams, sums: Mapping[str, int]) -> IntArray:
    macs = sum(value for name, value in sums.items() if "_macs@" in name)
    return np.array([params.matrices, params.vectors, macs, sums[TRAFFIC]], dtype=np.int64)


def _peak(cost: StageCost) -> int:
    """Peak of a network of one stage, whose inputs and outputs stay."""
    part = cost.liveness
    return part.peak(life._replace(last=AFTER) for life in (*part.inputs, *part.outputs))


def _named(name: str, totals: IntArray, precision: Precision) -> IntArray:
    """A cost (N,) that adds up, of sums (N, 4)."""
    if name == "num_params":
        return totals[:, _MATRICES] + totals[:, _VECTORS]
    if name == "num_macs":
        return totals[:, _MACS]
    if name == "weight_bytes":
        return _weight_bytes(totals, precision)
    assert name == "traffic_bytes", name
    return totals[:, _TRAFFIC] * precision.bytes_per_activation


def _weight_bytes(totals: IntArray, precision: Precision) -> IntArray:
    return totals[:, _MATRICES] * precision.bytes_per_weight + totals[:, _VECTORS] * precision.bytes_per_vector


def _blocks(num: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, num)) for start in range(0, num, _BLOCK))
