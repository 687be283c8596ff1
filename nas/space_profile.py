"""What a search space reaches: the range of every cost, budgets, and what each stage takes of the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from search_spaces.budget_counts import count_within
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
        minimum, maximum: ends of the cost; of all candidates where ``ends_are_exact``, else of those looked at.
        median: of the candidates looked at.
        teacher: the teacher's own, where it is known.
    """

    cost: str
    minimum: float
    median: float
    maximum: float
    ends_are_exact: bool
    teacher: float | None


@dataclass(frozen=True)
class BudgetCount:
    """How many candidates meet a budget.

    Attributes:
        cost: the cost that is bounded; ``None``: all budgets together.
        limit: largest value, ``None`` for all together.
        num_low, num_high: bounds of the number: equal where every candidate was looked at.
        certain: whether the bounds are certain (counted), or hold with 95 % confidence (a sample's, Wilson).
        example: id of a candidate that meets it: of those looked at the one with most parameters, else one that was
            searched for; ``None``: none was found.
    """

    cost: str | None
    limit: float | None
    num_low: float
    num_high: float
    certain: bool
    example: str | None


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
    values = _costs(table, precision, device, matrix)
    return SpaceProfile(
        space=space.name,
        is_pipeline=space.is_pipeline,
        num_candidates=space.num_candidates,
        num_looked_at=len(matrix),
        precision=precision,
        device=None if device is None else f"{device.device} ({device.runtime}, {device.precision})",
        ranges=tuple(_range(table, precision, device, name, values[name], counted) for name in values),
        budgets=tuple(_budgets(table, precision, device, matrix, values, budgets or {})),
        stages=tuple(_shares(table, device)),
        options=tuple(_options(table, device)),
        kernel_macs=_kernel_macs(table),
        teacher_params={"base": table.base_num_params, **table.teacher_costs("num_params", precision)},
        teacher_latency_ms=_teacher_latency(table, device),
    )


def _costs(table: CostTable, precision: Precision, device: DeviceProfile | None, matrix: Indices) -> dict[str, Floats]:
    found = {name: values.astype(np.float64) for name, values in table.all_costs(matrix, precision).items()}
    if device is not None:
        found["latency_ms"] = np.asarray(device.predict(table.space, matrix), dtype=np.float64)
    return found


def _sums(
    table: CostTable, precision: Precision, device: DeviceProfile | None, name: str
) -> list[tuple[float, list[Floats]]]:
    """A cost as sums over stages, one for each number of steps: what is in no stage, and (options,) of every stage.

    Empty for a cost that is no sum.
    """
    if name == "peak_bytes":
        return []
    if name == "latency_ms":
        assert device is not None
        # The profile's model is linear: the first options' latency, and what each other option adds to it.
        space = table.space
        rows = np.zeros((1 + sum(space.stage_sizes), len(space.stage_sizes)), dtype=np.int64)
        ends = 1 + np.cumsum(space.stage_sizes)
        for column, (end, size) in enumerate(zip(ends, space.stage_sizes, strict=True)):
            rows[end - size : end, column] = np.arange(size)
        latency = np.asarray(device.predict(space, space.from_stage_rows(rows)), dtype=np.float64)
        added = [latency[end - size : end] - latency[0] for end, size in zip(ends, space.stage_sizes, strict=True)]
        return [(float(latency[0]), added)]
    steps = [int(n) for n in table.space.options[STEPS]] if table.space.is_pipeline else [1]
    found = []
    for num_steps in steps:
        base, stages = table.option_costs(name, precision, num_steps)
        found.append((float(base), [costs.astype(np.float64) for costs in stages.values()]))
    return found


def _range(
    table: CostTable, precision: Precision, device: DeviceProfile | None, name: str, values: Floats, counted: bool
) -> CostRange:
    sums = _sums(table, precision, device, name)
    low, high = float(values.min()), float(values.max())
    if sums and not counted:
        low = min(base + sum(float(costs.min()) for costs in stages) for base, stages in sums)
        high = max(base + sum(float(costs.max()) for costs in stages) for base, stages in sums)
    return CostRange(
        name, low, float(np.median(values)), high, counted or bool(sums), _teacher(table, precision, device, name)
    )


def _teacher(table: CostTable, precision: Precision, device: DeviceProfile | None, name: str) -> float | None:
    """The teacher's own cost; peak memory and latency only where the teacher is a candidate of the space."""
    if name not in ("peak_bytes", "latency_ms"):
        base, _ = table.option_costs(name, precision)
        return base + sum(table.teacher_costs(name, precision).values())
    own = Candidate(options={**table.teacher_options, **({STEPS: "1"} if table.space.is_pipeline else {})})
    if not table.space.contains(own):
        return None
    return float(_costs(table, precision, device, table.space.encode(own)[None])[name][0])


def _budgets(
    table: CostTable,
    precision: Precision,
    device: DeviceProfile | None,
    matrix: Indices,
    values: Mapping[str, Floats],
    budgets: Mapping[str, float],
) -> list[BudgetCount]:
    total = table.space.num_candidates
    counted = len(matrix) == total

    def example(meets: NDArray[np.bool_], limits: Mapping[str, float]) -> str | None:
        found = np.flatnonzero(meets)
        if len(found):
            return table.space.decode(matrix[found[np.argmax(values["num_params"][found])]]).id
        return None if counted else _searched_for(table, precision, device, limits)

    found = []
    together = np.ones(len(next(iter(values.values()))), dtype=bool)
    for name, limit in budgets.items():
        meets = values[name] <= limit
        together &= meets
        sums = [] if counted else _sums(table, precision, device, name)
        if sums:
            bounds = [count_within(stages, limit - base) for base, stages in sums]
            low, high = sum(b[0] for b in bounds), sum(b[1] for b in bounds)
            found.append(BudgetCount(name, limit, low, high, True, example(meets, {name: limit})))
        else:
            found.append(
                BudgetCount(name, limit, *_of_sample(meets, total, counted), counted, example(meets, {name: limit}))
            )
    if len(budgets) > 1:
        bounds_of_all = _of_sample(together, total, counted)
        found.append(BudgetCount(None, None, *bounds_of_all, counted, example(together, budgets)))
    return found


def _searched_for(
    table: CostTable, precision: Precision, device: DeviceProfile | None, limits: Mapping[str, float]
) -> str | None:
    """Id of a candidate within limits that hardly any candidate is within."""
    from functools import partial

    from search_spaces.sampling import sample_within

    def cost(name: str, matrix: Indices) -> Floats:
        return _costs(table, precision, device, matrix)[name]

    costs = {name: partial(cost, name) for name in limits}
    try:
        (found,) = sample_within(table.space, costs, limits, np.random.default_rng(0), 1)
    except UserError:
        return None
    return table.space.decode(found).id


def _of_sample(meets: NDArray[np.bool_], total: int, counted: bool) -> tuple[float, float]:
    """Bounds of the number of candidates of which ``meets`` is a sample, or all."""
    hits = int(meets.sum())
    if counted:
        return hits, hits
    from scipy.stats import binomtest

    bounds = binomtest(hits, len(meets)).proportion_ci(0.95, method="wilson")
    return float(bounds.low) * total, float(bounds.high) * total


def _option_ms(device: DeviceProfile | None, stage: str, option: str) -> float | None:
    """Measured latency of a stage option; 0 for one that runs nothing, None for one that was not measured."""
    if device is None or option not in device.options.get(stage, {}):
        return None
    measurement = device.options[stage][option]
    return 0.0 if measurement is None else measurement.median_ms


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
