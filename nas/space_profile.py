"""What a search space reaches: the range of every cost, budgets, and what each stage takes of the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nas.space_budgets import BudgetCount, CostRange, budget_counts, costs_of, range_of
from search_spaces.errors import UserError
from search_spaces.precision import Precision
from search_spaces.vae_option import STEPS

if TYPE_CHECKING:
    from latency_predictors.profile import DeviceProfile
    from search_spaces.costs import CostTable

MAX_COUNTED = 2_000_000
"""Spaces of up to so many candidates are gone through whole; of larger ones a sample is drawn."""
SAMPLE_SIZE = 200_000

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
class SpaceProfile:
    """All that `nanosd space profile` says; see :func:`profile_space`."""

    space: str
    is_pipeline: bool
    num_candidates: int
    num_looked_at: int
    precision: Precision
    device: str | None
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
    device: DeviceProfile | None = None,
    budgets: Mapping[str, float] | None = None,
    seed: int = 0,
) -> SpaceProfile:
    """Go through a space, or a sample of a large one.

    Args:
        table: exact costs of the space.
        precision: of weights and activations, for the costs in bytes.
        device: predicts latency; must have been calibrated for the space.
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
    values = costs_of(table, precision, device, matrix)
    return SpaceProfile(
        space=space.name,
        is_pipeline=space.is_pipeline,
        num_candidates=space.num_candidates,
        num_looked_at=len(matrix),
        precision=precision,
        device=None if device is None else f"{device.device} ({device.runtime}, {device.precision})",
        ranges=tuple(range_of(table, precision, device, name, values[name], counted) for name in values),
        budgets=tuple(budget_counts(table, precision, device, matrix, values, budgets or {})),
        stages=tuple(_shares(table, device)),
        options=tuple(_options(table, device)),
        kernel_macs=_kernel_macs(table),
        teacher_params={"base": table.base_num_params, **table.teacher_costs("num_params", precision)},
        teacher_latency_ms=_teacher_latency(table, device),
    )


def _option_ms(device: DeviceProfile | None, stage: str, option: str) -> float | None:
    return None if device is None else device.option_ms(stage, option)


def _options(table: CostTable, device: DeviceProfile | None) -> list[StageOptionCost]:
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


def _teacher_latency(table: CostTable, device: DeviceProfile | None) -> dict[str, float]:
    found = {stage: _option_ms(device, stage, table.teacher_options[stage]) for stage in table.teacher_sums}
    return {stage: value for stage, value in found.items() if value is not None}


def _shares(table: CostTable, device: DeviceProfile | None) -> list[StageShare]:
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
