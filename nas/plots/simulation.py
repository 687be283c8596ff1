"""Figures of a simulated sweep with few and with many workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nas.plots import style

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from nas.search.simulation_study import Simulation, WithWorkers

_COLORS = (style.BLUE, style.ORANGE, style.GREEN, style.VERMILLION, style.PURPLE, style.SKY, style.INK)
_DASHES = ("solid", "dash", "dot", "dashdot")
# Shares below this are drawn as this: a log axis has no zero.
_LEAST_MISSING_PCT = 0.01
# Room for a legend of two lines, which a narrow screen needs.
_MARGIN = {"l": 56, "r": 16, "t": 52, "b": 48}


def missing_over_time(found: Simulation) -> go.Figure:
    """Hypervolume still missing over simulated hours, one line a number of workers."""
    return _lines(found, "hours", "simulated hours")


def missing_over_evaluations(found: Simulation) -> go.Figure:
    """Hypervolume still missing over ended evaluations."""
    return _lines(found, "evaluations", "evaluations ended")


def busy_over_time(found: Simulation) -> go.Figure:
    """Share of the workers that evaluate something over simulated hours."""
    figure = _figure()
    for number, each in enumerate(found.workers):
        percent = [100 * share for share in each.over_time.busy]
        figure.add_scatter(x=each.over_time.hours, y=percent, **_line(number, each, "%{x:.3g} h: %{y:.0f} % busy"))
    hours = [h for each in found.workers for h in each.over_time.hours]
    return style.layout(
        figure,
        340,
        margin=_MARGIN,
        xaxis=style.axis("simulated hours", hours),
        yaxis=style.axis("workers evaluating (%)", [0, 100], range=[0, 104]),
    )


def hours_by_workers(found: Simulation, share: str) -> go.Figure:
    """Hours to a share of the hypervolume by number of workers, and what perfect division of the work would give."""
    reached = [
        (each.num_workers, time) for each in found.workers if (time := each.reached[share].hours.median) is not None
    ]
    figure = _figure()
    if reached:
        first, base = reached[0]
        ideal = [base * first / number for number, _ in reached]
        numbers = [number for number, _ in reached]
        hours = [value for _, value in reached]
        figure.add_scatter(
            x=numbers, y=ideal, name="perfect division", mode="lines", line={"color": style.GREY, "dash": "dot"}
        )
        figure.add_scatter(
            x=numbers,
            y=hours,
            name=f"to {100 * float(share):g} %",
            mode="lines+markers",
            line={"color": style.BLUE},
            hovertemplate="%{x} workers: %{y:.3g} h<extra></extra>",
        )
        figure.update_layout(
            xaxis=style.axis("workers", numbers), yaxis=style.axis("simulated hours", [*hours, *ideal])
        )
    return style.layout(figure, 320)


def _lines(found: Simulation, along: str, title: str) -> go.Figure:
    figure = _figure()
    every: list[float] = []
    least = 100.0
    for number, each in enumerate(found.workers):
        x = getattr(each.over_time, along)
        missing = [max(_LEAST_MISSING_PCT, 100 * (1 - share)) for share in each.over_time.hypervolume]
        # Before anything has ended there is no news.
        points = [(a, b) for a, b, n in zip(x, missing, each.over_time.evaluations, strict=True) if n > 0]
        every += [a for a, _ in points]
        least = min(least, *missing)
        figure.add_scatter(
            x=[a for a, _ in points],
            y=[b for _, b in points],
            **_line(number, each, "%{x:.3g}: %{y:.2f} % missing", shape="hv"),
        )
    for share in (95, 99):
        figure.add_hline(y=100 - share, line={"color": style.FAINT, "width": 1, "dash": "dot"})
    figure.update_layout(
        xaxis=style.axis(title, every), yaxis=style.axis("hypervolume still missing (%)", [min(least, 1.0), 100])
    )
    return style.layout(figure, 380, margin=_MARGIN)


def _line(number: int, each: WithWorkers, hover: str, shape: str = "linear") -> dict[str, Any]:
    return {
        "name": workers_text(each.num_workers),
        "mode": "lines",
        "line": {
            "color": _COLORS[number % len(_COLORS)],
            "dash": _DASHES[number // len(_COLORS) % len(_DASHES)],
            "width": 2,
            "shape": shape,
        },
        "hovertemplate": f"{workers_text(each.num_workers)}, {hover}<extra></extra>",
    }


def workers_text(number: int) -> str:
    """`1 worker`, `1,000 workers`."""
    return f"{number:,} worker{'' if number == 1 else 's'}"


def _figure() -> go.Figure:
    import plotly.graph_objects as go

    return go.Figure()
