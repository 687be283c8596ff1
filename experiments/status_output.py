"""A run's status as a terminal shows it."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from nas.progress import duration

if TYPE_CHECKING:
    from rich.console import RenderableType

    from nas.live import Proposed, RunStatus

_STATES = {"running": "bold green", "finished": "green", "stopped": "bold yellow", "killed": "bold red"}
_WHY = {
    "initial": "one of the first",
    "improvement": "expected improvement",
    "random": "nothing expected to gain",
    "queue": "predicted front, or tried again",
    "unsaid": "",
}
MAX_FAILURES, MAX_PROPOSALS = 8, 6


def render(status: RunStatus) -> RenderableType:
    """The whole status. Every text of the run is shown as it is, never as markup."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [_head(status), *[Text(f"note: {note}", "yellow") for note in status.notes]]
    parts += [_facts(status)]
    if status.workers:
        parts += [Text("workers", "bold"), _workers(status)]
    if status.proposals:
        parts += [Text("proposed last", "bold"), _proposals(status)]
    if status.failures:
        parts += [Text("failures", "bold"), _failures(status)]
    return Group(*parts)


def _head(status: RunStatus) -> RenderableType:
    from rich.text import Text

    line = Text()
    line.append(status.name, "bold").append("  ").append(status.state, _STATES[status.state])
    if status.state == "killed":
        line.append("  (its process ended without a word)")
    elif status.reason:
        line.append(f"  {status.reason}")
    if status.resume:
        line.append("\ngo on with: ").append(status.resume, "bold")
    return line


def _facts(status: RunStatus) -> RenderableType:
    from rich.text import Text

    table = _table()
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    rows = [("run", status.run), ("teacher, space", f"{status.teacher}, {status.space}")]
    if status.driver.pid is not None and status.state != "finished":
        alive = "alive" if status.driver.alive else "gone"
        rows.append(("driver", f"{alive} (process {status.driver.pid} on {status.driver.host})"))
    elif status.driver.alive:
        rows.append(("driver", "alive"))
    if status.phase is not None:
        rows.append(("phase" if status.state == "running" else "last phase", phase_text(status)))
    if status.phase_seconds:
        rows.append(("ended phases", ", ".join(f"{name} {duration(s)}" for name, s in status.phase_seconds.items())))
    rows.append(("candidates", candidates_text(status)))
    if status.candidates_done:
        rows.append(("front", f"{status.front_size} candidates, hypervolume {status.hypervolume:.4f}"))
    if status.evaluations_per_minute is not None:
        each = "" if status.seconds_per_evaluation is None else f", {status.seconds_per_evaluation:.3g} s each"
        rows.append(("speed", f"{status.evaluations_per_minute:.3g} evaluations a minute{each}"))
    if status.calibration is not None:
        good = status.calibration
        rows.append(("predictions", f"{good.within} of {good.num} measured within their 90 % interval"))
    if status.report is not None:
        rows.append(("report", status.report))
    for label, value in rows:
        table.add_row(label, Text(value))
    return table


def phase_text(status: RunStatus) -> str:
    """`search  12/48, 2 min 05 s so far, 6 min 10 s left; failed 1`."""
    phase = status.phase
    assert phase is not None
    amount = "" if phase.total is None and not phase.done else f" {phase.done}"
    amount += "" if phase.total is None else f"/{phase.total}"
    left = "" if phase.remaining_s is None else f", about {duration(phase.remaining_s)} left"
    note = "" if not phase.note or phase.name == "search" else f"; {phase.note}"
    return (
        f"{phase.name}{amount}, {duration(phase.seconds)}{' so far' if status.state == 'running' else ''}{left}{note}"
    )


def candidates_text(status: RunStatus) -> str:
    """`12 of 48 done, 1 failed`."""
    others = [f"{num} {outcome}" for outcome, num in status.outcomes.items() if outcome != "done" and num]
    reused = [f"{status.candidates_reused} of them reused"] if status.candidates_reused else []
    return ", ".join([f"{status.candidates_done} of {status.candidates_total} done", *reused, *others])


def _workers(status: RunStatus) -> RenderableType:
    from rich.text import Text

    table = _table()
    for name in ("worker", "doing", "for", "candidate", "latency (ms)", "predicted error"):
        table.add_column(name, no_wrap=name != "candidate", overflow="fold", style="" if name == "candidate" else None)
    table.show_header = True
    for each in status.workers:
        latency = "" if each.latency_ms is None else f"{each.latency_ms:.3g}"
        expected = interval(each.predicted) if each.predicted else "" if each.prior is None else f"{each.prior:.3g}"
        cells = (each.worker, each.doing, duration(each.seconds), each.candidate or "", latency, expected)
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _proposals(status: RunStatus) -> RenderableType:
    from rich.text import Text

    from nas.live.sections import gain

    table = _table()
    busy = {worker.candidate for worker in status.workers} if status.state == "running" else None
    # Samplers other than ehvi give no reasons.
    reasons = any(each.why != "unsaid" for each in status.proposals)
    for name in ("candidate", *(("why", "gain", "predicted error") if reasons else ()), "measured"):
        table.add_column(name, no_wrap=name != "candidate", overflow="fold")
    table.show_header = True
    for each in status.proposals[:MAX_PROPOSALS]:
        why = (
            (_WHY[each.why], gain(each.expected_improvement, each.hypervolume), interval(each.predicted))
            if reasons
            else ()
        )
        cells = (each.candidate, *why, outcome(each, busy))
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _failures(status: RunStatus) -> RenderableType:
    from rich.text import Text

    table = _table()
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for each in status.failures[:MAX_FAILURES]:
        table.add_row(f"{each.num_candidates}", Text(each.outcome), Text(f"{each.reason} (such as {each.example})"))
    if left := status.failures[MAX_FAILURES:]:
        table.add_row(f"{sum(each.num_candidates for each in left)}", "", f"for {len(left)} other reasons")
    return table


def interval(predicted: tuple[float, float, float] | None) -> str:
    """`0.21 (0.15-0.30)`: median and 90 % interval."""
    return "" if predicted is None else f"{predicted[1]:.3g} ({predicted[0]:.3g} to {predicted[2]:.3g})"


def outcome(each: Proposed, busy: Collection[str | None] | None) -> str:
    """What was measured, or why nothing was."""
    if each.state == "open":
        return "interrupted" if busy is None else "under evaluation" if each.candidate in busy else "waits"
    return each.state if each.measured is None else f"{each.measured:.3g}"


def _table() -> Any:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, show_header=False, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
