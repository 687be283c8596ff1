"""A small run with trained blocks, a profile and picks, made in this process: what `nanosd finalize` starts from."""

from __future__ import annotations

from pathlib import Path

from nas.config import load_recipe
from nas.picks import Pick, save_picks
from nas.progress import Progress
from nas.run import phases
from nas.run.context import RunContext
from nas.run.directory import RunDirectory
from nas.teacher import Teacher
from search_spaces.space import SearchSpace

OPTIONS = {
    "E1": ["RARA"],
    "E2": ["RARA"],
    "E3": ["RARA", "R"],
    "deep": ["none"],
    "D3": ["RARARA"],
    "D2": ["RARARA", "R"],
    "D1": ["RARARA"],
}
PRIME = "RARA-RARA-R-none-RARARA-R-RARARA"
ENCODER, DECODER = "4x1.4x1.4x1.8x1", "4x1.4x1.4x1.4x1"
RECIPE = """
name: small
space: {space}
data: {{num_images: 12}}
calibration: {{profile: sm8750-w8a16}}
distill: {{steps: 2, batch_size: 4}}
fidelity: {{num_samples: 4, num_noise_samples: 4, ddim_steps: 2}}
finalize: {{steps: 4, batch_size: 4}}
vae: {{steps: 4, batch_size: 4, num_images: 16, checkpoint_every: 1}}
export: {{formats: [diffusers]}}
"""


def make_run(folder: Path, teacher: Teacher) -> RunContext:
    (folder / "space.json").write_text(SearchSpace(name="small", options=OPTIONS).model_dump_json(by_alias=True))
    (folder / "recipe.yaml").write_text(RECIPE.format(space=folder / "space.json"))
    recipe = load_recipe(folder / "recipe.yaml")
    run = open_run(folder / "run", teacher, RunContext(recipe, RunDirectory(folder / "run")))
    run.directory.create(recipe)
    phases.calibrate(run, Progress(silent=True))
    phases.distill(run, Progress(silent=True))
    pick = Pick(candidate=PRIME, rule="the only one", latent_error=0.1, latency_ms=1.0, num_params=1)
    save_picks({"fastest": pick, "prime": pick}, run.directory.picks)
    _ = run.evaluator  # its cache, so that copies of the run start from the same bytes
    return run


def open_run(path: Path, teacher: Teacher, run: RunContext | None = None) -> RunContext:
    """The run with a teacher that is loaded already."""
    run = run or RunContext.open(path)
    run.__dict__["teacher"] = teacher
    return run
