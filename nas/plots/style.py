"""One look for all figures: palette, axes, hover text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nas.plots.format import count, error, milliseconds, words_text

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from nas.run_data import Candidate

# Okabe and Ito's palette: its colours stay apart in every common colour blindness. Each pick has its own symbol
# too, from the few that 3-D charts draw without a special font (their x is an emoji).
BLUE, SKY, GREEN, ORANGE, VERMILLION, PURPLE = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7"
INK, GREY, FAINT, GRID = "#1b1f24", "#7a828c", "#c3c9d0", "#e8ebee"
PICK_MARKS: tuple[tuple[str, str], ...] = (
    (VERMILLION, "diamond"),
    (GREEN, "square"),
    (ORANGE, "circle"),
    (PURPLE, "diamond-open"),
    (INK, "square-open"),
    (SKY, "diamond"),
    (VERMILLION, "circle-open"),
)
GLYPHS = {
    "diamond": "◆",
    "square": "■",
    "circle": "●",
    "diamond-open": "◇",
    "square-open": "□",
    "circle-open": "○",
    "cross": "✚",
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
SEQUENTIAL = "Cividis"

#: Objective -> (axis title with unit, how a tick of a log axis is written).
AXES: dict[str, tuple[str, Callable[[float], str]]] = {
    "latent_error": ("latent error (relative)", "{:g}".format),
    "latency_ms": ("predicted latency (ms)", "{:g}".format),
    "num_params": ("parameters", lambda value: count(value).replace(".00", "").replace(".0", "")),
}
#: A range wider than this is drawn on a log axis.
LOG_RATIO = 8.0
#: A log axis reaches this factor beyond its values.
LOG_MARGIN = 1.25


def log_floor(values: Sequence[float]) -> list[float]:
    """Values for a log axis: zeros (an exact copy of the teacher) move to half the smallest positive value."""
    positive = [v for v in values if v > 0]
    floor = min(positive) / 2 if positive else 1.0
    return [v if v > 0 else floor for v in values]


def ticks(low: float, high: float) -> list[float]:
    """1-2-5 ticks of a log axis within [low, high]; whole decades only where those would crowd."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low <= 500 else (1, 3) if high / low <= 5e3 else (1,)
    return [step * 10.0**exponent for exponent in decades for step in steps if low <= step * 10.0**exponent <= high]


def is_log(values: Sequence[float]) -> bool:
    """Whether an axis of these values is logarithmic: all positive and spanning more than LOG_RATIO."""
    return bool(values) and min(values) > 0 and max(values) > LOG_RATIO * min(values)


def floor(values: Sequence[float]) -> float:
    """Where the axis of these values begins."""
    return min(values) / LOG_MARGIN if is_log(values) else 0.0


def axis(
    title: str, values: Iterable[float], write: Callable[[float], str] = "{:g}".format, **options: Any
) -> dict[str, Any]:
    """An axis of the house: unit in the title, light grid, log where positive values span more than LOG_RATIO.

    The ticks of a log axis are written out, because plotly labels those between decades with a bare digit.
    """
    look: dict[str, Any] = {
        "title": {"text": title, "standoff": 8},
        "gridcolor": GRID,
        "linecolor": FAINT,
        "zeroline": False,
        "automargin": True,
    }
    values = list(values)
    if is_log(values):
        low, high = min(values) / LOG_MARGIN, max(values) * LOG_MARGIN
        at = ticks(low, high)
        labels = [write(tick) for tick in at]
        look |= {"type": "log", "range": [math.log10(low), math.log10(high)], "tickvals": at, "ticktext": labels}
    return look | options


def layout(figure: go.Figure, height: int, **options: Any) -> go.Figure:
    """Apply the common layout; returns the same figure."""
    figure.update_layout(
        {
            "template": "none",
            "height": height,
            "font": {"family": FONT, "size": 13, "color": INK},
            "margin": {"l": 56, "r": 16, "t": 20, "b": 48},
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "font": {"size": 12}},
            "hoverlabel": {
                "bgcolor": "white",
                "bordercolor": FAINT,
                "font": {"size": 12, "family": FONT},
                "align": "left",
            },
        }
    )
    figure.update_layout(options)
    return figure


def hover(candidate: Candidate, name: str | None = None) -> str:
    """Hover text of a candidate: id, words per stage, costs, errors."""
    lines = [f"<b>{name or 'candidate'}</b> {candidate.candidate_id}", words_text(candidate.words)]
    lines.append(
        f"{count(candidate.num_params)} parameters, {count(candidate.num_macs)} MACs, "
        f"{milliseconds(candidate.latency_ms)} predicted"
    )
    scores: Mapping[str, float | None] = {
        "latent error": candidate.latent_error,
        "noise error": candidate.noise_error,
        "taFID": candidate.tafid,
    }
    lines.append(", ".join(f"{key} {error(value)}" for key, value in scores.items() if value is not None))
    return "<br>".join(line for line in lines if line)


def pick_marks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and symbol of each pick, by its place in the list."""
    return {name: PICK_MARKS[index % len(PICK_MARKS)] for index, name in enumerate(names)}
