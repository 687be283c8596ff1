"""What one timing says: robust statistics of the samples, and under which conditions they were taken."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeFloat, PositiveInt

Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Precision = Literal["float32", "float16", "bfloat16", "w8a8", "w8a16"]
Clock = Literal["wall", "thread_cpu"]


class Summary(BaseModel):
    """Order statistics of the samples of one subject; every time in milliseconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_samples: PositiveInt
    median_ms: Milliseconds
    iqr_ms: NonNegativeFloat = Field(allow_inf_nan=False)
    p10_ms: Milliseconds
    p90_ms: Milliseconds
    ci95_ms: tuple[Milliseconds, Milliseconds]

    @property
    def ci95_half_width_pct(self) -> float:
        """Half the width of the median's 95 % interval, in per cent of the median."""
        return 50.0 * (self.ci95_ms[1] - self.ci95_ms[0]) / self.median_ms


class Conditions(BaseModel):
    """What else decides a latency: the machine and its state when the samples were taken."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: str
    num_cores: PositiveInt
    os: str
    runtime_version: str
    spinning: bool
    governor: str | None
    temperature_c: FiniteFloat | None
    load_average_1min: NonNegativeFloat | None
    measured_at: str


class Measurement(Summary):
    """One timed record of one subject (a stage option, a whole U-Net) on one device.

    What is timed is one run with its weights in memory and not in the caches, as they are in every
    network larger than the caches (see runners.round_robin, which also says why). `clock` is "wall"
    unless so few runs were free of preemption that the thread's processor time had to stand in.
    `num_preempted` runs were left out because another process took the processor away meanwhile.
    """

    subject: str
    device: str
    runtime: str
    precision: Precision
    threads: PositiveInt
    clock: Clock
    num_preempted: int = Field(ge=0)
    conditions: Conditions

    @property
    def latency_ms(self) -> float:
        """The median: what a latency is here."""
        return self.median_ms


class Recording(BaseModel):
    """The runs of one subject in one pass of a measuring session; times in milliseconds.

    `wall_ms` holds the runs that kept the processor, `cpu_ms` the thread's processor time of every run.
    All subjects' recordings of one pass share `pass_id` (nanoseconds since the epoch at its start).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: str
    pass_id: int
    device: str
    runtime: str
    precision: Precision
    threads: PositiveInt
    wall_ms: tuple[Milliseconds, ...]
    cpu_ms: tuple[Milliseconds, ...] = Field(min_length=1)
    conditions: Conditions


_MIN_CLEAN = 5
_MIN_CLEAN_SHARE = 0.25
_MIN_FOR_LEVEL = 8


def combine(recordings: Sequence[Recording], levels: Mapping[int, float] | None = None) -> Measurement:
    """One measurement from all passes of one subject: the statistics of their samples together.

    Samples are divided by the level of their pass (`levels`: pass_id -> factor, else 1; see pass_levels).
    The conditions are those of the first pass.
    """
    first = recordings[0]
    assert all(r.subject == first.subject for r in recordings)
    wall, cpu = [], []
    for r in recordings:
        level = (levels or {}).get(r.pass_id, 1.0)
        wall += [ms / level for ms in r.wall_ms]
        cpu += [ms / level for ms in r.cpu_ms]
    clean = len(wall) >= min(_MIN_CLEAN, len(cpu)) and len(wall) >= _MIN_CLEAN_SHARE * len(cpu)
    return Measurement(
        **summarise(wall if clean else cpu).model_dump(),
        **first.model_dump(include={"subject", "device", "runtime", "precision", "threads"}),
        clock="wall" if clean else "thread_cpu",
        num_preempted=len(cpu) - len(wall),
        conditions=first.conditions,
    )


def combine_all(recordings: Mapping[str, Sequence[Recording]]) -> dict[str, Measurement]:
    """One measurement per subject, with the drift between passes taken out (see pass_levels)."""
    levels = pass_levels(recordings)
    return {name: combine(passes, levels) for name, passes in recordings.items()}


