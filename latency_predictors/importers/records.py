"""What an import yields: measurements that others took, the rows that were refused or remarked, and whence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from latency_predictors.measurement import Milliseconds, Precision

MAX_NAME = 1000
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
ComputeUnit = Literal["CPU", "GPU", "NPU"]
Statistic = Literal["median", "mean", "estimate"]
Row = int | str
"""1-based line of a text file, or the path of a value in a JSON file such as "$[3].dur"."""

# "float" is AI Hub's word for unquantised weights and activations, whatever width the compiler gives them.
ImportedPrecision = Literal[
    Precision,
    "float",
    "w4",
    "w4a16",
    "w16a16",
    "w8a8_mixed_int16",
    "w8a8_mixed_fp16",
    "w8a16_mixed_int16",
    "w8a16_mixed_fp16",
]


class Facts(BaseModel):
    """What is known of a file besides its content: most tools name no device, and none names all of this.

    A fact fills in what a row leaves open. A row that states something else is refused: with
    ``precision="w8a16"`` the float rows of a file are. `warm_up_runs` are the first runs of an
    onnxruntime profile, which are not counted; the other formats leave warm-up out themselves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: Name | None = None
    device: Name | None = None
    runtime: Name | None = None
    precision: ImportedPrecision | None = None
    threads: PositiveInt | None = None
    toolchain: Name | None = None
    warm_up_runs: NonNegativeInt = 1


class LayerCounts(BaseModel):
    """Layers, as the runtime counts them after fusion, by the unit that they ran on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: NonNegativeInt = 0
    gpu: NonNegativeInt = 0
    npu: NonNegativeInt = 0

    @property
    def total(self) -> int:
        """All layers."""
        return self.cpu + self.gpu + self.npu

    @property
    def primary(self) -> ComputeUnit | None:
        """The unit of most layers; None if there are none."""
        counts: dict[ComputeUnit, int] = {"NPU": self.npu, "GPU": self.gpu, "CPU": self.cpu}
        unit = max(counts, key=lambda u: counts[u])
        return unit if counts[unit] else None


class Provenance(BaseModel):
    """Where a measurement stands: name of the file, SHA-256 of its bytes, its format, the row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    sha256: str
    format: str
    row: Row


class ImportedMeasurement(BaseModel):
    """One latency that somebody else measured; None is what neither the file nor the caller said.

    `latency_ms` is the `statistic` of `num_samples` runs: a median, a mean where a tool reports nothing
    better, or AI Hub's estimate. `ci95_ms` are the ends of its 95 % interval, where the runs or the file tell. Unlike
    of :class:`latency_predictors.measurement.Measurement` there are seldom samples or conditions.
    `peak_memory_bytes` is the tool's own notion of a peak.
    `job_id` is AI Hub's: rows of one job are one measurement, whatever devices they stand under.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: Name
    latency_ms: Milliseconds
    statistic: Statistic | None = None
    num_samples: PositiveInt | None = None
    ci95_ms: tuple[Milliseconds, Milliseconds] | None = None
    device: Name | None = None
    runtime: Name | None = None
    precision: ImportedPrecision | None = None
    threads: PositiveInt | None = None
    toolchain: Name | None = None
    compute_unit: ComputeUnit | None = None
    layer_counts: LayerCounts | None = None
    peak_memory_bytes: NonNegativeInt | None = None
    job_id: Name | None = None
    provenance: Provenance

    @model_validator(mode="after")
    def _holds_its_latency(self) -> Self:
        if self.ci95_ms is not None and not self.ci95_ms[0] <= self.latency_ms <= self.ci95_ms[1]:
            raise ValueError(
                f"ci95_ms: {self.latency_ms:g} ms is outside of {self.ci95_ms[0]:g} to {self.ci95_ms[1]:g}"
            )
        return self

    @property
    def ci95_half_width_pct(self) -> float | None:
        """Half the width of the 95 % interval, in per cent of the latency; None where no spread is known."""
        if self.ci95_ms is None:
            return None
        return 50.0 * (self.ci95_ms[1] - self.ci95_ms[0]) / self.latency_ms


@dataclass(frozen=True)
class OperatorLatency:
    """One operator of an imported graph; names are the runtime's own, after fusion.

    `unit` is the execution provider or compute unit. `latency_ms` is the median of `num_samples`
    executions in an onnxruntime profile, the mean in a TFLite table, one figure in an AI Hub job. It may be
    zero: the tools count whole microseconds.
    """

    name: str
    op_type: str
    unit: str | None
    latency_ms: float
    num_samples: int | None
    row: Row


@dataclass(frozen=True)
class RowFlag:
    """What is wrong with a row. A `refused` row gave no measurement; a remark leaves it in.

    `is_blank`: its latency is not filled in yet.
    """

    row: Row
    reason: str
    refused: bool = True
    is_blank: bool = False

    def __str__(self) -> str:
        return f"{at(self.row)}: {self.reason}" + ("" if self.refused else " (kept)")


@dataclass(frozen=True)
class ImportResult:
    """One imported file: at least one measurement, in the file's order."""

    measurements: tuple[ImportedMeasurement, ...]
    flags: tuple[RowFlag, ...]
    operators: tuple[OperatorLatency, ...]
    source: str
    format: str
    sha256: str

    @property
    def num_refused(self) -> int:
        """Flags of refused rows."""
        return sum(flag.refused for flag in self.flags)

    def summary(self) -> str:
        """One line: what was read, and how much was not."""
        return (
            f"{self.source} ({self.format}): {len(self.measurements)} measurements, {self.num_refused} rows refused, "
            f"{len(self.flags) - self.num_refused} remarks"
        )


def at(row: Row) -> str:
    """A row as messages name it: "row 12" or "$[3].dur"."""
    return f"row {row}" if isinstance(row, int) else row
