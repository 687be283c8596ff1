"""`nanosd status`: how a run is doing, once or as it goes on."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.runs import find_run

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from nas.live import LiveRun, RunStatus

_SECONDS = 2.0


def status(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, or its name under runs/.")],
    watch: Annotated[bool, typer.Option("--watch", help="Go on until the run ends; Ctrl-C stops looking.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document; with --watch one a line.")] = False,
) -> None:
    """Say how a run is doing: phase, workers, front, what is tried and why, failures. Nothing of it is disturbed."""
    from experiments.output import plain, print_json
    from nas.live import LiveRun

    live = LiveRun(find_run(run))
    if not watch:
        state = live.status()
        if json:
            print_json(state)
        else:
            _console().print(_rendered(state))
        return
    try:
        if json:
            from json import dumps

            while True:
                state = live.status()
                print(dumps(plain(state), allow_nan=False), flush=True)
                if state.state != "running":
                    return
                time.sleep(_SECONDS)
        _watch(live)
    except KeyboardInterrupt:
        return


def _watch(live: LiveRun) -> None:
    from rich.live import Live

    console = _console()
    state = live.status()
    if not console.is_terminal:  # a pipe: what has changed since the last time would be unreadable there
        while state.state == "running":
            time.sleep(_SECONDS)
            state = live.status()
        console.print(_rendered(state))
        return
    with Live(_rendered(state), console=console, auto_refresh=False, vertical_overflow="ellipsis") as screen:
        while state.state == "running":
            time.sleep(_SECONDS)
            state = live.status()
            screen.update(_rendered(state), refresh=True)


def _rendered(state: RunStatus) -> RenderableType:
    from experiments.status_output import render

    return render(state)


def _console() -> Console:
    from rich.console import Console

    # A pipe or a log has no width of its own.
    return Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else 160)