def pass_levels(recordings: Mapping[str, Sequence[Recording]]) -> dict[int, float]:
    """How slow the machine was in each pass (pass_id -> factor), judged by all subjects of the pass.

    The level is the median over the subjects of (median in this pass / median over all passes). The
    subjects are each other's drift reference: one reference graph timed along was worse than none, its
    own noise being that of one subject. With fewer than 8 subjects the level is 1.
    When the load of the machine changed within a calibration, the median error on unseen U-Nets fell from
    5.6 to 1.9 %; under steady load it stayed as it was.
    """
    ratios: dict[int, list[float]] = {}
    for passes in recordings.values():
        samples = [ms for r in passes for ms in r.wall_ms]
        if not samples:
            continue
        overall = float(np.median(samples))
        for r in passes:
            if r.wall_ms:
                ratios.setdefault(r.pass_id, []).append(float(np.median(r.wall_ms)) / overall)
    return {key: float(np.median(r)) if len(r) >= _MIN_FOR_LEVEL else 1.0 for key, r in ratios.items()}


def median_interval(num_samples: int, confidence: float = 0.95) -> tuple[int, int]:
    """0-based ranks (lo, hi) of the order statistics that cover the median with `confidence`.

    The number of samples below the median is Binomial(n, 1/2), so [x_(lo), x_(hi)] covers it with
    probability 1 - 2 P(B <= lo), whatever the distribution (David & Nagaraja, Order Statistics,
    section 7.1). Below 6 samples no interval reaches 95 %; then the whole range is returned.
    """
    tail, lo = 0.0, 0
    for k in range(num_samples // 2):
        tail += math.exp(
            math.lgamma(num_samples + 1)
            - math.lgamma(k + 1)
            - math.lgamma(num_samples - k + 1)
            - num_samples * math.log(2.0)
        )
        if 2.0 * tail > 1.0 - confidence:
            break
        lo = k
    return lo, num_samples - 1 - lo


def summarise(samples_ms: ArrayLike) -> Summary:
    """Order statistics of `samples_ms` (1-D, milliseconds, all finite and positive, else ValueError)."""
    samples = np.sort(np.asarray(samples_ms, dtype=float))
    if samples.ndim != 1 or samples.size == 0:
        raise ValueError(f"samples_ms has shape {samples.shape}; a non-empty 1-D array is needed")
    if not np.isfinite(samples).all() or samples[0] <= 0:
        raise ValueError("samples_ms holds a value that is not finite and positive")
    lo, hi = median_interval(samples.size)
    p10, p25, p50, p75, p90 = (float(v) for v in np.percentile(samples, [10, 25, 50, 75, 90]))
    return Summary(
        num_samples=samples.size,
        median_ms=p50,
        iqr_ms=p75 - p25,
        p10_ms=p10,
        p90_ms=p90,
        ci95_ms=(float(samples[lo]), float(samples[hi])),
    )


def current_conditions(runtime_version: str, spinning: bool) -> Conditions:
    """The machine's state now; what the system does not tell (in containers often much) is None."""
    try:
        load: float | None = os.getloadavg()[0]
    except OSError:
        load = None
    return Conditions(
        cpu=cpu_name(),
        num_cores=os.cpu_count() or 1,
        os=f"{platform.system()} {platform.release()}",
        runtime_version=runtime_version,
        spinning=spinning,
        governor=_read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        temperature_c=_temperature_c(),
        load_average_1min=load,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


@cache
def cpu_name() -> str:
    """The processor's name as the system gives it, e.g. "AMD EPYC 9575F 64-Core Processor"."""
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def _temperature_c() -> float | None:
    """The hottest thermal zone, degrees Celsius."""
    found: list[float] = []
    for zone in Path("/sys/class/thermal").glob("thermal_zone*/temp"):
        try:
            found.append(int(_read(zone) or "") / 1000.0)
        except ValueError:
            continue
    return max(found, default=None)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None
