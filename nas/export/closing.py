"""The closing measurement: teacher and picks, timed in turn in one run, so that their ratios hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from latency_predictors.measurement import Measurement
from latency_predictors.runners.base import MeasureSettings
from nas.export.variant import read_variant, weights_key
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from search_spaces.unet import StagedUNet

TEACHER = "teacher"


class ClosingSettings(BaseModel):
    """How the closing measurement is taken; `num_tokens` is the length of the text embeddings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_tokens: int = Field(gt=0)
    threads: int = Field(default=1, ge=1)
    measure: MeasureSettings = MeasureSettings(max_seconds=3.0)


class ClosingRow(BaseModel):
    """One line of the closing table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    candidate: str
    num_params: int
    measurement: Measurement
    speed_up: float
    """Teacher's median latency divided by this one's, from the same rounds."""


def measure_closing(
    teacher: StagedUNet,
    picks: Mapping[str, StagedUNet],
    work_dir: Path | str,
    settings: ClosingSettings,
    *,
    variants: Mapping[str, Path] | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> list[ClosingRow]:
    """Measure the U-Nets' latency (batch 1) with onnxruntime in one interleaved run.

    Args:
        teacher: the teacher as a staged U-Net.
        picks: finished U-Nets by name.
        work_dir: the ONNX graphs are written to `work_dir`/<name>/unet.onnx, and each is checked against torch.
        settings: tokens, threads, warm-up, repeats and time.
        variants: folders of exported variants by name; a unet.onnx there with the same weights is not made again.
        on_progress: called by the runner with done, total and a note.

    Returns:
        The teacher's row first, then the picks in the order given.

    Raises:
        UserError: a pick called "teacher", or a folder that cannot be written.
    """
    from latency_predictors.runners.onnxruntime_cpu import OnnxRuntimeRunner
    from nas.export.onnx import export_onnx_unet

    if TEACHER in picks:
        raise UserError(f"pick name {TEACHER!r} is taken by the teacher itself; give the pick another name")
    nets = {TEACHER: teacher, **picks}
    graphs = {}
    for name, net in nets.items():
        weights = weights_key(net.state_dict())
        graph = _exported(Path(variants[name]), weights) if variants and name in variants else None
        if graph is None:
            folder = Path(work_dir) / name
            graph = folder / export_onnx_unet(net, folder, num_tokens=settings.num_tokens, weights=weights).file
        graphs[name] = graph
    runner = OnnxRuntimeRunner(threads=settings.threads)
    measured = runner.measure(graphs, settings.measure, on_progress=on_progress)
    return [
        ClosingRow(
            name=name,
            candidate=net.candidate.id,
            num_params=sum(parameter.numel() for parameter in net.parameters()),
            measurement=measured[name],
            speed_up=measured[TEACHER].median_ms / measured[name].median_ms,
        )
        for name, net in nets.items()
    ]


def _exported(folder: Path, weights: str) -> Path | None:
    """The checked U-Net graph of an exported variant, when it has these weights."""
    try:
        variant = read_variant(folder)
    except UserError:
        return None
    for check in variant.onnx:
        if check.subject == "unet" and check.weights_key == weights and (folder / check.file).is_file():
            return folder / check.file
    return None
