"""What a search space reaches: the range of every cost, budgets, and what each stage takes of the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nas.latency import DeviceFacts
from nas.space_budgets import BudgetCount, CostRange, budget_counts, costs_of, range_of
from search_spaces.errors import UserError
from search_spaces.precision import Precision
from search_spaces.vae_option import STEPS

if TYPE_CHECKING:
    from nas.latency import DeviceLatency
    from search_spaces.costs import CostTable
    from search_spaces.space import Indices

MAX_COUNTED = 2_000_000
"""Spaces of up to so many candidates are gone through whole; of larger ones a sample is drawn."""
SAMPLE_SIZE = 200_000
MAX_INTERVALS = 50_000
"""Intervals of latency are taken of at most so many candidates."""

COSTS = ("num_params", "num_macs", "weight_bytes", "traffic_bytes", "peak_bytes", "latency_ms")


@dataclass(frozen=True)
class StageOptionCost:
    """Costs of one option of one stage, run once; latency where the device profile has it."""

    stage: str
    option: str
    num_params: int
    num_macs: int
    latency_ms: float | None
    is_teachers: bool


@dataclass(frozen=True)
class StageShare:
    """What a stage takes of the teacher, as shares from 0 to 1, and what its options reach.

    ``teacher_latency`` is the share among the stages whose own option the device profile has.
    """

    stage: str
    teacher_params: float
    teacher_macs: float
    teacher_latency: float | None
    smallest_option_params: int
    largest_option_params: int
    smallest_option_macs: int
    largest_option_macs: int


@dataclass(frozen=True)
class LatencyTrust:
    """Which device the latencies are of, and how sure they are.

    Attributes:
        low_factor, high_factor: ends of the 90 % interval over the prediction, medians of the candidates looked at.
        num_extrapolating: of so many of those looked at the profile says that it extrapolates.
    """

    device: DeviceFacts
    low_factor: float
    high_factor: float
    num_extrapolating: int
    num_looked_at: int


@dataclass(frozen=True)
class SpaceProfile:
    """All that `nanosd space profile` says; see :func:`profile_space`."""

    space: str
    is_pipeline: bool
    num_candidates: int
    num_looked_at: int
    precision: Precision
    latency: LatencyTrust | None
    ranges: tuple[CostRange, ...]
    budgets: tuple[BudgetCount, ...]
    stages: tuple[StageShare, ...]
    options: tuple[StageOptionCost, ...]
    kernel_macs: Mapping[str, Mapping[str, int]]
    """MACs of the teacher's stages by operator class."""
    teacher_params: Mapping[str, int]
    """Parameters of the teacher's stages, with `base` for what is in none."""
    teacher_latency_ms: Mapping[str, float]
    """Latency of the teacher's stages, as far as the device profile has them."""

    @property
    def counted(self) -> bool:
        """Whether every candidate was looked at."""
        return self.num_looked_at == self.num_candidates


def profile_space(
    table: CostTable,
    precision: Precision,
    device: DeviceLatency | None = None,
    budgets: Mapping[str, float] | None = None,
    seed: int = 0,
) -> SpaceProfile:
    """Go through a space, or a sample of a large one.

    Args:
        table: exact costs of the space.
        precision: of weights and activations, for the costs in bytes.
        device: a device and its latencies of the space's candidates.
        budgets: largest value by cost name, as in ``COSTS``.
        seed: of the sample.

    Raises:
        UserError: a budget on an unknown cost, or on latency without a device; a device profile of another space.
    """
    space = table.space
    for name in budgets or {}:
        if name not in COSTS:
            raise UserError(f"budget on {name!r}: no such cost; legal are {', '.join(COSTS)}")
        if name == "latency_ms" and device is None:
            raise UserError("budget on latency_ms: no device profile is given; add --device, or drop the budget")
    counted = space.num_candidates <= MAX_COUNTED
    matrix = space.enumerate() if counted else space.sample(np.random.default_rng(seed), SAMPLE_SIZE)
    latency = None if device is None else device.table
    values = costs_of(table, precision, latency, matrix)
    return SpaceProfile(
        space=space.name,
        is_pipeline=space.is_pipeline,
        num_candidates=space.num_candidates,
        num_looked_at=len(matrix),
        precision=precision,
        latency=None if device is None else _trust(device, matrix),
        ranges=tuple(range_of(table, precision, latency, name, values[name], counted) for name in values),
        budgets=tuple(budget_counts(table, precision, latency, matrix, values, budgets or {})),
        stages=tuple(_shares(table, device)),
        options=tuple(_options(table, device)),
        kernel_macs=_kernel_macs(table),
        teacher_params={"base": table.base_num_params, **table.teacher_costs("num_params", precision)},
        teacher_latency_ms=_teacher_latency(table, device),
    )


def _trust(device: DeviceLatency, matrix: Indices) -> LatencyTrust:
    # An even choice of the candidates settles medians; an interval costs more than a latency.
    found = device.table.predict(matrix[:: -(-len(matrix) // MAX_INTERVALS)])
    return LatencyTrust(
        device.facts,
        float(np.median(found.low_ms / found.latency_ms)),
        float(np.median(found.high_ms / found.latency_ms)),
        int(found.extrapolates.sum()),
        len(found.extrapolates),
    )


def _option_ms(device: DeviceLatency | None, stage: str, option: str) -> float | None:
    return None if device is None else device.table.option_ms(stage, option)


def _options(table: CostTable, device: DeviceLatency | None) -> list[StageOptionCost]:
    return [
        StageOptionCost(
            stage,
            option,
            int(params),
            int(macs),
            _option_ms(device, stage, option),
            table.teacher_options[stage] == option,
        )
        for stage in table.space.stages
        if stage != STEPS
        for option, params, macs in zip(
            table.space.options[stage], table.num_params[stage], table.num_macs[stage], strict=True
        )
    ]


def _teacher_latency(table: CostTable, device: DeviceLatency | None) -> dict[str, float]:
    found = {stage: _option_ms(device, stage, table.teacher_options[stage]) for stage in table.teacher_sums}
    return {stage: value for stage, value in found.items() if value is not None}


def _shares(table: CostTable, device: DeviceLatency | None) -> list[StageShare]:
    latency = _teacher_latency(table, device)
    whole_ms = sum(latency.values())
    params, macs = (table.teacher_costs(name, Precision.FP32) for name in ("num_params", "num_macs"))
    return [
        StageShare(
            stage,
            teacher_params=params[stage] / table.teacher.num_params,
            teacher_macs=macs[stage] / table.teacher.num_macs,
            teacher_latency=latency[stage] / whole_ms if stage in latency and len(latency) > 1 else None,
            smallest_option_params=int(table.num_params[stage].min()),
            largest_option_params=int(table.num_params[stage].max()),
            smallest_option_macs=int(table.num_macs[stage].min()),
            largest_option_macs=int(table.num_macs[stage].max()),
        )
        for stage in table.teacher_sums
    ]


def _kernel_macs(table: CostTable) -> dict[str, dict[str, int]]:
    """MACs of the teacher by stage (`base`: in none) and operator class, resolutions together."""
    found: dict[str, dict[str, int]] = {}
    for stage, sums in {"base": table.base_kernels, **table.teacher_kernels}.items():
        classes: dict[str, int] = {}
        for name, value in zip(table.kernel_names, sums, strict=True):
            kind, is_macs, _ = name.partition("_macs@")
            if is_macs and value:
                classes[kind] = classes.get(kind, 0) + int(value)
        found[stage] = classes
    return found
