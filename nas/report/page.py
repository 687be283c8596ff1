"""The report's page: style, and the few HTML pieces it is made of. Every text that comes from a run is escaped."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go

#: Images are shown this wide at most, so larger ones (512 pixels for SD 1.5) are embedded at twice it.
MAX_IMAGE_PIXELS = 256

#: Figures follow their own width: plotly by itself follows the window only, and is too wide where a page gets narrower
#: without it, as by a scroll bar or in print.
_REFIT = (
    "document.querySelectorAll('.js-plotly-plot').forEach("
    "figure=>new ResizeObserver(()=>figure.clientWidth&&Plotly.relayout(figure,{width:figure.clientWidth}))"
    ".observe(figure))"
)


def text(value: object) -> str:
    """Escape for HTML."""
    return html.escape(str(value))


def section(anchor: str, title: str, lead: str, *parts: str) -> str:
    """A section with its one-sentence explanation (`lead` is HTML)."""
    body = "\n".join(part for part in parts if part)
    return f'<section id="{anchor}"><h2>{text(title)}</h2><p class="lead">{lead}</p>\n{body}</section>'


def missing(sentence: str) -> str:
    """What stands in place of a part that the run does not have."""
    return f'<p class="missing">{text(sentence)}</p>'


def facts(rows: Iterable[tuple[str, str, str]]) -> str:
    """Tiles of (label, value, small print)."""
    tiles = ""
    for label, value, small in rows:
        # A processor's name is a sentence.
        kind = ' class="long"' if len(value) > 14 else ""
        below = f"<small>{text(small)}</small>" if small else ""
        tiles += f"<div><dt>{text(label)}</dt><dd{kind}>{text(value)}{below}</dd></div>"
    return f'<dl class="facts">{tiles}</dl>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[bool], cards: bool = False) -> str:
    """A table; cells are HTML. With `cards`, a narrow screen shows each row as a card."""
    kinds = ['class="n"' if number else "" for number in numeric]
    top = "".join(f"<th {kind}>{text(name)}</th>" for name, kind in zip(head, kinds, strict=True))
    lines = "".join(
        "<tr>"
        + "".join(
            f'<td {kind} data-label="{text(name)}">{cell}</td>'
            for name, kind, cell in zip(head, kinds, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return wide(top, lines, "cards" if cards else "plain")


def wide(head: str, rows: str, kind: str) -> str:
    """A table of ready cells and rows that scrolls by itself where the screen is too narrow for it."""
    return f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def pairs(rows: Iterable[tuple[str, object]]) -> str:
    """A two-column table of facts."""
    lines = "".join(f"<tr><td>{text(key)}</td><td><code>{text(value)}</code></td></tr>" for key, value in rows)
    return f"<table><tbody>{lines}</tbody></table>"


def words(options: Mapping[str, str]) -> str:
    """Words per stage as a small grid."""
    cells = "".join(
        f"<span><b>{text(s)}</b>{text('dropped' if word == 'none' else word)}</span>" for s, word in options.items()
    )
    return f'<div class="words">{cells}</div>'


def notes(sentences: Iterable[str]) -> str:
    """Small print, one sentence a line."""
    return '<p class="lead"><small>' + "<br>".join(map(text, sentences)) + "</small></p>"


def key(rows: Iterable[tuple[str, str, str]]) -> str:
    """A legend of (glyph, colour, label) shared by several figures."""
    return (
        '<div class="key">'
        + "".join(f'<span><i style="color:{c}">{g}</i>{text(n)}</span>' for g, c, n in rows)
        + "</div>"
    )


def details(summary: str, body: str) -> str:
    """A part that opens on demand."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def side_by_side(*bodies: str) -> str:
    """Two or three parts next to each other, below each other on a narrow screen."""
    return (
        f'<div class="grid {"two" if len(bodies) == 2 else "three"}">'
        + "".join(f"<div>{body}</div>" for body in bodies)
        + "</div>"
    )


def figure(fig: go.Figure, name: str, on_phone: str | None = None) -> str:
    """A figure as HTML without plotly.js, which the page holds once.

    `name` names the element; `on_phone` is a JavaScript object of layout changes for a narrow screen.
    """
    script = f"if(innerWidth<600)Plotly.relayout('figure-{name}',{on_phone});" if on_phone else None
    config = {"responsive": True, "displaylogo": False, "displayModeBar": False, "showTips": False}
    body = fig.to_html(
        full_html=False, include_plotlyjs=False, config=config, div_id=f"figure-{name}", post_script=script
    )
    return str(body)


def image(path: Path, label: str) -> str:
    """An image inline, as PNG of at most MAX_IMAGE_PIXELS a side."""
    from PIL import Image

    with Image.open(path) as picture:
        picture.load()
        small = picture.convert("RGB")
    small.thumbnail((MAX_IMAGE_PIXELS, MAX_IMAGE_PIXELS))
    buffer = io.BytesIO()
    small.save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{text(label)}" width="{small.width}" height="{small.height}">'


def page(title: str, body: str) -> str:
    """The whole offline page; plotly.js stands in it exactly once."""
    from plotly.offline import get_plotlyjs

    css = (resources.files(__package__) / "report.css").read_text(encoding="utf-8")
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{text(title)}</title><link rel="icon" href="data:,"><style>{css}</style>
<script>{get_plotlyjs()}</script></head>
<body><main>
{body}
</main><script>{_REFIT}</script></body></html>
"""
