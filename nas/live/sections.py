"""The parts of the live page that are text, as HTML. Every text of a run is escaped (:mod:`nas.report.page`)."""

from __future__ import annotations

from collections.abc import Collection

from nas.live.status import Proposed, RunStatus, Worker
from nas.plots.format import NONE, count, error, milliseconds
from nas.progress import duration
from nas.report import page

_WHY = {
    "initial": "one of the first, spread over the costs",
    "improvement": "largest expected improvement",
    "random": "at random: none is expected to gain",
    "queue": "predicted front, or tried again",
    "unsaid": "",
}
_MOST_FAILURES = 20


def head(status: RunStatus) -> str:
    """Name, state, and the facts that a glance is for."""
    title = f'<h1>{page.text(status.name)} <span class="state {status.state}">{status.state}</span></h1>'
    ended = [f"{name} {duration(seconds)}" for name, seconds in status.phase_seconds.items()]
    phases = page.notes([f"Phases that ended: {' · '.join(ended)}"]) if ended else ""
    return title + _banner(status) + page.facts(_facts(status)) + _bar(status) + phases


def _banner(status: RunStatus) -> str:
    lines = []
    if status.state == "killed":
        lines.append("Nobody works on this run any more, and who did left no word: it was killed, or the machine was.")
    elif status.reason:
        lines.append(f"Stopped: {status.reason}")
    html = "".join(page.missing(line) for line in lines)
    if status.resume:
        html += f"<p>What is finished is kept. Go on with <code>{page.text(status.resume)}</code></p>"
    if status.state == "finished" and status.report:
        html += f'<p class="lead">The report is <code>{page.text(status.report)}</code></p>'
    return html + "".join(page.missing(note) for note in status.notes)


def _facts(status: RunStatus) -> list[tuple[str, str, str]]:
    phase, rows = status.phase, []
    if phase is not None:
        label = "phase" if status.state == "running" else "last phase"
        amount = "" if phase.total is None else f"{phase.done:,} of {phase.total:,}, "
        rows.append((label, phase.name, f"{amount}{duration(phase.seconds)}"))
        if status.state == "running":
            left = NONE if phase.remaining_s is None else duration(phase.remaining_s)
            rows.append((f"left of {phase.name}", left, "at the speed so far"))
    others = [f"{num:,} {name}" for name, num in status.outcomes.items() if name != "done" and num]
    reused = [f"{status.candidates_reused:,} reused"] if status.candidates_reused else []
    rows.append(
        ("evaluated", f"{status.candidates_done:,} of {status.candidates_total:,}", ", ".join([*reused, *others]))
    )
    if status.candidates_done:
        rows.append(("hypervolume", f"{status.hypervolume:.4f}", f"{status.front_size:,} on the front"))
    if status.evaluations_per_minute is not None:
        each = status.seconds_per_evaluation
        small = "" if each is None else f"{each:.3g} s each"
        rows.append(("evaluations a minute", f"{status.evaluations_per_minute:.3g}", small))
    if status.calibration is not None:
        good = status.calibration
        rows.append(("predictions", f"{good.within} of {good.num}", "within their 90 % interval"))
    rows.append(("sampler", status.sampler, f"{status.teacher}, {status.space}"))
    return rows


def _bar(status: RunStatus) -> str:
    phase = status.phase
    if phase is None or not phase.total or status.state == "finished":
        return ""
    done = max(0.0, min(100.0, 100 * phase.done / phase.total))
    # What the search counts stands in the facts.
    note = (
        f'<p class="lead"><small>{page.text(phase.note)}</small></p>' if phase.note and phase.name != "search" else ""
    )
    return f'<progress max="100" value="{done:.1f}" aria-label="{page.text(phase.name)}"></progress>{note}'


def workers(status: RunStatus) -> str:
    """A row a worker."""
    if status.state != "running":
        return '<p class="lead">None: nobody works on this run.</p>'
    if not status.workers:
        wanted = f"{status.workers_wanted} worker{'' if status.workers_wanted == 1 else 's'}"
        return f'<p class="lead">None yet; the search will have {wanted}.</p>'
    names = ("worker", "doing", "for", "candidate", "predicted latency", "parameters", "expected error")
    rows = [_worker(each) for each in status.workers]
    return page.table(names, rows, [False, False, True, False, True, True, True], cards=True)


def _worker(each: Worker) -> list[str]:
    expected = _interval(each.predicted) if each.predicted else f"{error(each.prior)}" if each.prior is not None else ""
    return [
        page.text(each.worker),
        each.doing,
        duration(each.seconds),
        f"<code>{page.text(each.candidate)}</code>" if each.candidate else "",
        milliseconds(each.latency_ms) if each.latency_ms is not None else "",
        count(each.num_params) if each.num_params is not None else "",
        page.text(expected),
    ]


def proposals(status: RunStatus) -> str:
    """What is tried and was tried last, and why."""
    if not status.proposals:
        return '<p class="lead">Nothing has been proposed yet.</p>'
    busy = {worker.candidate for worker in status.workers} if status.state == "running" else None
    if all(each.why == "unsaid" for each in status.proposals):
        rows = [[f"<code>{page.text(each.candidate)}</code>", _measured(each, busy)] for each in status.proposals]
        note = f"The sampler {status.sampler} gives no reasons; ehvi does."
        return page.notes([note]) + page.table(("candidate", "measured"), rows, [False, True])
    names = ("candidate", "why", "expected gain", "predicted error", "measured")
    rows = [_proposal(each, busy) for each in status.proposals]
    return page.table(names, rows, [False, False, True, True, True], cards=True)


def _proposal(each: Proposed, busy: Collection[str | None] | None) -> list[str]:
    return [
        f"<code>{page.text(each.candidate)}</code>",
        _WHY[each.why],
        gain(each.expected_improvement, each.hypervolume),
        page.text(_interval(each.predicted)) if each.predicted else "",
        _measured(each, busy),
    ]


def _measured(each: Proposed, busy: Collection[str | None] | None) -> str:
    if each.state == "open":
        return "interrupted" if busy is None else "under evaluation" if each.candidate in busy else "waits"
    if each.measured is None:
        return f"<span>{each.state}<small>{page.text(each.reason or '')}</small></span>"
    mark = ""
    if each.predicted is not None:
        inside = each.predicted[0] <= each.measured <= each.predicted[2]
        mark = "<small>as predicted</small>" if inside else '<small class="off">outside</small>'
    return f"<span>{error(each.measured)}{mark}</span>"


def failures(status: RunStatus) -> str:
    """Reasons, the most frequent first."""
    if not status.failures:
        return '<p class="lead">None.</p>'
    shown = status.failures[:_MOST_FAILURES]
    rows = [
        [f"{f.num_candidates:,}", page.text(f.outcome), page.text(f.reason), f"<code>{page.text(f.example)}</code>"]
        for f in shown
    ]
    left = len(status.failures) - len(shown)
    more = page.notes([f"and {left} other reasons"]) if left else ""
    return page.table(("candidates", "outcome", "reason", "the last one"), rows, [True, False, False, False]) + more


def gain(improvement: float | None, hypervolume: float | None) -> str:
    """An expected improvement as a share of the hypervolume, by the sampler's own reference."""
    return f"+{100 * improvement / hypervolume:.2g} %" if improvement is not None and hypervolume else ""


def _interval(predicted: tuple[float, float, float]) -> str:
    low, middle, high = map(error, predicted)
    return f"{middle} ({low} to {high})"
