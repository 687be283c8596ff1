"""A command's result is never written over what the command reads."""

import os
from collections.abc import Iterable
from pathlib import Path

from search_spaces.errors import UserError


def refuse_overwriting(out: Path, inputs: Iterable[tuple[str, str | Path | None]]) -> None:
    """UserError where `out` is the same file as one of the inputs, each the option that names it and its value.

    Links count as the file that they lead to. What is no file (None, a name, text) is nothing to overwrite.
    """
    for option, value in inputs:
        if value is not None and is_same_file(out, Path(value)):
            raise UserError(f"{out}: is what {option} {value} reads, and would be overwritten; give another --out")


def refuse_other_file(out: Path, suffixes: tuple[str, ...], what: str) -> None:
    """UserError where a file is at `out` that ends otherwise than `what` does: it holds something else."""
    if out.is_file() and out.suffix.lower() not in suffixes:
        raise UserError(f"{out}: is there and no {what} ({', '.join(suffixes)}); give another --out")


def refuse_run_files(out: Path) -> None:
    """UserError where `out` is a file that is there already in a run folder, which has it for itself."""
    run = run_around(out)
    if run is not None and out.exists():
        raise UserError(f"{out}: is a file of run {run}, and would be overwritten; give another --out")


def run_around(path: Path) -> Path | None:
    """The run folder that a path leads into, or is."""
    try:
        places = [path.resolve(), *path.resolve().parents]
    except (OSError, ValueError, RuntimeError):  # no path at all, or links in a circle: for others to say
        return None
    return next((place for place in places if _is_run(place)), None)


def _is_run(place: Path) -> bool:
    from nas.run.directory import RunDirectory

    run = RunDirectory(place)
    try:
        return run.config.is_file() and any(made.exists() for made in (run.timings, run.bank, run.store))
    except OSError:
        return False


def is_same_file(one: Path, other: Path) -> bool:
    """Whether both paths lead to one file that is there."""
    try:
        return other.is_file() and os.path.samefile(one, other)
    except (OSError, ValueError):  # one of them is not there, or no path at all
        return False
