"""From picks to variants: alignment with the teacher, images, export, and the closing measurement."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.atomic import write_json
from nas.export import annotate_variant
from nas.export.variant import check_files, content_key, read_variant
from nas.fidelity.errors import FidelityError
from nas.latency import is_of
from nas.progress import Progress
from nas.run.context import RunContext
from nas.run.phases import step_counter
from search_spaces.candidate import Candidate

if TYPE_CHECKING:
    from nas.distill.settings import AlignSettings
    from nas.export.closing import ClosingRow
    from nas.export.variant import VariantCard
    from nas.fidelity.check_record import Checks
    from nas.fidelity.paired import Fidelity
    from search_spaces.unet import StagedUNet

MEASURES = ("latent_error", "noise_error", "tafid")
NUM_IMAGES = 6
TEACHER = "teacher"


class Finished:
    """One aligned pick: its network and its fidelity before and after the alignment.

    Where the alignment did not bring the student closer to the teacher, the network is the one before
    it and ``aligned`` is false.
    """

    def __init__(self, student: StagedUNet, before: Fidelity, after: Fidelity, aligned: bool) -> None:
        self.student = student
        self.before = scores(before)
        self.after = scores(after)
        self.aligned = aligned
        self.fidelity = after
        """What :attr:`after` and its intervals are from."""


def scores(fidelity: Fidelity) -> dict[str, float]:
    """The measures of a fidelity, by name."""
    return {name: float(getattr(fidelity, name)) for name in MEASURES}


def variant_names(picks: Mapping[str, Any]) -> dict[str, str]:
    """Variant name to candidate id; picks that chose the same candidate share one variant, ``fastest-smallest``."""
    rules: dict[str, list[str]] = {}
    for name, pick in picks.items():
        rules.setdefault(pick.candidate, []).append(name)
    return {"-".join(names): candidate for candidate, names in rules.items()}


def finish(run: RunContext, candidates: Mapping[str, str], work_dir: Path, progress: Progress) -> dict[str, Finished]:
    """Align candidates (variant name to candidate id) with the teacher, sharing each teacher pass.

    The state lives in `work_dir`; a finished alignment is read back, not repeated.
    """
    from search_spaces.surgery import assemble

    students = {
        name: assemble(run.teacher.unet, Candidate.from_id(text, run.space.stages), run.blocks)
        for name, text in candidates.items()
    }
    return finish_students(run, students, run.align_settings, work_dir, progress)


def finish_students(
    run: RunContext, students: Mapping[str, StagedUNet], settings: AlignSettings, work_dir: Path, progress: Progress
) -> dict[str, Finished]:
    """:func:`finish` of networks that are assembled already, by settings of their own."""
    from nas.distill.align import align_many

    with progress.phase("finalize", settings.steps) as phase:
        results = align_many(
            run.teacher,
            students,
            run.batches(settings.batch_size),
            settings,
            work_dir,
            run.dataset.key,
            on_progress=step_counter(phase),
        )
        phase.skip(settings.steps - phase.done)
        finished = {}
        for name, result in results.items():
            before = run.evaluator.evaluate(students[name])
            try:
                after = run.evaluator.evaluate(result.student)
            except FidelityError:  # the alignment diverged: the student from before it is kept
                after = before
            better = after.latent_error < before.latent_error
            finished[name] = Finished(
                result.student if better else students[name], before, after if better else before, better
            )
    return finished


def prompts(run: RunContext, num: int = NUM_IMAGES) -> list[str]:
    """Captions to show, spread over the subjects (first words) of the training captions."""
    by_subject: dict[str, str] = {}
    for caption in run.dataset.captions:
        by_subject.setdefault(caption.split(" ")[0], caption)
    subjects = sorted(by_subject)
    step = max(len(subjects) / num, 1.0)
    chosen = [by_subject[subjects[int(i * step)]] for i in range(min(num, len(subjects)))]
    more = [caption for caption in dict.fromkeys(run.dataset.captions) if caption not in chosen]
    return (chosen + more)[:num]


def card(run: RunContext, name: str, finished: Finished) -> VariantCard:
    """What variant.json and the model card say of a finished pick."""
    from nas.export.variant import Costs, Latency, VariantCard

    row = run.space.encode(finished.student.candidate)[None]
    return VariantCard(
        name=name,
        space=run.space.name,
        seeds={"run": run.recipe.seed},
        recipe_hash=run.recipe_hash,
        num_macs=int(run.costs.macs(row)[0]),
        teacher_costs=Costs(num_params=run.costs.teacher.num_params, num_macs=run.costs.teacher.num_macs),
        latency=Latency(device=run.device.title, predicted_ms=float(run.latency.latency_ms(row)[0])),
        fidelity_before=finished.before,
        fidelity_after=finished.after,
    )


def finalize(run: RunContext, picks: Mapping[str, Any], progress: Progress) -> None:
    """Align, picture, export and measure all picks; writes variants/, images/ and closing.json.

    Nothing is done when closing.json is of these picks, blocks and recipe and all variants are whole.
    """
    names = variant_names(picks)
    key = _closing_key(run, names)
    if _is_finished(run, names, key):
        with progress.phase("finalize", len(names)) as phase:
            phase.skip(len(names), **{"": "variants finished before"})
        return
    finished = finish(run, names, run.directory.work, progress)
    checks = _check(run, finished, progress)
    onnx_errors = _export(run, finished, progress)
    rows = _measure(run, finished, progress)
    table = [
        _closing_row(run, row, finished.get(row.name), onnx_errors.get(row.name), checks.get(row.name)) for row in rows
    ]
    teacher_ms = rows[0].measurement.median_ms
    for row in rows[1:]:
        known = card(run, row.name, finished[row.name]).latency
        annotate_variant(
            run.directory.variants / row.name,
            latency=known.model_copy(
                update={
                    "measured_ms": row.measurement.median_ms,
                    "teacher_measured_ms": teacher_ms,
                    "measured_device": row.measurement.device,
                }
            ),
        )
    write_json(run.directory.closing, {"key": key, "rows": table})


def _closing_key(run: RunContext, names: Mapping[str, str]) -> str:
    """Names everything that the variants of a run follow from."""
    from nas.distill.results import read_results

    blocks = sorted(result.key for result in read_results(run.directory.blocks).values())
    return content_key(run.recipe_hash, run.teacher.key, dict(names), blocks, list(run.recipe.export.formats))


def _is_finished(run: RunContext, names: Mapping[str, str], key: str) -> bool:
    try:
        if json.loads(run.directory.closing.read_text(encoding="utf-8"))["key"] != key:
            return False
        for name in names:
            folder = run.directory.variants / name
            check_files(folder, read_variant(folder), hashes=False)
    except (OSError, ValueError, KeyError, TypeError):  # absent, damaged, or of another form: made again
        return False
    return (run.directory.path / "images").is_dir()


def staged_teacher(run: RunContext) -> StagedUNet:
    """The teacher itself, in stages that share its weights."""
    from search_spaces.surgery import assemble, teacher_candidate

    return assemble(run.teacher.unet, teacher_candidate(run.teacher.unet), copy=False)


def _check(run: RunContext, finished: Mapping[str, Finished], progress: Progress) -> dict[str, Checks]:
    """The dearer comparisons of each pick with the teacher."""
    from nas.fidelity.checks import Checker

    found = {}
    with progress.phase("check", len(finished)) as phase:
        checker = Checker(run.evaluator)
        for name, item in finished.items():
            found[name] = checker.check(item.student, item.fidelity)
            phase.advance()
    return found


def _export(run: RunContext, finished: Mapping[str, Finished], progress: Progress) -> dict[str, float]:
    """Sample images, write every variant; the ONNX graphs' relative errors by variant."""
    from nas.export.diffusers import export_diffusers
    from nas.export.images import ImageSettings, sample_images

    errors: dict[str, float] = {}
    with progress.phase("export", len(finished) + 1) as phase:
        nets = {TEACHER: staged_teacher(run), **{name: item.student for name, item in finished.items()}}
        look = ImageSettings(guidance=run.recipe.fidelity.guidance, seed=run.recipe.seed)
        paths = sample_images(run.teacher, nets, prompts(run), run.directory.path / "images", look)
        phase.advance()
        for name, item in finished.items():
            variant = export_diffusers(
                run.teacher,
                item.student,
                run.directory.variants / name,
                card(run, name, item),
                onnx="onnx" in run.recipe.export.formats,
                images={path.stem: path for path in paths[name]},
            )
            for check in variant.onnx:
                errors[name] = check.max_relative_error
            counts: dict[str, Any] = {}
            if errors:
                counts["ONNX against torch, max relative error"] = max(errors.values())
            phase.advance(**counts)
    return errors


