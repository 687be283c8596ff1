"""The second stage: some candidates are distilled briefly and measured again, in groups that share the teacher's pass.

Candidates come in equal thirds from three strata: the front of (latent error, latency, parameters), the tenth of the
space behind it layer by layer, and all the rest; within a stratum evenly along the latent error.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from nas.atomic import write_json
from nas.progress import Progress
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from experiments.nanosd_bench.job import Job

Stratum = Literal["front", "near", "rest"]
_GROUP = 10
_NEAR = 0.1
_OBJECTIVES = ("latent_error", "latency_ms", "num_params")


class Distilled(BaseModel):
    """A candidate after brief distillation; errors by PairedEvaluator, None with a reason where there are none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    candidate: str
    stratum: Stratum
    num_steps: int
    latent_error: float | None
    noise_error: float | None
    reason: str | None = None


def layers(values: npt.NDArray[np.float64], most: int) -> npt.NDArray[np.int64]:
    """Numbers (N,) of the fronts that rows belong to, 0 the front, 1 the front without it ...; minimised.

    Peeling stops when `most` rows have a number; the others have the next one.
    """
    from nas.pareto import front

    found = np.full(len(values), -1, dtype=np.int64)
    number = 0
    while (found >= 0).sum() < most:
        left = np.flatnonzero(found < 0)
        found[left[front(values[left])]] = number
        number += 1
    found[found < 0] = number
    return found


def choose(frame: pd.DataFrame, num: int, seed: int = 0) -> list[tuple[int, Stratum]]:
    """Row numbers of a table, with the stratum that each was drawn from."""
    values = frame[list(_OBJECTIVES)].to_numpy(dtype=np.float64)
    usable = np.isfinite(values).all(axis=1)
    rows = np.flatnonzero(usable)
    layer = layers(values[rows], round(_NEAR * len(rows)))
    last = layer.max()
    strata: dict[Stratum, npt.NDArray[np.int64]] = {
        "front": rows[layer == 0],
        "near": rows[(layer > 0) & (layer < last)],
        "rest": rows[layer == last],
    }
    rng = np.random.default_rng(seed)
    chosen: list[tuple[int, Stratum]] = []
    for left, (stratum, members) in zip((3, 2, 1), strata.items(), strict=True):
        share = min(-(-(num - len(chosen)) // left), len(members))
        ordered = members[np.argsort(values[members, 0], kind="stable")]
        # Evenly spaced places with one random offset: every stretch of the error has its share.
        places = ((np.arange(share) + rng.random()) * len(members) / max(share, 1)).astype(int)
        chosen += [(int(row), stratum) for row in ordered[places]]
    return chosen


def read_distilled(folder: Path) -> list[Distilled]:
    """Whatever was distilled in a job's folder."""
    paths = sorted((Path(folder) / "distilled").glob("group-*.json"))
    return [Distilled.model_validate(item) for path in paths for item in json.loads(path.read_text(encoding="utf-8"))]


def distil(job: Job, num: int, progress: Progress) -> None:
    """Distil and measure `num` candidates of the job's table, group by group, whatever of it is not there yet.

    The choice is made once and kept in `distilled/chosen.json`.

    Raises:
        UserError: the table is not there yet, or a folder with another number of candidates.
    """
    from experiments.nanosd_bench.table import combine

    folder = job.folder / "distilled"
    path = folder / "chosen.json"
    if path.is_file():
        chosen = [(str(c), s) for c, s in json.loads(path.read_text(encoding="utf-8"))]
        if len(chosen) != num:
            raise UserError(f"{path}: {len(chosen)} candidates were chosen, {num} are asked for; delete {folder}")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        matrix = job.run.space.enumerate()
        rows = choose(combine(job), num, job.run.recipe.seed)
        # Shuffled, so that what is there after a part of the groups is an even sample too.
        order = np.random.default_rng(job.run.recipe.seed).permutation(len(rows))
        chosen = [(job.run.space.decode(matrix[rows[i][0]]).id, rows[i][1]) for i in order]
        write_json(path, chosen)
    groups = [chosen[start : start + _GROUP] for start in range(0, num, _GROUP)]
    with progress.phase("distilled", num) as phase:
        for number, group in enumerate(groups):
            result = folder / f"group-{number:03d}.json"
            if result.is_file():
                phase.skip(len(group))
                continue
            write_json(result, [found.model_dump() for found in _measured(job, group)])
            phase.advance(len(group))


def _measured(job: Job, group: list[tuple[str, str]]) -> list[Distilled]:
    from nas.distill.align import align_many
    from nas.fidelity.errors import FidelityError
    from search_spaces.surgery import assemble

    run, settings = job.run, job.run.align_settings
    students = {
        name: assemble(run.teacher.unet, Candidate.from_id(name, run.space.stages), run.blocks, copy=False)
        for name, _ in group
    }
    work = job.folder / "distilled" / "work"
    aligned = align_many(run.teacher, students, run.batches(settings.batch_size), settings, work, run.dataset.key)
    found = []
    for name, stratum in group:
        errors: tuple[float | None, float | None] = (None, None)
        reason = aligned[name].reason
        if reason is None:
            try:
                fidelity = run.evaluator.evaluate(aligned[name].student)
                errors = (fidelity.latent_error, fidelity.noise_error)
            except FidelityError as error:
                reason = str(error)
        found.append(
            Distilled.model_validate(
                {
                    "candidate": name,
                    "stratum": stratum,
                    "num_steps": settings.steps,
                    "latent_error": errors[0],
                    "noise_error": errors[1],
                    "reason": reason,
                }
            )
        )
    return found
