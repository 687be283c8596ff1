"""`report.html` of a run: one self-contained page that needs no network.

A part that the run does not have is named in its place with the reason; the page is written all the same.
"""

from __future__ import annotations

from pathlib import Path

from nas.atomic import write_bytes
from nas.report import models, page, sections
from nas.run_data import RunData, read_run

__all__ = ["render", "write_report"]


def render(run: RunData) -> str:
    """The whole page as HTML."""
    links = " ".join(f'<a href="#{anchor}">{word}</a>' for anchor, word, _ in sections.SECTIONS)
    parts = [models.headline(run), f"<nav>{links}</nav>", *(make(run) for _, _, make in sections.SECTIONS)]
    title = f"NanoSD search: {(run.config or {}).get('name', run.folder.name)}"
    return page.page(title, "\n".join(parts))


def write_report(run_dir: Path | str, out: Path | None = None) -> Path:
    """Write the report of a run directory (default: `report.html` inside it) and return its path.

    Raises:
        UserError: no such run directory, or the file cannot be written.
    """
    run = read_run(run_dir)
    return write_bytes(out or run.folder / "report.html", render(run).encode())
