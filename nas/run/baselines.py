"""Hand-made baselines of a finished run, made and measured as its searched candidates are.

`nanosd baselines` builds the layouts from the run's teacher, trains them on the footing of the searched candidates
(docs/baselines.md), chooses searched candidates to set against them, finishes those too, measures all of them in one
interleaved run, and writes `baselines.json` and images. Every training goes on where it was killed; a record that is of
the same run, picks and settings is read back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nas.baselines import (
    BASELINES_FILE,
    Baselines,
    Difference,
    Entry,
    judged,
    read_baselines,
)
from nas.export.variant import content_key
from nas.fidelity.errors import FidelityError
from nas.progress import Progress
from nas.run.baseline_layouts import Chosen, Layout, choose_searched, make_layouts, single_space
from nas.run.baseline_timing import measure_settings, with_estimates
from nas.run.context import RunContext
from nas.run.finish import TEACHER, Finished, finish, finish_students, prompts, staged_teacher, variant_names
from nas.run.phases import step_counter
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from nas.distill.settings import AlignSettings
    from nas.export.closing import ClosingRow
    from nas.picks import Pick
    from search_spaces.unet import StagedUNet

AT_ONCE = 4
"""Networks that are distilled together: each costs 16 bytes a parameter."""
IMAGES = "baselines"


def make_baselines(
    run_dir: Path | str, num_front: int, progress: Progress, uniform_params: int | None = None
) -> Baselines:
    """Make, train and measure the baselines of a finished run; see the module's text.

    Args:
        run_dir: a run that `nanosd search` finished.
        num_front: how many candidates of the front are finished besides picks and rivals.
        progress: gets the phases.
        uniform_params: the size that the uniform-width layout comes near to; None: that of the pick `prime`.

    Raises:
        UserError: a run that is not finished, a teacher whose layouts cannot be made, or a folder that cannot be
            written.
    """
    run = RunContext.open(run_dir)
    if not run.directory.closing.is_file():
        raise UserError(
            f"run {run.directory.path} is not finished, and baselines stand beside its finished picks; "
            f"nanosd resume {run.directory.path}"
        )
    run.directory.check_writable()
    with run.directory.lock():
        return _make(run, num_front, uniform_params, progress)


def _make(run: RunContext, num_front: int, uniform_params: int | None, progress: Progress) -> Baselines:
    from nas.picks import load_picks

    picks = load_picks(run.directory.picks)
    size = "the size of the prime pick" if uniform_params is None else f"{uniform_params:,} parameters"
    with progress.phase("layouts", 1) as phase:
        layouts = make_layouts(run, uniform_params or picks["prime"].num_params, size)
        phase.advance(1, baselines=len(layouts))
    layouts = with_estimates(run, layouts, picks, _work(run), progress)
    chosen = choose_searched(run, picks, layouts, num_front)
    key = _key(run, layouts, chosen)
    known = read_baselines(run.directory.path / BASELINES_FILE)
    if known is not None and known.key == key and (run.directory.path / IMAGES).is_dir():
        return known
    finished = _finish_searched(run, picks, chosen, progress) | _finish_layouts(run, layouts, progress)
    rows = _measure(run, finished, progress)
    with progress.phase("images", len(finished) + 1) as phase:
        _images(run, finished, step_counter_of(phase))
    record = _record(run, key, layouts, chosen, finished, rows)
    from nas.atomic import write_json

    write_json(run.directory.path / BASELINES_FILE, record.model_dump(mode="json"))
    return record


def _key(run: RunContext, layouts: Sequence[Layout], chosen: Sequence[Chosen]) -> str:
    from nas.distill.results import read_results

    return content_key(
        run.recipe_hash,
        run.teacher.key,
        [(layout.name, layout.candidate.id) for layout in layouts],
        [(each.name, each.candidate) for each in chosen],
        sorted(result.key for result in read_results(run.directory.blocks).values()),
        [run.distill_settings.recipe(), run.align_settings.recipe(), whole_settings(run).recipe()],
    )


def whole_settings(run: RunContext) -> AlignSettings:
    """Output-level distillation from inherited weights, for as many steps as blocks and alignment have together.

    At half the learning rate of the blocks, the best of four for the quickstart's network (docs/baselines.md).
    """
    blocks, align = run.distill_settings, run.align_settings
    return align.model_copy(
        update={
            "steps": blocks.steps + align.steps,
            "learning_rate": blocks.learning_rate / 2,
            "warm_up_steps": max(blocks.warm_up_steps, align.warm_up_steps),
        }
    )


def _finish_searched(
    run: RunContext, picks: Mapping[str, Pick], chosen: Sequence[Chosen], progress: Progress
) -> dict[str, Finished]:
    """Picks come from the run's own finished alignment, the others are aligned as those were."""
    names = variant_names(picks)
    found = finish(run, names, run.directory.work, progress)
    others = {each.name: each.candidate for each in chosen if each.name not in names}
    for number, part in enumerate(_parts(list(others))):
        folder = _work(run) / f"searched-{number}"
        found |= finish(run, {name: others[name] for name in part}, folder, progress)
    return {each.name: found[each.name] for each in chosen}