def _measure(run: RunContext, finished: Mapping[str, Finished], progress: Progress) -> list[ClosingRow]:
    """Latency of teacher and variants from one interleaved run."""
    from latency_predictors.runners.base import MeasureSettings
    from nas.export.closing import ClosingSettings, measure_closing

    calibration = run.recipe.calibration
    settings = MeasureSettings(
        warm_up=calibration.warm_up,
        min_repeats=calibration.min_repeats,
        max_seconds=min(3.0, calibration.max_seconds / 10),
    )
    with progress.phase("measure") as phase:
        return measure_closing(
            staged_teacher(run),
            {name: item.student for name, item in finished.items()},
            run.directory.work / "closing",
            ClosingSettings(num_tokens=run.teacher.num_tokens, threads=calibration.threads, measure=settings),
            variants={name: run.directory.variants / name for name in finished},
            on_progress=step_counter(phase),
        )


def _closing_row(
    run: RunContext, row: ClosingRow, item: Finished | None, onnx_error: float | None, checks: Checks | None
) -> dict[str, Any]:
    """One row of closing.json; ``item`` is None for the teacher."""
    common = {
        "pick": row.name,
        "candidate": row.candidate,
        "num_params": row.num_params,
        "measured": row.measurement.model_dump(mode="json"),
        "speed_up": row.speed_up,
        "tafid_floor": run.evaluator.tafid_floor,
        **_predicted(run, row, item),
    }
    if item is None:
        return {**common, "num_macs": run.costs.teacher.num_macs}
    return {
        **common,
        "num_macs": card(run, row.name, item).num_macs,
        "before": item.before,
        "after": item.after,
        "aligned": item.aligned,
        "onnx_max_relative_error": onnx_error,
        "checks": None if checks is None else checks.model_dump(mode="json"),
    }


def _predicted(run: RunContext, row: ClosingRow, item: Finished | None) -> dict[str, Any]:
    """Predicted latency of a row: ``predicted_ms`` where it is of the device that was measured, else ``target_...``.

    The two are never in one field: a phone's prediction beside this machine's measurement would read as an error.
    """
    if is_of(run.device, row.measurement):
        return {"predicted_ms": None if item is None else card(run, row.name, item).latency.predicted_ms}
    found = run.teacher_latency
    if item is not None:
        found = run.latency.predict(run.space.encode(item.student.candidate)[None])
    figures = (None, None, None) if found is None else (found.latency_ms, found.low_ms, found.high_ms)
    names = ("target_ms", "target_low_ms", "target_high_ms")
    values = {name: None if ms is None else float(ms[0]) for name, ms in zip(names, figures, strict=True)}
    return {"predicted_ms": None, "target_device": run.device.title, **values}
