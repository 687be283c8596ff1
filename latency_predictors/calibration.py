"""Calibration: measure every stage option and some whole U-Nets on this machine, fit a device profile.

The predictor is additive (see models/additive.py). Options and whole networks are measured in the same rounds
where memory allows, since a sum of medians is comparable with a network's median only then. Tried and
rejected on evidence: options as differences of whole networks (median error 5-10 % against 1-2 %: small
differences of large noisy numbers), the time of an empty graph subtracted from every part (worst
error 11 % against 3 %), ratios to a reference run before each run (twice the error: its own noise).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, PositiveInt

from latency_predictors.fitting import ProfileFacts, fit_profile
from latency_predictors.graphs import export_onnx, graph_bytes, remove_onnx
from latency_predictors.journal import Journal
from latency_predictors.kernel_tables import KernelTables
from latency_predictors.measurement import Measurement
from latency_predictors.profile import DeviceProfile
from latency_predictors.runners.base import MeasureSettings, Progress, Runner
from latency_predictors.runners.round_robin import Session
from latency_predictors.subjects import BASE, Subjects, option_subject
from latency_predictors.training import Training
from search_spaces.candidate import Candidate
from search_spaces.costs import CostTable
from search_spaces.errors import UserError
from search_spaces.options import NONE

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from search_spaces.space import SearchSpace


class CalibrationSettings(MeasureSettings):
    """MeasureSettings, and what to measure: `num_fit` whole U-Nets to fit, `num_check` unseen ones to check.

    Graphs are measured together until their files exceed `group_bytes`; onnxruntime holds about three
    times that.
    """

    threads: PositiveInt = 1
    num_fit: int = Field(default=8, ge=3)
    num_check: int = Field(default=12, ge=1)
    group_bytes: PositiveInt = 1536 << 20


def calibrate(
    unet: UNet2DConditionModel,
    space: SearchSpace,
    latent_size: int,
    num_tokens: int,
    context_dim: int,
    work_dir: Path,
    settings: CalibrationSettings,
    on_progress: Progress | None = None,
    *,
    teacher_key: str,
    runner: Runner | None = None,
) -> DeviceProfile:
    """Measures and fits a profile; goes on where an interrupted call with the same `work_dir` stopped.

    Parameters
    ----------
    unet: the teacher's U-Net; on the meta device its stages get random weights, one at a time, so that
        a size can be calibrated without its weights.
    latent_size, num_tokens, context_dim: graphs take (1, C, latent_size, latent_size) latents and
        (1, num_tokens, context_dim) text context.
    work_dir: gets measurements.jsonl and, until they are measured, the graphs.
    on_progress: (subjects measured, by the share of their time, subjects in all, note).

    Raises UserError when `work_dir` holds another calibration, or the space is too small to check.
    """
    if runner is None:
        from latency_predictors.runners.onnxruntime_cpu import OnnxRuntimeRunner

        runner = OnnxRuntimeRunner(settings.threads)
    subjects = Subjects(unet, space, latent_size, num_tokens, context_dim)
    fit_nets, check_nets = choose_networks(subjects, settings)
    names = [BASE, *(option_subject(s, o) for s in space.stages for o in space.options[s] if o != NONE)]
    names += [c.id for c in (*fit_nets, *check_nets)]
    journal = Journal(
        work_dir / "measurements.jsonl",
        {
            "teacher_key": teacher_key,
            "space": space.name,
            "latent_size": latent_size,
            "num_tokens": num_tokens,
            "context_dim": context_dim,
            "device": runner.device,
            "runtime": runner.runtime,
            "precision": runner.precision,
            "threads": runner.threads,
        },
    )
    _measure(names, subjects, runner, settings, journal, work_dir / "graphs", on_progress)
    measured = journal.measurements()
    kernels = KernelTables.of(CostTable.from_unet(unet, space, latent_size, num_tokens))
    return build_profile(
        space,
        kernels,
        measured,
        fit_nets,
        check_nets,
        teacher_key=teacher_key,
        latent_size=latent_size,
        num_tokens=num_tokens,
    )


def choose_networks(subjects: Subjects, settings: CalibrationSettings) -> tuple[list[Candidate], list[Candidate]]:
    """Whole U-Nets to fit (the largest and the smallest by parameters, the rest random) and to check (random)."""
    space, needed = subjects.space, settings.num_fit + settings.num_check
    if space.num_candidates < needed:
        raise UserError(
            f"num_fit + num_check: {needed} whole U-Nets, but search space {space.name!r} has {space.num_candidates} "
            "candidates; give fewer"
        )
    sizes = [[subjects.num_params(stage, option) for option in space.options[stage]] for stage in space.stages]
    rng = np.random.default_rng(settings.seed)
    chosen = [tuple(int(np.argmax(s)) for s in sizes), tuple(int(np.argmin(s)) for s in sizes)]
    chosen = list(dict.fromkeys(chosen))
    while len(chosen) < needed:
        row = tuple(int(i) for i in space.stage_rows(space.sample(rng, 1))[0])
        if row not in chosen:
            chosen.append(row)
    nets = [space.decode(row) for row in space.from_stage_rows(np.array(chosen))]
    return nets[: settings.num_fit], nets[settings.num_fit :]


def _measure(
    names: Sequence[str],
    subjects: Subjects,
    runner: Runner,
    settings: CalibrationSettings,
    journal: Journal,
    folder: Path,
    on_progress: Progress | None,
) -> None:
    """Exports and measures what the journal does not hold yet, in groups that fit into memory."""

    def report(note: str, under_way: int = 0) -> None:
        if on_progress is not None:
            on_progress(len(journal.finished) + under_way, len(names), note)

    pending = [name for name in names if name not in journal.finished]
    primer = folder / "primer.onnx"
    while pending:
        group: dict[str, Path] = {}
        while pending and sum(map(graph_bytes, group.values())) < settings.group_bytes:
            name = pending.pop(0)
            report(f"export {name}")
            group[name] = folder / (name.replace("/", "_") + ".onnx")
            _export(subjects, name, group[name])
        if not graph_bytes(primer):
            _export(subjects, subjects.primer.id, primer)
        session: Session | None = None
        for recordings in runner.passes(group, settings, primer):
            if session is None:
                session = Session(len(group), settings)
                for name in group:
                    for earlier in journal.recordings.get(name, []):
                        session.add({name: earlier})
            session.add(recordings)
            journal.add_pass(recordings.values())
            # All subjects of a group end together: what is shown as done is the group's share of its time.
            report(f"{len(group)} in turn, round {session.num_rounds}", int(session.share * len(group)))
            if session.is_over:
                break
        journal.finish(list(group))
        for path in group.values():
            remove_onnx(path)
        report("measured")
    remove_onnx(primer)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _export(subjects: Subjects, name: str, path: Path) -> None:
    if not graph_bytes(path):  # files appear complete or not at all, so one that is there is good
        module, inputs, input_names, output_names = subjects.build(name)
        export_onnx(module, inputs, path, input_names, output_names)


def build_profile(
    space: SearchSpace,
    kernels: KernelTables,
    measured: Mapping[str, Measurement],
    fit_nets: Sequence[Candidate],
    check_nets: Sequence[Candidate],
    *,
    teacher_key: str | None,
    latent_size: int,
    num_tokens: int,
) -> DeviceProfile:
    """The profile of finished measurements (subject -> record)."""
    nets = [candidate.id for candidate in (*fit_nets, *check_nets)]
    parts = [BASE, *(option_subject(s, o) for s in space.stages for o in space.options[s] if o != NONE)]
    return fit_profile(
        space,
        kernels,
        Training(parts={name: measured[name] for name in parts}, networks={name: measured[name] for name in nets}),
        ProfileFacts.of(measured[BASE], teacher_key, latent_size, num_tokens),
        held_out=[candidate.id for candidate in check_nets],
    )