def _finish_layouts(run: RunContext, layouts: Sequence[Layout], progress: Progress) -> dict[str, Finished]:
    from search_spaces.surgery import assemble

    unet = run.teacher.unet
    students = {
        layout.name: assemble(unet, layout.candidate, _trained_blocks(run, layout, progress))
        for layout in layouts
        if layout.by_blocks
    }
    found: dict[str, Finished] = {}
    try:
        for number, part in enumerate(_parts(list(students))):
            group = {name: students[name] for name in part}
            found |= finish_students(run, group, run.align_settings, _work(run) / f"layouts-{number}", progress)
        for layout in layouts:
            if not layout.by_blocks:
                whole = {layout.name: assemble(unet, layout.candidate)}
                found |= finish_students(run, whole, whole_settings(run), _work(run) / layout.name, progress)
    except FidelityError as error:
        raise UserError(
            f"a baseline cannot be measured: {error}; distil with a smaller distill.learning_rate"
        ) from None
    return {layout.name: found[layout.name] for layout in layouts}


def _trained_blocks(run: RunContext, layout: Layout, progress: Progress) -> dict[tuple[str, str], Any]:
    """Its blocks, trained as the run's own were; those that the run's bank holds already are taken from it."""
    from nas.distill.blocks import distill_blocks, load_blocks, missing_blocks, surrogate_blocks

    settings, space = run.distill_settings, single_space(layout.candidate)
    blocks = surrogate_blocks(run.teacher.unet, space)
    with progress.phase("distill", settings.steps) as phase:
        results, missing = missing_blocks(run.teacher, blocks, space, settings, run.bank, run.dataset.key)
        if missing:
            results |= distill_blocks(
                run.teacher,
                space,
                run.batches(settings.batch_size),
                settings,
                run.bank,
                _work(run) / layout.name,
                run.dataset.key,
                on_progress=step_counter(phase),
                blocks=missing,
            )
        phase.skip(max(0, settings.steps - phase.done), **{"": f"{layout.name}: {len(blocks)} blocks"})
    return load_blocks(run.teacher.unet, results, run.bank)


def _measure(run: RunContext, finished: Mapping[str, Finished], progress: Progress) -> list[ClosingRow]:
    """All of them and the teacher, timed in turn."""
    from nas.export.closing import ClosingSettings, measure_closing

    threads = run.recipe.calibration.threads
    with progress.phase("measure") as phase:
        return measure_closing(
            staged_teacher(run),
            {name: item.student for name, item in finished.items()},
            _work(run) / "closing",
            ClosingSettings(num_tokens=run.teacher.num_tokens, threads=threads, measure=measure_settings(run)),
            variants={name: run.directory.variants / name for name in finished},
            on_progress=step_counter(phase),
        )


def step_counter_of(phase: Any) -> Any:
    """Progress callback ``(done, total)``."""
    count = step_counter(phase)
    return lambda done, total: count(done, total, "")


