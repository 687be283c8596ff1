"""Draw the README's picture of the front from a real run.

    python -m experiments.bench.readme_picture --run runs/quickstart [--out docs/images/front.png]

Uses plotly's static export (kaleido, which drives a Chrome or Chromium that it finds), else Chromium itself.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.bench.first_light import MAKE_ONE, RUN
from nas.run_data import read_run
from search_spaces.errors import UserError

if TYPE_CHECKING:
    import plotly.graph_objects as go

OUT = Path("docs/images/front.png")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--virtual-time-budget=10000",
)
#: Pixels of the picture for each of the figure's.
SCALE = 2


def write_picture(figure: go.Figure, path: Path) -> None:
    """Write a figure, whose layout has width and height, as PNG at one stroke.

    Raises:
        UserError: neither kaleido nor Chromium can draw it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.png")
    try:
        if not (_by_browser(figure, temporary) or _by_kaleido(figure, temporary)):
            raise UserError(
                f"cannot draw {path}: neither Chromium nor kaleido works here; install Chromium, "
                "or `pip install kaleido` and run `plotly_get_chrome`"
            )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _by_kaleido(figure: go.Figure, path: Path) -> bool:
    try:
        figure.write_image(path, scale=SCALE)
    except (ValueError, RuntimeError, ImportError, OSError):
        return False
    return path.is_file()


def _by_browser(figure: go.Figure, path: Path) -> bool:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "figure.html"
        body = figure.to_html(full_html=False, include_plotlyjs="inline", config={"displayModeBar": False})
        page.write_text(
            f'<!DOCTYPE html><meta charset="utf-8"><body style="margin:0;overflow:hidden">{body}</body>',
            encoding="utf-8",
        )
        size = f"--window-size={figure.layout.width},{figure.layout.height}"
        places = [
            f"--user-data-dir={folder}/profile",
            f"--force-device-scale-factor={SCALE}",
            size,
            f"--screenshot={path.resolve()}",
        ]
        try:
            subprocess.run([browser, *FLAGS, *places, page.as_uri()], capture_output=True, timeout=120, check=True)
        except (OSError, subprocess.SubprocessError):
            return False
    return path.is_file()


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.readme_picture", description="Draw the README's picture of the front."
    )
    parser.add_argument("--run", type=Path, default=RUN, help="run directory (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="where the PNG goes (default: %(default)s)")
    options = parser.parse_args(argv)
    try:
        if not options.run.is_dir():
            raise UserError(f"no run at {options.run}; make one with: {MAKE_ONE}")
        run = read_run(options.run)
        if not run.done:
            raise UserError(
                f"{options.run} has no finished candidate to draw: {run.missing.get('candidates', 'all failed')}"
            )
        from nas.plots import front_pairs

        write_picture(front_pairs(run), options.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
