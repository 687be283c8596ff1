"""From picks to variants: alignment with the teacher, images, export, and the closing measurement."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.progress import Progress
from nas.run.context import RunContext
from nas.run.phases import step_counter
from search_spaces.candidate import Candidate

if TYPE_CHECKING:
    from nas.export.variant import VariantCard
    from nas.fidelity.paired import Fidelity
    from search_spaces.unet import StagedUNet

MEASURES = ("latent_error", "noise_error", "tafid")
NUM_IMAGES = 6


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
    from nas.distill.align import align_many
    from search_spaces.surgery import assemble

    settings = run.align_settings
    students = {
        name: assemble(run.teacher.unet, Candidate.from_id(text, run.space.stages), run.blocks)
        for name, text in candidates.items()
    }
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
            before, after = run.evaluator.evaluate(students[name]), run.evaluator.evaluate(result.student)
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
        latency=Latency(device=run.profile.device, predicted_ms=float(run.profile.predict(run.space, row)[0])),
        fidelity_before=finished.before,
        fidelity_after=finished.after,
    )


def finalize(run: RunContext, picks: Mapping[str, Any], progress: Progress) -> None:
    """Align, picture, export and measure all picks; writes variants/, images/ and closing.json."""
    from nas.atomic import write_json
    from nas.export.closing import ClosingSettings, measure_closing
    from nas.export.diffusers import annotate_variant, export_diffusers
    from nas.export.images import sample_images
    from nas.export.variant import Latency
    from search_spaces.surgery import assemble, teacher_candidate

    directory, teacher = run.directory, run.teacher
    finished = finish(run, variant_names(picks), directory.work, progress)
    with progress.phase("export", len(finished) + 1) as phase:
        staged = assemble(teacher.unet, teacher_candidate(teacher.unet), copy=False)
        nets = {"teacher": staged, **{name: item.student for name, item in finished.items()}}
        paths = sample_images(teacher, nets, prompts(run), directory.path / "images")
        phase.advance()
        formats = run.recipe.export.formats
        onnx_errors: dict[str, float] = {}
        for name, item in finished.items():
            images = {path.stem: path for path in paths[name]}
            variant = export_diffusers(
                teacher, item.student, directory.variants / name, card(run, name, item),
                onnx="onnx" in formats, images=images,
            )  # fmt: skip
            for check in variant.onnx:
                onnx_errors[name] = check.max_relative_error
            counts: dict[str, Any] = {}
            if onnx_errors:
                counts["ONNX against torch, max relative error"] = max(onnx_errors.values())
            phase.advance(**counts)
    with progress.phase("measure") as phase:
        settings = ClosingSettings(num_tokens=teacher.num_tokens, threads=run.recipe.calibration.threads)
        rows = measure_closing(
            staged,
            {name: item.student for name, item in finished.items()},
            directory.work / "closing",
            settings,
            variants={name: directory.variants / name for name in finished},
            on_progress=step_counter(phase),
        )
    table = []
    for row in rows:
        entry: dict[str, Any] = {
            "pick": row.name,
            "candidate": row.candidate,
            "num_params": row.num_params,
            "num_macs": run.costs.teacher.num_macs,
            "predicted_ms": None,
            "measured": row.measurement.model_dump(mode="json"),
            "speed_up": row.speed_up,
            "tafid_floor": run.evaluator.tafid_floor,
        }
        if row.name != "teacher":
            item = finished[row.name]
            known = card(run, row.name, item)
            entry |= {
                "num_macs": known.num_macs,
                "predicted_ms": known.latency.predicted_ms,
                "before": item.before,
                "after": item.after,
                "aligned": item.aligned,
                "onnx_max_relative_error": onnx_errors.get(row.name),
            }
            annotate_variant(
                directory.variants / row.name,
                latency=Latency(
                    device=known.latency.device,
                    predicted_ms=known.latency.predicted_ms,
                    measured_ms=row.measurement.median_ms,
                    teacher_measured_ms=rows[0].measurement.median_ms,
                ),
            )
        table.append(entry)
    write_json(directory.closing, {"rows": table})
