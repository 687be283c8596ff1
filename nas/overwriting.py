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


def is_same_file(one: Path, other: Path) -> bool:
    """Whether both paths lead to one file that is there."""
    try:
        return other.is_file() and os.path.samefile(one, other)
    except (OSError, ValueError):  # one of them is not there, or no path at all
        return False
