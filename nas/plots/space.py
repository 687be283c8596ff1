"""Figures of a search space: its stage options, and where the teacher's cost lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nas.plots import style
from nas.plots.format import count, milliseconds, percent

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from nas.space_profile import SpaceProfile, StageOptionCost

#: Colours of the stages in the order of the data; a pair such as E1 and D1 shares one.
_COLOURS = (style.BLUE, style.GREEN, style.ORANGE, style.PURPLE, style.SKY, style.VERMILLION)
_DARK = (style.BLUE, style.GREEN, style.VERMILLION)
_CLASSES = {
    "conv3x3": "3x3 convolutions",
    "pointwise": "1x1 convolutions",
    "depthwise": "depthwise convolutions",
    "linear": "linear layers",
    "attention": "attention products",
}


def stage_options(profile: SpaceProfile) -> go.Figure:
    """Parameters against latency of every stage option; against MACs where no device profile is given.

    Encoder stages are circles, decoder stages diamonds, everything else squares. What has no parameters (a dropped
    stage) is left out.
    """
    import plotly.graph_objects as go

    by_latency = any(option.latency_ms for option in profile.options)
    figure = go.Figure()
    shown_x, shown_y = [], []
    stages = list(dict.fromkeys(option.stage for option in profile.options))
    colours = _colours(stages)
    for stage in stages:
        points = [
            (option, option.latency_ms if by_latency else option.num_macs)
            for option in profile.options
            if option.stage == stage
        ]
        drawn = [(option, x) for option, x in points if x and option.num_params]
        symbol = {"E": "circle", "D": "diamond"}.get(stage[0] if stage[1:].isdigit() else "", "square")
        shown_x += [x for _, x in drawn]
        shown_y += [option.num_params for option, _ in drawn]
        many = len(drawn) > 50
        figure.add_scatter(
            x=[x for _, x in drawn],
            y=[option.num_params for option, _ in drawn],
            mode="markers",
            name=stage,
            marker={
                "color": colours[stage],
                "symbol": symbol,
                "size": 6 if many else 10,
                "opacity": 0.55 if many else 0.85,
                "line": {
                    "color": [style.INK if option.is_teachers else "white" for option, _ in drawn],
                    "width": [2 if option.is_teachers else 0.5 if many else 1 for option, _ in drawn],
                },
            },
            text=[_hover(option) for option, _ in drawn],
            hovertemplate="%{text}<extra></extra>",
            visible=bool(drawn),
        )
    title = "latency of the stage alone (ms)" if by_latency else "MACs of one pass"
    number = "{:g}".format if by_latency else lambda value: count(value).replace(".00", "").replace(".0", "")
    return style.layout(
        figure,
        460,
        xaxis=style.axis(title, shown_x, number),
        yaxis=style.axis("parameters", shown_y, lambda value: count(value).replace(".00", "").replace(".0", "")),
    )


def teacher_treemap(profile: SpaceProfile) -> go.Figure:
    """Treemap of the teacher: stages by MACs and, inside, operator classes; buttons show parameters and latency."""
    import plotly.graph_objects as go

    figure = go.Figure()
    measures: list[tuple[str, dict[str, dict[str, float]]]] = [
        ("MACs", {stage: {k: float(v) for k, v in kinds.items()} for stage, kinds in profile.kernel_macs.items()}),
        ("parameters", {stage: {"": float(value)} for stage, value in profile.teacher_params.items()}),
    ]
    if profile.teacher_latency_ms:
        measures.append(("latency", {stage: {"": value} for stage, value in profile.teacher_latency_ms.items()}))
    colours_of = {"base": style.FAINT, **_colours([stage for stage in profile.kernel_macs if stage != "base"])}
    for number, (measure, parts) in enumerate(measures):
        total = sum(value for kinds in parts.values() for value in kinds.values())
        ids, labels, parents, values, texts, colours = ["teacher"], ["teacher"], [""], [total], [""], ["white"]
        texts[0] = _written(measure, total)
        for stage, kinds in parts.items():
            whole = sum(kinds.values())
            if not whole:
                continue
            colour = colours_of[stage]
            ids.append(stage)
            labels.append("in no stage" if stage == "base" else stage)
            parents.append("teacher")
            values.append(whole)
            texts.append(f"{_written(measure, whole)}, {percent(100 * whole / total)}")
            colours.append(colour)
            for kind, value in kinds.items():
                if kind:
                    ids.append(f"{stage}/{kind}")
                    labels.append(_CLASSES.get(kind, kind))
                    parents.append(stage)
                    values.append(value)
                    texts.append(f"{_written(measure, value)}, {percent(100 * value / total)}")
                    colours.append(colour)
        figure.add_treemap(
            ids=ids,
            labels=labels,
            parents=parents,
            values=values,
            text=texts,
            branchvalues="total",
            textinfo="label+text",
            hovertemplate="<b>%{label}</b><br>%{text}<extra></extra>",
            marker={"colors": colours, "line": {"color": "white", "width": 1}},
            textfont={"color": ["white" if colour in _DARK else style.INK for colour in colours]},
            tiling={"pad": 2},
            root={"color": "white"},
            sort=True,
            visible=number == 0,
        )
    buttons = [
        {
            "label": measure,
            "method": "update",
            "args": [{"visible": [i == number for i in range(len(measures))]}],
        }
        for number, (measure, _) in enumerate(measures)
    ]
    return style.layout(
        figure,
        480,
        margin={"l": 8, "r": 8, "t": 48, "b": 8},
        uniformtext={"minsize": 10, "mode": "hide"},
        updatemenus=[
            {
                "type": "buttons",
                "direction": "right",
                "buttons": buttons,
                "x": 0,
                "xanchor": "left",
                "y": 1.0,
                "yanchor": "bottom",
                "pad": {"b": 6},
                "showactive": True,
            }
        ],
    )


def _hover(option: StageOptionCost) -> str:
    lines = [f"<b>{option.stage}</b> {option.option}{' (teacher)' if option.is_teachers else ''}"]
    costs = [f"{count(option.num_params)} parameters", f"{count(option.num_macs)} MACs"]
    if option.latency_ms is not None:
        costs.append(milliseconds(option.latency_ms))
    return "<br>".join([*lines, ", ".join(costs)])


def _colours(stages: Sequence[str]) -> dict[str, str]:
    groups = list(dict.fromkeys(_pair(stage) for stage in stages))
    return {stage: _COLOURS[groups.index(_pair(stage)) % len(_COLOURS)] for stage in stages}


def _pair(stage: str) -> str:
    return stage[1:] if stage[1:].isdigit() else stage


def _written(measure: str, value: float) -> str:
    return milliseconds(value) if measure == "latency" else f"{count(value)} {measure}"
