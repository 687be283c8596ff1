"""The report's section on whether brief scores rank finished models (`nanosd proxy`)."""

from __future__ import annotations

from nas.fidelity.proxy_record import TRUSTED, Agreement, Proxy, advice, agreement, warnings
from nas.plots.format import NONE, counted, duration
from nas.plots.proxy import brief_vs_long
from nas.report import page
from nas.run_data import RunData

_TITLE = "Whether brief scores rank finished models"
_LEAD = (
    "Some candidates of the front's better half, distilled briefly and for much longer: where the order of the points "
    "from left to right is that from bottom to top, the brief error says which finished model is better."
)


def section(run: RunData) -> str:
    """Scatter, rank correlations and what they mean; how to measure them where they are not there."""
    found = run.proxy
    if found is None or not found.complete:
        default = (
            "not measured for this run; `nanosd proxy RUN` distils some of its candidates longer and draws it here"
        )
        return page.section("proxy", _TITLE, _LEAD, page.missing(run.missing.get("proxy", default)))
    try:
        chart = page.figure(brief_vs_long(found), "proxy")
    except ValueError as error:
        chart = page.missing(f"{error}")
    head = ("latent error", "Kendall's tau", "Spearman's rho", "time a candidate")
    body = [
        [
            "as assembled" if not steps else f"after {steps:,} steps",
            _tau(agreement(found, steps)),
            _number(agreement(found, steps).spearman),
            _seconds(found, steps),
        ]
        for steps in (0, *found.steps)
    ]
    table = page.table(head, body, [False, True, True, True])
    said = [page.missing(f"Warning: {sentence}") for sentence in warnings(found)]
    return page.section("proxy", _TITLE, _LEAD, *said, page.side_by_side(chart, table), page.notes(_notes(found)))


def _notes(found: Proxy) -> list[str]:
    incomplete = len(found.candidates) - len(found.complete)
    rest = f"; {incomplete} more are not finished (`nanosd proxy` goes on)" if incomplete else ""
    return [
        advice(found),
        f"{counted(len(found.complete), 'candidate')}{rest}; in grey 95 % intervals of tau. 1 is the same order as "
        f"after {found.long_steps:,} steps, 0 none; below {TRUSTED:g} a score does not stand for the finished model.",
        f"The teacher's {found.teacher_passes:,} passes, for all candidates, took {duration(found.teacher_seconds)}.",
    ]


def _tau(each: Agreement) -> str:
    small = "" if each.low is None else f"<small>{each.low:.2f} to {each.high:.2f}</small>"
    return f"<span>{_number(each.kendall)}{small}</span>"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _seconds(found: Proxy, steps: int) -> str:
    from statistics import median

    taken = [m.seconds for c in found.complete if (m := c.at(steps)) is not None and m.reason is None]
    return duration(median(taken)) if steps and taken else NONE
