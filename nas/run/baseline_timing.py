"""How fast hand-made layouts are that the run's profile does not predict, before anything is trained.

Latency does not depend on weights, so one interleaved run of the untrained layouts and the picks is enough. The picks'
median ratio of predicted to measured time takes it to the profile's scale. It is kept, so that a killed
`nanosd baselines` chooses the same rivals when it goes on.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from latency_predictors.runners.base import MeasureSettings
from nas.export.variant import content_key
from nas.progress import Progress
from nas.run.baseline_layouts import Layout
from nas.run.context import RunContext
from nas.run.finish import staged_teacher, variant_names
from nas.run.phases import step_counter

if TYPE_CHECKING:
    from nas.picks import Pick

FILE = "layout_latency.json"


class LayoutLatency(BaseModel):
    """Estimated milliseconds of layouts by name, on the scale of the run's profile."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    key: str
    latency_ms: dict[str, float]


def measure_settings(run: RunContext) -> MeasureSettings:
    """How networks are timed in turn: as the run's calibration, with a tenth of its time."""
    calibration = run.recipe.calibration
    return MeasureSettings(
        warm_up=calibration.warm_up,
        min_repeats=calibration.min_repeats,
        max_seconds=min(3.0, calibration.max_seconds / 10),
    )


def with_estimates(
    run: RunContext, layouts: Sequence[Layout], picks: Mapping[str, Pick], folder: Path, progress: Progress
) -> list[Layout]:
    """The layouts, those without a predicted latency with an estimated one.

    Layouts stay as they are where the run is for another device than this machine.

    Args:
        run: the run whose profile they are set against.
        layouts: from :func:`nas.run.baseline_layouts.make_layouts`.
        picks: the run's picks, which set the scale.
        folder: working folder; gets ``layout_latency.json`` and the graphs.
        progress: gets a phase where something is measured.
    """
    unknown = [layout for layout in layouts if layout.predicted_ms is None]
    if not unknown:
        return list(layouts)
    names = variant_names(picks)
    key = content_key(run.recipe_hash, run.teacher.key, sorted(names.items()), [x.candidate.id for x in unknown])
    record = _read(folder / FILE)
    if record is None or record.key != key:
        record = _measure(run, unknown, names, key, folder, progress)
    return [replace(layout, estimated_ms=record.latency_ms.get(layout.name)) for layout in layouts]


def _measure(
    run: RunContext, layouts: Sequence[Layout], picks: Mapping[str, str], key: str, folder: Path, progress: Progress
) -> LayoutLatency:
    from nas.atomic import write_json
    from nas.export.closing import ClosingSettings, measure_closing
    from nas.latency import is_of
    from search_spaces.candidate import Candidate
    from search_spaces.surgery import assemble

    settings = ClosingSettings(
        num_tokens=run.teacher.num_tokens, threads=run.recipe.calibration.threads, measure=measure_settings(run)
    )
    searched = {name: Candidate.from_id(text, run.space.stages) for name, text in picks.items()}
    candidates = {layout.name: layout.candidate for layout in layouts} | searched
    nets = {name: assemble(run.teacher.unet, candidate) for name, candidate in candidates.items()}
    with progress.phase("layout latency") as phase:
        rows = measure_closing(
            staged_teacher(run), nets, folder / "untrained", settings, on_progress=step_counter(phase)
        )
    times = {row.name: row.measurement.median_ms for row in rows}
    here = is_of(run.device, rows[0].measurement)
    ratio = statistics.median(
        float(run.latency.latency_ms(run.space.encode(candidate)[None])[0]) / times[name]
        for name, candidate in searched.items()
    )
    estimates = {layout.name: times[layout.name] * ratio for layout in layouts} if here else {}
    record = LayoutLatency(key=key, latency_ms=estimates)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FILE, record.model_dump(mode="json"))
    return record


def _read(path: Path) -> LayoutLatency | None:
    """What was measured before; None where there is nothing, or it was damaged."""
    try:
        return LayoutLatency.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
