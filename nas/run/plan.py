"""What a run would do: how much, about how long, how big. Nothing is written."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from nas.config import Recipe
from nas.progress import duration
from nas.run.context import RunContext
from nas.run.directory import RunDirectory
from search_spaces.errors import UserError

# A training step of all surrogates against one teacher pass of the same batch, and a student's forward and
# backward against a teacher's forward: orders of magnitude for an estimate that is called one.
_SURROGATES_PER_PASS = 7.0
_STUDENT_STEP_PER_PASS = 2.0
_STUDENT_PER_PASS = 0.6


def plan(recipe: Recipe, run_dir: Path | str) -> dict[str, Any]:
    """Counts, sizes and a rough duration, estimated from one teacher pass timed now.

    Raises:
        UserError: a teacher or space that cannot be used.
    """
    run = RunContext(recipe, RunDirectory(run_dir))
    run.directory.check_recipe(recipe)
    _ = run.space  # one that no run can search is refused before anything heavy is loaded
    if recipe.data.folder is not None and not Path(recipe.data.folder).is_dir():
        raise UserError(f"image folder {recipe.data.folder!r} does not exist; give a folder with images and captions")
    if recipe.data.shards is not None:
        from nas.data.webdataset import shard_paths

        shard_paths(recipe.data.shards)
    latency_of = "this machine"
    if recipe.calibration.profile is not None:
        from nas.latency import device_facts
        from nas.run.phases import given_profile

        latency_of = device_facts(given_profile(run, recipe.calibration.profile)).title
    from nas.distill.blocks import surrogate_blocks

    costs = run.costs  # checks the space against the teacher first
    blocks = surrogate_blocks(run.teacher.unet, run.space)
    columns = {stage: list(names) for stage, names in run.space.options.items()}
    bank_params = sum(int(costs.num_params[stage][columns[stage].index(option)]) for stage, option in blocks)
    per_pass = _seconds_per_sample(run)
    fidelity, distill, finalize = recipe.fidelity, recipe.distill, recipe.finalize
    guided = 1 if fidelity.guidance == 1 else 2
    evaluation = (
        per_pass
        * _STUDENT_PER_PASS
        * (fidelity.num_samples * fidelity.ddim_steps * guided + fidelity.num_noise_samples)
    )
    distillation = per_pass * _STUDENT_STEP_PER_PASS * recipe.search.distill_steps * finalize.batch_size
    num_options = sum(len(names) for names in run.space.options.values())
    seconds = {
        "calibrate": 0.0 if recipe.calibration.profile else recipe.calibration.max_seconds,
        "distill": distill.steps * distill.batch_size * per_pass * (1 + _SURROGATES_PER_PASS),
        "prior": num_options * evaluation,
        "search": recipe.search.num_candidates * (evaluation + distillation) / recipe.search.workers,
        "finalize": finalize.steps * finalize.batch_size * per_pass * (1 + 3 * _STUDENT_STEP_PER_PASS),
    }
    matrix_params = run.costs.params(_ends(run))
    return {
        "run": str(run.directory.path),
        "exists": run.directory.config.is_file(),
        "teacher": recipe.teacher,
        "teacher_params": run.costs.teacher.num_params,
        "space": run.space.name,
        "space_candidates": run.space.num_candidates,
        "smallest_candidate_params": int(matrix_params.min()),
        "largest_candidate_params": int(matrix_params.max()),
        "surrogate_blocks": len(blocks),
        "candidates_to_evaluate": recipe.search.num_candidates,
        "workers": recipe.search.workers,
        "latency_of": latency_of,
        "bank_megabytes": round(4 * bank_params / 1e6, 1),
        "about_seconds": {phase: round(value, 1) for phase, value in seconds.items()},
        "about_seconds_total": round(sum(seconds.values())),
        "about": duration(sum(seconds.values())),
        "estimate": "rough: from one teacher pass timed now, without loading, export and report",
    }


def distill_plan(recipe: Recipe, run_dir: Path | str, patterns: str | None) -> dict[str, Any]:
    """What `nanosd distill` would train, about how long and in how much memory. Nothing is written.

    Raises:
        UserError: a teacher, space or pattern that cannot be used.
    """
    from nas.distill.blocks import select_blocks, surrogate_blocks
    from nas.run.dataset import is_cached

    run = RunContext(recipe, RunDirectory(run_dir))
    run.directory.check_recipe(recipe)
    costs = run.costs
    blocks = surrogate_blocks(run.teacher.unet, run.space)
    chosen = blocks if patterns is None else select_blocks(blocks, patterns)
    present = 0
    if is_cached(run.teacher, recipe, run.directory.work):  # else the blocks' keys would need the images encoded
        from nas.distill.blocks import block_key

        keys = [block_key(run.space, b, run.teacher.key, run.dataset.key, run.distill_settings) for b in chosen]
        present = sum(run.bank.has(key) for key in keys)
    index = {stage: list(names) for stage, names in run.space.options.items()}
    params = [int(costs.num_params[stage][index[stage].index(option)]) for stage, option in chosen]
    macs = sum(int(costs.num_macs[stage][index[stage].index(option)]) for stage, option in chosen)
    settings = recipe.distill
    at_once = sorted(params, reverse=True)[: settings.max_parallel]
    to_train = len(chosen) - present
    # Forward and backward of a block are three forwards.
    passes = -(-len(chosen) // (settings.max_parallel or len(chosen))) + 3 * macs / costs.teacher.num_macs
    seconds = settings.steps * settings.batch_size * _seconds_per_sample(run) * passes * to_train / len(chosen)
    return {
        "run": str(run.directory.path),
        "teacher": recipe.teacher,
        "blocks": len(chosen),
        "blocks_in_bank": present,
        "blocks_to_train": to_train,
        "steps": settings.steps,
        "workers": settings.workers,
        "weights_and_moments_megabytes": round(16 * sum(at_once) / 1e6, 1),
        "bank_megabytes": round(4 * sum(params) / 1e6, 1),
        "about_seconds": round(seconds / min(settings.workers, max(1, len(chosen)))),
        "about": duration(seconds / min(settings.workers, max(1, len(chosen)))),
        "estimate": "rough: from one teacher pass on the CPU timed now, without encoding images",
    }


def _ends(run: RunContext) -> Any:
    """The candidates of fewest and most parameters (2, decisions)."""
    import numpy as np

    per_stage = [run.costs.num_params[stage] for stage in run.space.stages]
    ends = np.array([[int(p.argmin()) for p in per_stage], [int(p.argmax()) for p in per_stage]])
    return run.space.from_stage_rows(ends)


def _seconds_per_sample(run: RunContext, batch: int = 8) -> float:
    """Seconds of a teacher pass per latent, from the faster of two."""
    import torch

    teacher = run.teacher
    batch = 1 if run.costs.teacher.num_params > 10**8 else batch
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(batch, teacher.latent_channels, teacher.latent_size, teacher.latent_size, generator=generator)
    context = teacher.encode_prompts([""] * batch)
    times = []
    with torch.no_grad():
        for _ in range(2):
            start = time.perf_counter()
            teacher.unet(sample, 500, context)
            times.append(time.perf_counter() - start)
    return min(times) / batch