def _images(run: RunContext, finished: Mapping[str, Finished], on_progress: Any) -> None:
    from nas.export.images import ImageSettings, sample_images

    nets: dict[str, StagedUNet] = {TEACHER: staged_teacher(run)}
    nets |= {name: item.student for name, item in finished.items()}
    look = ImageSettings(guidance=run.recipe.fidelity.guidance, seed=run.recipe.seed)
    sample_images(run.teacher, nets, prompts(run), run.directory.path / IMAGES, look, on_progress)


def _record(
    run: RunContext,
    key: str,
    layouts: Sequence[Layout],
    chosen: Sequence[Chosen],
    finished: Mapping[str, Finished],
    rows: Sequence[ClosingRow],
) -> Baselines:
    from nas.latency import is_of

    timed = {row.name: row for row in rows}
    entries = [_searched_entry(run, each, finished[each.name], timed[each.name]) for each in chosen]
    for layout in layouts:
        rival = next((each.name for each in chosen if layout.name in each.rival_of), None)
        entries.append(_baseline_entry(run, layout, finished, timed[layout.name], rival))
    teacher = timed[TEACHER].measurement
    here = is_of(run.device, teacher) or any(entry.predicted_ms is None for entry in entries)
    basis: Literal["measured", "predicted"] = "measured" if here else "predicted"
    known = run.teacher_latency
    teacher_ms = teacher.median_ms
    if basis == "predicted":
        teacher_ms = float(known.latency_ms[0]) if known is not None else math.nan
    device = teacher.device if basis == "measured" else run.device.title
    return judged(key, basis, device, teacher_ms, entries)


def _searched_entry(run: RunContext, each: Chosen, item: Finished, row: ClosingRow) -> Entry:
    steps = run.distill_settings.steps, run.align_settings.steps
    vector = run.space.encode(item.student.candidate)[None]
    return Entry(
        name=each.name,
        kind="searched",
        candidate=each.candidate,
        rule=each.rule,
        training=_by_blocks(*steps),
        num_block_steps=steps[0],
        num_output_steps=steps[1],
        num_macs=int(run.costs.macs(vector)[0]),
        predicted_ms=float(run.latency.latency_ms(vector)[0]),
        **_measured(item, row),
    )


def _baseline_entry(
    run: RunContext, layout: Layout, finished: Mapping[str, Finished], row: ClosingRow, rival: str | None
) -> Entry:
    from nas.fidelity.uncertainty import paired_difference

    item = finished[layout.name]
    block_steps, output_steps = run.distill_settings.steps, run.align_settings.steps
    training = _by_blocks(block_steps, output_steps)
    if not layout.by_blocks:
        block_steps, output_steps = 0, whole_settings(run).steps
        training = f"the whole from inherited weights for {output_steps:,} steps"
    difference = None
    if rival is not None:
        other = finished[rival].fidelity.latent_errors
        if len(other) >= 2:
            mean, (low, high) = paired_difference(item.fidelity.latent_errors, other)
            difference = Difference(searched=rival, mean=mean, low=low, high=high)
    return Entry(
        name=layout.name,
        kind="baseline",
        candidate=layout.candidate.id,
        rule=layout.rule,
        training=training,
        num_block_steps=block_steps,
        num_output_steps=output_steps,
        num_macs=layout.num_macs,
        predicted_ms=layout.predicted_ms,
        rival=difference,
        **_measured(item, row),
    )


def _by_blocks(block_steps: int, output_steps: int) -> str:
    return f"each block for {block_steps:,} steps, then the whole for {output_steps:,}"


def _measured(item: Finished, row: ClosingRow) -> dict[str, Any]:
    return {
        "num_params": row.num_params,
        "measured_ms": row.measurement.median_ms,
        "measured_iqr_ms": row.measurement.iqr_ms,
        "before": item.before,
        "after": item.after,
        "intervals": item.fidelity.intervals,
        "aligned": item.aligned,
    }


def _parts(names: list[str]) -> list[list[str]]:
    return [names[start : start + AT_ONCE] for start in range(0, len(names), AT_ONCE)]


def _work(run: RunContext) -> Path:
    return run.directory.work / "baselines"
