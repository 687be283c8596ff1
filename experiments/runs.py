"""Runs, by folder or by name."""

from pathlib import Path

from search_spaces.errors import UserError


def find_run(text: str) -> Path:
    """Return the folder of a run given as a path or as its name under runs/; UserError lists what there is."""
    for folder in (Path(text), Path("runs") / text):
        if (folder / "config.yaml").is_file():
            return folder
    known = sorted(path.parent.name for path in Path("runs").glob("*/config.yaml"))
    there = f"runs here: {', '.join(known)}" if known else "there are none under runs/; start one with `nanosd search`"
    raise UserError(f"run {text}: no folder with a config.yaml there; {there}")
