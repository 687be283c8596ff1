"""Surrogate blocks shared out over Ray workers: groups of blocks, each with a teacher pass of its own."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.distill.results import Block, BlockResult, OnProgress
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from nas.run.context import RunContext

_PROGRESS_SECONDS = 1.0


def share_out(blocks: Sequence[Block], costs: Mapping[Block, float], workers: int) -> list[list[Block]]:
    """Blocks in at most `workers` groups of about equal cost, the same for the same blocks and costs.

    The costliest block goes first, to the group with least so far (Graham 1969: within a third of the
    best there is); each group is in the order of `blocks`.
    """
    groups: list[set[Block]] = [set() for _ in range(min(workers, len(blocks)))]
    loads = [0.0] * len(groups)
    for block in sorted(blocks, key=lambda b: -costs[b]):
        least = loads.index(min(loads))
        groups[least].add(block)
        loads[least] += costs[block]
    return [[block for block in blocks if block in group] for group in groups]


def distill_in_workers(
    run: RunContext, blocks: Sequence[Block], address: str | None, on_progress: OnProgress
) -> dict[Block, BlockResult]:
    """Train `blocks` of a run in Ray workers; each comes out as it does in one process.

    The groups are made of all `blocks`, trained or not, so that a run that was killed finds its workers'
    checkpoints again; with another number of workers what was not finished starts anew.

    Raises:
        UserError: no room for a worker, or Ray stopped; what is finished is kept.
    """
    from nas.atomic import ensure_writable
    from nas.search.ray_session import ray_session, room

    settings = run.recipe.distill
    macs = {
        (stage, option): float(run.costs.num_macs[stage][list(run.space.options[stage]).index(option)])
        for stage, option in blocks
    }
    groups = share_out(blocks, macs, settings.workers)
    folder = run.directory.work / "distill"
    ensure_writable(folder)
    cpus, gpus = settings.cpus_per_worker, settings.gpus_per_worker
    _ = run.dataset  # encoded once, here, and read by the workers
    with ray_session(folder, math.ceil(len(groups) * cpus), address):
        import ray

        if not room(cpus, gpus)[0]:
            raise UserError(
                f"there is no room for a worker with distill.cpus_per_worker {cpus:g} and distill.gpus_per_worker "
                f"{gpus:g}; give each less"
            )
        task = ray.remote(_train_group).options(num_cpus=cpus, num_gpus=gpus, max_retries=2)
        folders = [folder / _name(group) for group in groups]
        waiting = [
            task.remote(str(run.directory.path.resolve()), group, str(place.resolve()), max(1, int(cpus)))
            for group, place in zip(groups, folders, strict=True)
        ]
        refs = list(waiting)
        try:
            while waiting:
                _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_PROGRESS_SECONDS)
                _report(folders, on_progress)
            parts = ray.get(refs)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise
        except ray.exceptions.RayError as error:
            raise UserError(
                f"Ray stopped in the middle of the distillation ({type(error).__name__}); what is finished is kept, "
                f"go on with: nanosd distill {run.directory.path}"
            ) from error
    found = [BlockResult.model_validate_json(text) for part in parts for text in part]
    results = {(result.stage, result.option): result for result in found}
    return {block: results[block] for block in blocks}


def _train_group(run_dir: str, blocks: Sequence[Block], folder: str, threads: int) -> list[str]:
    """One worker: the results of its blocks as JSON, in their order."""
    import torch

    from nas.distill.blocks import distill_blocks
    from nas.quiet import quiet
    from nas.run.context import RunContext

    quiet()
    torch.set_num_threads(threads)
    run = RunContext.open(run_dir)
    settings = run.distill_settings
    path = Path(folder) / "progress.json"
    said = 0.0

    def report(done: int, total: int, note: str) -> None:
        nonlocal said
        if done == total or time.monotonic() - said > _PROGRESS_SECONDS:
            said = time.monotonic()
            path.write_text(json.dumps([done, total]))  # only for the driver's line: no need to be safe

    path.parent.mkdir(parents=True, exist_ok=True)
    results = distill_blocks(
        run.teacher,
        run.space,
        run.batches(settings.batch_size),
        settings,
        run.bank,
        Path(folder),
        run.dataset.key,
        on_progress=report,
        blocks=[(stage, option) for stage, option in blocks],
    )
    return [result.model_dump_json() for result in results.values()]


def _report(folders: Sequence[Path], on_progress: OnProgress) -> None:
    """The slowest worker's progress, as if all were as far."""
    shares: list[Any] = []
    for folder in folders:
        try:
            shares.append(json.loads((folder / "progress.json").read_text()))
        except (OSError, ValueError):
            shares.append([0, 1])
    done, total = min(shares, key=lambda share: share[0] / share[1])
    if done:
        on_progress(int(done), int(total), f"{len(folders)} workers, the slowest counts")


def _name(group: Sequence[Block]) -> str:
    """Folder of a group's checkpoint: the same for the same blocks."""
    return "group-" + hashlib.sha256(json.dumps(list(group)).encode()).hexdigest()[:12]
