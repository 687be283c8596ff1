"""What became of one subject at Qualcomm's compiler: a record that is read back on resume."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt, ValidationError

from latency_predictors.qnn.compiler import Optimization, Toolchain
from latency_predictors.qnn.quantization import QuantizationSettings
from search_spaces.atomic import write_json
from search_spaces.errors import UserError

Step = Literal["export", "quantise", "compile", "emulate"]
Status = Literal["compiled", "refused", "failed", "crashed", "timed_out"]


class CompileReport(BaseModel):
    """One subject, one SoC.

    Attributes:
        status: "compiled": every node is on the NPU and the context binary was written. "refused": the NPU or
            a step before it cannot take the subject, for the stated reason. "failed", "crashed", "timed_out": a
            step broke (see latency_predictors.isolated); another try may end otherwise.
        step: the step that did not end well; None if all did.
        num_nodes: ONNX nodes of the quantised graph on the NPU.
        context_bytes: size of the context binary.
        seconds: wall time per step, process start included.
        peak_bytes: largest resident memory of a step.
        error_l2: relative L2 distance of each output, emulated against float32, on inputs that were not
            calibrated on; None where nothing was emulated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: str
    soc: str
    quantization: QuantizationSettings
    optimization: Optimization = 0
    toolchain: Toolchain
    status: Status
    step: Step | None = None
    reason: str | None = None
    num_nodes: PositiveInt | None = None
    context_bytes: PositiveInt | None = None
    seconds: dict[Step, NonNegativeFloat] = Field(default_factory=dict)
    peak_bytes: int = Field(default=0, ge=0)
    error_l2: dict[str, float] | None = None

    @property
    def worst_error_l2(self) -> float | None:
        """The largest of the outputs' errors."""
        return max(self.error_l2.values()) if self.error_l2 else None

    @property
    def is_final(self) -> bool:
        """Whether another try would end the same."""
        return self.status in ("compiled", "refused")


def write_report(report: CompileReport, path: Path) -> Path:
    """Writes a report as JSON; the file is complete or not there.

    Raises:
        UserError: the place is full, read-only or no folder.
    """
    return write_json(path, report.model_dump(mode="json"))


def read_report(path: Path) -> CompileReport | None:
    """The report in `path`; None where there is none.

    Raises:
        UserError: the file is not a report of this version.
    """
    try:
        return CompileReport.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValidationError, OSError):
        raise UserError(f"{path} is not a compile report that can be read; delete it and compile again") from None
