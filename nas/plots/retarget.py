"""A run's front on two devices, and how the ranks change between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from nas.plots import style
from nas.plots.format import count, error, milliseconds, words_text

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from nas.run.retarget import Move, Moved, Place, Retargeted

Side = Literal["here", "there"]
Kind = Literal["same", "stays", "enters", "leaves", "off"]

#: Move -> (colour, symbol, in words), drawn in this order.
LOOKS: dict[Move, tuple[str, str, str]] = {
    "off": (style.FAINT, "circle", "on neither front"),
    "stays": (style.BLUE, "circle", "stays on the front"),
    "leaves": (style.VERMILLION, "square", "leaves it"),
    "enters": (style.GREEN, "diamond", "enters it"),
}


#: The same of a line of the ranks, in this order; "same": neither enters, leaves nor changes its rank for certain.
RANK_LOOKS: dict[Kind, tuple[str, str, str]] = {
    "same": (style.FAINT, "circle", "stays, no certain change of rank"),
    "stays": (style.BLUE, "circle", "stays, its rank changes"),
    "leaves": LOOKS["leaves"],
    "enters": LOOKS["enters"],
}


def kind(candidate: Moved) -> Kind:
    """Which of :data:`RANK_LOOKS` a candidate of either front has."""
    is_level = candidate.here.front_rank == candidate.there.front_rank
    return "same" if candidate.move == "stays" and (is_level or candidate.rank_tie) else candidate.move


def device_front(result: Retargeted, side: Side) -> go.Figure:
    """Latent error against latency on one of the devices, with 90 % intervals of the candidates on either front."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for move, (color, symbol, name) in LOOKS.items():
        points = result.moved(move)
        places = [_place(c, side) for c in points]
        bars: dict[str, Any] = {
            "type": "data",
            "symmetric": False,
            "array": [p.high_ms - p.latency_ms for p in places],
            "arrayminus": [p.latency_ms - p.low_ms for p in places],
            "thickness": 1,
            "width": 0,
            "color": _faded(color),
        }
        figure.add_scatter(
            x=[p.latency_ms for p in places],
            y=style.log_floor([c.latent_error for c in points]),
            mode="markers",
            name=name,
            marker={"color": color, "symbol": symbol, "size": 6 if move == "off" else 9},
            error_x=bars if move != "off" else None,
            text=[_hover(c) for c in points],
            hovertemplate="%{text}<extra></extra>",
            visible=bool(points),
        )
    shown = [ms for c in result.on_either_front for p in [_place(c, side)] for ms in (p.low_ms, p.high_ms)]
    shown += [_place(c, side).latency_ms for c in result.candidates]
    errors = style.log_floor([c.latent_error for c in result.candidates])
    style.layout(figure, height=380, showlegend=False)
    title, write = style.AXES["latent_error"]
    figure.update_layout(xaxis=style.axis("latency (ms)", shown, "{:g}".format), yaxis=style.axis(title, errors, write))
    return figure


def rank_changes(result: Retargeted) -> go.Figure:
    """Latency ranks of the candidates on either front on both devices, one line each; 1, the fastest, on top.

    Lines that say nothing (kind "same") are thin and grey and lie below the others. A line is dotted where its
    change is within the intervals. Picks on either device are named beside their line.
    """
    import plotly.graph_objects as go

    lines = result.on_either_front
    figure = go.Figure()
    for candidate in sorted(lines, key=lambda c: list(RANK_LOOKS).index(kind(c))):
        color, symbol, name = RANK_LOOKS[kind(candidate)]
        is_same = kind(candidate) == "same"
        is_level = candidate.here.front_rank == candidate.there.front_rank
        is_tie = candidate.front_tie or (candidate.rank_tie and not is_level)
        width = 1.0 if is_same else 1.5 if is_tie else 2.5
        figure.add_scatter(
            x=[0, 1],
            y=[candidate.here.front_rank, candidate.there.front_rank],
            mode="lines+markers",
            name=name,
            line={"color": color, "width": width, "dash": "dot" if is_tie else "solid"},
            marker={
                "color": style.GREY if is_same else color,
                "symbol": symbol,
                "size": 4 if is_same else 8,
            },
            text=[_hover(candidate)] * 2,
            hovertemplate="%{text}<extra></extra>",
        )
    sides: tuple[tuple[Side, int, str], ...] = (("here", 0, "right"), ("there", 1, "left"))
    for side, x, anchor in sides:
        for picked, names in _picked(result, side).items():
            rank = _place(result.find(picked), side).front_rank
            shift = -10 if side == "here" else 10
            figure.add_annotation(
                x=x, y=rank, text=names, showarrow=False, xanchor=anchor, xshift=shift, font={"size": 12}
            )
    ends = [0.5, len(lines) + 0.5]
    style.layout(figure, height=140 + 17 * len(lines), showlegend=False, hovermode="closest")
    figure.update_layout(
        xaxis={
            "range": [-0.35, 1.35],
            "tickvals": [0, 1],
            "ticktext": ["here", "there"],
            "side": "top",
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
        },
        yaxis=style.axis("latency rank among both fronts", [], range=ends[::-1], showgrid=False, dtick=5, tick0=0),
        margin={"l": 56, "r": 16, "t": 44, "b": 16},
    )
    return figure


def _picked(result: Retargeted, side: Side) -> dict[str, str]:
    """Candidate id to the names of the picks that chose it."""
    names: dict[str, list[str]] = {}
    for name, pick in (result.picks_here if side == "here" else result.picks_there).items():
        names.setdefault(pick.candidate, []).append(name)
    return {candidate: ", ".join(found) for candidate, found in names.items()}


def _place(candidate: Moved, side: Side) -> Place:
    return candidate.here if side == "here" else candidate.there


def _hover(candidate: Moved) -> str:
    def place(where: str, p: Place) -> str:
        interval = f"{milliseconds(p.low_ms)} to {milliseconds(p.high_ms)}"
        return f"{where} {milliseconds(p.latency_ms)} ({interval}), rank {p.rank}"

    lines: Sequence[str] = (
        f"<b>{candidate.candidate}</b>",
        words_text(candidate.options),
        f"{count(candidate.num_params)} parameters, latent error {error(candidate.latent_error)}",
        place("here", candidate.here),
        place("there", candidate.there),
        LOOKS[candidate.move][2] + (", within the intervals" if candidate.front_tie else ""),
    )
    return "<br>".join(lines)


def _faded(color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.35)"
