"""A run of the toy teacher, made in seconds: blocks trained for one step, evaluations made up."""

from __future__ import annotations

from pathlib import Path

import torch

from nas.config import load_recipe
from nas.progress import Progress
from nas.run import phases
from nas.run.context import RunContext
from nas.run.directory import RunDirectory
from nas.search.record import CandidateRecord

SPACE = """
name: eight
options:
  E1: [RARA]
  E2: [RARA, R]
  E3: [RARA, R]
  deep: [none]
  D3: [RARARA, R]
  D2: [RARARA]
  D1: [RARARA]
"""
FIELDS = (
    "data.num_images=8",
    "distill.steps=1",
    "distill.batch_size=2",
    "fidelity.num_samples=4",
    "fidelity.num_noise_samples=4",
    "fidelity.ddim_steps=2",
    "finalize.steps=4",
    "finalize.batch_size=2",
    "search.workers=1",
)


def record(run: RunContext, row: int, error: float) -> CandidateRecord:
    """A finished evaluation of the space's candidate `row`; the more options are short, the cheaper."""
    candidate = run.space.decode(run.space.enumerate()[row])
    return CandidateRecord(
        candidate=candidate.id,
        options=candidate.options,
        vector=tuple(int(i) for i in run.space.encode(candidate)),
        outcome="done",
        latency_ms=10.0 - row,
        num_params=1000 - row,
        metrics={"latent_error": error},
        seconds=2.0,
        trial=f"t{row}",
    )


def make_run(folder: Path) -> RunContext:
    """Train the blocks in `folder`/run; six of the eight candidates have errors 0.1, 0.2 ... in their order."""
    (folder / "space.yaml").write_text(SPACE)
    recipe = load_recipe(None, [f"space={folder / 'space.yaml'}", *FIELDS])
    run = RunContext(recipe, RunDirectory(folder / "run"))
    torch.set_num_threads(1)
    run.directory.create(run.recipe)
    phases.distill(run, Progress(silent=True))
    run.store.extend([record(run, row, 0.1 * (row + 1)) for row in range(6)])
    return run
