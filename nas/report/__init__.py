"""`report.html` of a run: one self-contained page that needs no network.

A part that the run does not have is named in its place with the reason; the page is written all the same.
"""

from __future__ import annotations

import os
from pathlib import Path

from nas.report import page, sections
from nas.run_data import RunData, read_run
from search_spaces.errors import UserError

__all__ = ["render", "write_report"]


def render(run: RunData) -> str:
    """The whole page as HTML."""
    links = " ".join(f'<a href="#{anchor}">{word}</a>' for anchor, word, _ in sections.SECTIONS)
    parts = [sections.headline(run), f"<nav>{links}</nav>", *(make(run) for _, _, make in sections.SECTIONS)]
    title = f"NanoSD search: {(run.config or {}).get('name', run.folder.name)}"
    return page.page(title, "\n".join(parts))


def write_report(run_dir: Path | str, out: Path | None = None) -> Path:
    """Write the report of a run directory (default: `report.html` inside it) and return its path.

    Raises:
        UserError: no such run directory, or the file cannot be written.
    """
    run = read_run(run_dir)
    path = out or run.folder / "report.html"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    html = render(run)
    try:
        temporary.write_text(html, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}; give a writable place with room for {len(html) // 1_000_000 + 1} MB") from error
    return path
