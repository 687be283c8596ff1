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
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, PositiveInt

from latency_predictors.fitting import ProfileFacts, fit_profile
from latency_predictors.journal import Journal
from latency_predictors.kernel_tables import KernelTables
from latency_predictors.manifest import Manifest
from latency_predictors.measurement import Measurement
from latency_predictors.measuring import GroupSettings, measure_all
from latency_predictors.profile import DeviceProfile
from latency_predictors.runners import RunnerSpec
from latency_predictors.runners.base import Progress, Runner
from latency_predictors.subjects import BASE, Subjects, option_subject
from latency_predictors.teacher_graphs import TeacherGraphs
from latency_predictors.training import Training
from search_spaces.candidate import Candidate
from search_spaces.costs import CostTable
from search_spaces.errors import UserError
from search_spaces.options import NONE

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from search_spaces.space import SearchSpace


class CalibrationSettings(GroupSettings):
    """GroupSettings, and what to measure: `num_fit` whole U-Nets to fit, `num_check` unseen ones to check."""

    threads: PositiveInt = 1
    precision: Literal["float32", "w8a8", "w8a16"] = "float32"
    num_fit: int = Field(default=8, ge=3)
    num_check: int = Field(default=12, ge=1)


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
    runner: RunnerSpec | Runner | None = None,
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
    runner: by default onnxruntime on this machine's CPU, with the threads and precision of `settings`; see
        measuring.measure_all for what a runner and a runner by name differ in.

    Raises UserError when `work_dir` holds another calibration, the space is too small to check, or a subject could
    not be measured (all others are, and kept; another call tries the failed ones again).
    """
    if runner is None:
        runner = RunnerSpec(
            name="onnxruntime-cpu", options={"threads": settings.threads, "precision": settings.precision}
        )
    subjects = Subjects(unet, space, latent_size, num_tokens, context_dim)
    fit_nets, check_nets = choose_networks(subjects, settings)
    names = [BASE, *(option_subject(s, o) for s in space.stages for o in space.options[s] if o != NONE)]
    names += [c.id for c in (*fit_nets, *check_nets)]
    made = runner.make() if isinstance(runner, RunnerSpec) else runner
    journal = Journal(
        work_dir / "measurements.jsonl",
        {
            "teacher_key": teacher_key,
            "space": space.name,
            "latent_size": latent_size,
            "num_tokens": num_tokens,
            "context_dim": context_dim,
            "device": made.device,
            "runtime": made.runtime,
            "precision": made.precision,
            "threads": made.threads,
            "options": runner.context if isinstance(runner, RunnerSpec) else None,
        },
    )
    journal.retry(names)
    measure_all(names, TeacherGraphs(subjects), runner, settings, journal, work_dir / "graphs", on_progress)
    for name in names:
        if name in journal.failed:
            raise UserError(
                f"calibration: {name} cannot be measured: {journal.failed[name]}; the other subjects are, so that "
                "calibrating again measures only what failed"
            )
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
        manifest=journal.manifest,
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
    manifest: Manifest | None = None,
) -> DeviceProfile:
    """The profile of finished measurements (subject -> record)."""
    nets = [candidate.id for candidate in (*fit_nets, *check_nets)]
    parts = [BASE, *(option_subject(s, o) for s in space.stages for o in space.options[s] if o != NONE)]
    return fit_profile(
        space,
        kernels,
        Training(parts={name: measured[name] for name in parts}, networks={name: measured[name] for name in nets}),
        ProfileFacts.of(measured[BASE], teacher_key, latent_size, num_tokens, manifest),
        held_out=[candidate.id for candidate in check_nets],
    )
