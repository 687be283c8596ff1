"""The loop: all phases of a run, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from nas.config import Recipe
from nas.progress import Progress
from nas.run import finish, phases
from nas.run.context import RunContext
from nas.run.directory import RunDirectory
from nas.run.progress_file import ProgressFile
from nas.search.store import CandidateStore

if TYPE_CHECKING:
    from nas.distill.results import Block, BlockResult

T = TypeVar("T")


@dataclass(frozen=True)
class RunResult:
    """Where a finished run is."""

    run_dir: Path
    report: Path


def search(recipe: Recipe, run_dir: Path | str, address: str | None, progress: Progress) -> RunResult:
    """Run the whole loop, or go on with it when the folder holds a run of the same recipe.

    Raises:
        UserError: anything about recipe, teacher, budget or folder that the user can mend.
    """
    directory = RunDirectory(run_dir)
    run = RunContext(recipe, directory)
    start = time.monotonic()
    if not directory.config.is_file():
        # Before the folder exists: a recipe that cannot run leaves no run behind that bars its mended version.
        directory.check_place()
        phases.load(run, progress)
    directory.create(recipe)
    return _drive(run, address, progress, time.monotonic() - start)


def resume(run_dir: Path | str, address: str | None, progress: Progress) -> RunResult:
    """Go on with a run from its own recipe; nothing finished is done twice.

    Raises:
        UserError: no run there, or whatever stopped it still stands.
    """
    run = RunContext.open(run_dir)
    run.directory.check_writable()
    return _drive(run, address, progress, 0.0)


def distill(
    recipe: Recipe, run_dir: Path | str, patterns: str | None, address: str | None, progress: Progress
) -> dict[Block, BlockResult]:
    """Train a run's surrogate blocks, all or those that `patterns` names, and nothing else of it.

    The folder is a run's: `search` of the same recipe goes on with it and trains none of them again.

    Raises:
        UserError: anything about recipe, teacher, images or patterns that the user can mend.
    """
    from nas.distill.blocks import select_blocks, surrogate_blocks

    directory = RunDirectory(run_dir)
    run = RunContext(recipe, directory)
    start = time.monotonic()
    if not directory.config.is_file():
        directory.check_place()
        phases.load(run, progress)
    blocks = None if patterns is None else select_blocks(surrogate_blocks(run.teacher.unet, run.space), patterns)
    directory.create(recipe)
    with directory.lock():
        _write_provenance(run)
        phases.prepare(run, progress)
        directory.add_seconds("prepare", time.monotonic() - start)
        start = time.monotonic()
        results = phases.distill(run, progress, blocks, address)
        directory.add_seconds("distill", time.monotonic() - start)
    return results


def _drive(run: RunContext, address: str | None, progress: Progress, loading_s: float) -> RunResult:
    directory = run.directory

    def timed(phase: str, call: Callable[[], T]) -> T:
        start = time.monotonic()
        result = call()
        directory.add_seconds(phase, time.monotonic() - start)
        return result

    file = ProgressFile(directory.progress)
    with directory.lock(), file.over(), progress.followed(file.follow):
        len(CandidateStore(directory.store))  # what is damaged there is said before hours of other work
        directory.add_seconds("prepare", loading_s)
        _write_provenance(run)
        timed("prepare", lambda: phases.prepare(run, progress))
        timed("calibrate", lambda: phases.calibrate(run, progress))
        timed("distill", lambda: phases.distill(run, progress, address=address))
        table = timed("prior", lambda: phases.prior(run, progress))
        timed("search", lambda: phases.search(run, table, address, progress))
        picks: dict[str, Any] = timed("pick", lambda: phases.pick(run, progress))
        timed("finalize", lambda: finish.finalize(run, picks, progress))
        timed("report", lambda: _report(run, progress))
    return RunResult(directory.path, directory.report)


def _report(run: RunContext, progress: Progress) -> None:
    from nas.report import write_report

    with progress.phase("report", 1) as phase:
        write_report(run.directory.path)
        phase.advance()


def _write_provenance(run: RunContext) -> None:
    """Versions, hashes and machine of the process that drives the run; the first one's stay."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from nas.atomic import write_json

    path = run.directory.path / "provenance.json"
    if path.is_file():
        return
    names = ("nanosd-nas", "torch", "diffusers", "transformers", "onnxruntime", "ray", "optuna", "moocore")
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    facts = {
        "recipe_hash": run.recipe_hash,
        "teacher": run.recipe.teacher,
        "teacher_key": run.teacher.key,
        "seed": run.recipe.seed,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **{f"version {name}": text for name, text in versions.items()},
    }
    write_json(path, facts)
