"""What a search space reaches: the range of every cost, budgets, and what each stage takes of the teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.precision import Precision
from search_spaces.vae_option import STEPS

if TYPE_CHECKING:
    from latency_predictors.profile import DeviceProfile
    from search_spaces.costs import CostTable
    from search_spaces.space import Indices

MAX_COUNTED = 2_000_000
"""Spaces of up to so many candidates are gone through whole; of larger ones a sample is drawn."""
SAMPLE_SIZE = 200_000

COSTS = ("num_params", "num_macs", "weight_bytes", "traffic_bytes", "peak_bytes", "latency_ms")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CostRange:
    """One cost over the candidates of a space.

    Attributes:
        cost: its name, unit included, such as ``num_macs``.
        minimum, median, maximum: over the candidates looked at, and over those that take the least or most in
            every stage, which are the ends of every cost that adds up.
        teacher: the teacher's own, where it is known.
    """

    cost: str
    minimum: float
    median: float
    maximum: float
    teacher: float | None


@dataclass(frozen=True)
class BudgetCount:
    """How many candidates meet a budget; ``budget`` is ``all together`` for the last of several.

    ``num_low`` and ``num_high`` bound the number with 95 % confidence (Wilson); they are equal where it was counted.
    """

    budget: str
    limit: float | None
    num_candidates: float
    num_low: float
    num_high: float
    share: float


@dataclass(frozen=True)
class StageOptionCost:
    """Costs of one option of one stage, run once; latency where the device profile has it."""

    stage: str
    option: str
    num_params: int
    num_macs: int
    latency_ms: float | None


@dataclass(frozen=True)
class StageShare:
    """What a stage takes: of the teacher, and on average over the space's options, as shares from 0 to 1."""

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
            raise UserError("budget on latency_ms: no device profile is given; give one, or drop the budget")
    counted = space.num_candidates <= MAX_COUNTED
    matrix = space.enumerate() if counted else space.sample(np.random.default_rng(seed), SAMPLE_SIZE)
    values = _costs(table, precision, device, matrix)
    ends = _costs(table, precision, device, _ends(table, precision, device))
    return SpaceProfile(
        space=space.name,
        num_candidates=space.num_candidates,
        num_looked_at=len(matrix),
        precision=precision,
        device=None if device is None else f"{device.device} ({device.runtime}, {device.precision})",
        ranges=tuple(_range(table, precision, name, values[name], ends[name]) for name in values),
        budgets=tuple(_budgets(values, budgets or {}, space.num_candidates, counted)),
        stages=tuple(_shares(table, device)),
        options=tuple(_options(table, device)),
        kernel_macs=_kernel_macs(table),
        teacher_params={
            "base": table.base_num_params,
            **{stage: int(sums[0] + sums[1]) for stage, sums in table.teacher_sums.items()},
        },
        teacher_latency_ms=_teacher_latency(table, device),
    )


def _costs(table: CostTable, precision: Precision, device: DeviceProfile | None, matrix: Indices) -> dict[str, Floats]:
    found = {name: values.astype(np.float64) for name, values in table.all_costs(matrix, precision).items()}
    if device is not None:
        found["latency_ms"] = np.asarray(device.predict(table.space, matrix), dtype=np.float64)
    return found


def _ends(table: CostTable, precision: Precision, device: DeviceProfile | None) -> Indices:
    """Candidates with the least, and with the most, of each cost in every stage."""
    space = table.space
    per_option: list[Callable[[str], Floats]] = [
        lambda stage: table.num_params[stage].astype(np.float64),
        lambda stage: table.num_macs[stage].astype(np.float64),
        lambda stage: (table.sums[stage][:, :2] @ [precision.bytes_per_weight, precision.bytes_per_vector]).astype(
            np.float64
        ),
        lambda stage: table.sums[stage][:, 3].astype(np.float64),
    ]
    if device is not None:
        per_option.append(lambda stage: np.array([_option_ms(device, stage, o) or 0.0 for o in space.options[stage]]))
    rows = []
    for costs in per_option:
        for pick in (np.argmin, np.argmax):
            rows.append(
                [
                    int(pick([int(name) for name in space.options[stage]] if stage == STEPS else costs(stage)))
                    for stage in space.stages
                ]
            )
    return space.from_stage_rows(np.array(rows, dtype=np.int64))


def _range(table: CostTable, precision: Precision, name: str, values: Floats, ends: Floats) -> CostRange:
    low, high = min(values.min(), ends.min()), max(values.max(), ends.max())
    # Peak memory is no sum over stages: it is the teacher's only where the teacher is a candidate.
    own = Candidate(options=dict(table.teacher_options))
    if table.space.is_pipeline:
        own = Candidate(options={**own.options, STEPS: "1"})
    peak = None
    if table.space.contains(own):
        peak = int(table.peak_bytes(table.space.encode(own)[None], precision)[0])
    total = table.base_sums + sum(table.teacher_sums.values())
    teacher = {
        "num_params": table.teacher.num_params,
        "num_macs": table.teacher.num_macs,
        "weight_bytes": int(total[0]) * precision.bytes_per_weight + int(total[1]) * precision.bytes_per_vector,
        "peak_bytes": peak,
        "traffic_bytes": int(total[3]) * precision.bytes_per_activation,
    }.get(name)
    return CostRange(name, float(low), float(np.median(values)), float(high), teacher)


def _budgets(
    values: Mapping[str, Floats], budgets: Mapping[str, float], num_candidates: int, counted: bool
) -> list[BudgetCount]:
    found = []
    together = np.ones(len(next(iter(values.values()))), dtype=bool)
    for name, limit in budgets.items():
        meets = values[name] <= limit
        together &= meets
        found.append(_count(name, limit, int(meets.sum()), len(meets), num_candidates, counted))
    if len(budgets) > 1:
        found.append(_count("all together", None, int(together.sum()), len(together), num_candidates, counted))
    return found


def _count(name: str, limit: float | None, hits: int, looked_at: int, total: int, counted: bool) -> BudgetCount:
    share = hits / looked_at
    if counted:
        return BudgetCount(name, limit, hits, hits, hits, share)
    from scipy.stats import binomtest

    bounds = binomtest(hits, looked_at).proportion_ci(0.95, method="wilson")
    return BudgetCount(name, limit, share * total, float(bounds.low) * total, float(bounds.high) * total, share)


def _option_ms(device: DeviceProfile | None, stage: str, option: str) -> float | None:
    """Measured latency of a stage option; 0 for one that runs nothing, None for one that was not measured."""
    if device is None or option not in device.options.get(stage, {}):
        return None
    measurement = device.options[stage][option]
    return 0.0 if measurement is None else measurement.median_ms


def _options(table: CostTable, device: DeviceProfile | None) -> list[StageOptionCost]:
    return [
        StageOptionCost(stage, option, int(params), int(macs), _option_ms(device, stage, option))
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
    return [
        StageShare(
            stage,
            teacher_params=float(sums[0] + sums[1]) / table.teacher.num_params,
            teacher_macs=float(sums[2]) / table.teacher.num_macs,
            teacher_latency=latency[stage] / whole_ms if stage in latency and len(latency) > 1 else None,
            smallest_option_params=int(table.num_params[stage].min()),
            largest_option_params=int(table.num_params[stage].max()),
            smallest_option_macs=int(table.num_macs[stage].min()),
            largest_option_macs=int(table.num_macs[stage].max()),
        )
        for stage, sums in table.teacher_sums.items()
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
