"""The page of `nanosd retarget`: a run's front on two devices, self-contained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from latency_predictors.information import INFORMATION
from nas.latency import trust
from nas.plots import style
from nas.plots.format import NONE, count, error, milliseconds
from nas.report import page

if TYPE_CHECKING:
    from nas.latency import DeviceFacts
    from nas.plots.retarget import Side
    from nas.run.retarget import Moved, Place, Retargeted


def write_retarget_page(result: Retargeted, path: Path) -> Path:
    """Write the page atomically; returns its path."""
    from nas.atomic import write_bytes

    return write_bytes(path, render_retarget(result).encode())


def render_retarget(result: Retargeted) -> str:
    """The whole page as HTML."""
    parts = (
        _head(result),
        _fronts(result),
        _ranks(result),
        _picks(result),
        _table(result),
        _next(result),
        _from(result),
    )
    return page.page(f"{Path(result.run).name} on {result.there.device}", "\n".join(parts))


def sentences(result: Retargeted) -> list[str]:
    """What to know before reading figures: what the latencies there are, and where the profile does not hold."""
    return trust(result.there, result.num_extrapolating, len(result.candidates))


def moves_sentence(result: Retargeted) -> str:
    """How many stay, enter and leave, and how many of these moves are ties."""
    stays, enters, leaves = (result.moved(move) for move in ("stays", "enters", "leaves"))
    ties = sum(c.front_tie for c in (*enters, *leaves))
    tied = f"; {ties} of these moves {'is' if ties == 1 else 'are'} within the intervals" if ties else ""
    return f"{len(stays)} stay on the front, {len(enters)} enter it, {len(leaves)} leave it{tied}."


def kendall_sentence(result: Retargeted) -> str:
    """Rank correlation between the devices."""
    figures = (
        ("over all evaluated candidates", result.kendall_all),
        ("over those on either front", result.kendall_front),
        ("over the whole space", result.kendall_space),
    )
    said = ", ".join(f"{tau:.2f} {where}" for where, tau in figures if tau is not None)
    return f"Kendall's tau of the latencies on both devices: {said} (1: the same order)." if said else ""


def interval(place: Place) -> str:
    """`12.1 ms (10.2 to 14.4)`."""
    low, high = (milliseconds(v).removesuffix(" ms") for v in (place.low_ms, place.high_ms))
    return f"{milliseconds(place.latency_ms)} ({low} to {high})"


def ranks(candidate: Moved) -> str:
    """`12 → 9`, with `tie` where the change is within the intervals."""
    here, there = candidate.here.rank, candidate.there.rank
    return f"{here} → {there}{' tie' if candidate.rank_tie else ''}" if here != there else str(here)


def move(candidate: Moved) -> str:
    """The move in a word, `tie` where it is within the intervals."""
    return f"{candidate.move}{' (tie)' if candidate.front_tie else ''}"


def _head(result: Retargeted) -> str:
    def size(side: str) -> int:
        return sum(getattr(c, side).on_front for c in result.candidates)

    titles = result.titles
    tiles = [
        ("here", *_tile(result.here, titles[0])),
        ("there", *_tile(result.there, titles[1])),
        ("evaluated", str(len(result.candidates)), "candidates, none trained again"),
        ("front", f"{size('here')} → {size('there')}", "candidates, here and there"),
        (
            "same order",
            NONE if result.kendall_all is None else f"{result.kendall_all:.2f}",
            "Kendall's tau, 1: the same",
        ),
    ]
    first, *rest = sentences(result)
    return (
        f"<h1>{page.text(Path(result.run).name)} on another device</h1>"
        f'<p class="lead">{page.text(first)}</p>{"".join(map(page.missing, rest))}{page.facts(tiles)}'
    )


def _tile(facts: DeviceFacts, title: str) -> tuple[str, str]:
    """The device, and in small print what else its profile is known by."""
    return facts.device, f"{facts.details}{title.removeprefix(facts.title)}"


def _fronts(result: Retargeted) -> str:
    from nas.plots.retarget import LOOKS, device_front

    lead = (
        f"{moves_sentence(result)} A candidate is on the front where no other is at least as good in latent error, "
        "latency and parameters; bars are 90 % intervals. Latency alone differs between the two charts."
    )
    key = page.key(
        (style.GLYPHS[symbol], color, f"{name} ({len(result.moved(move))})")
        for move, (color, symbol, name) in LOOKS.items()
    )
    here, there = result.titles
    sides: tuple[tuple[Side, str, str], ...] = (("here", "Here", here), ("there", "There", there))
    charts = [
        f"<h3>{name}: {page.text(title)}</h3>{page.figure(device_front(result, side), f'front-{side}')}"
        for side, name, title in sides
    ]
    return page.section("fronts", "The front on both devices", page.text(lead), key, page.side_by_side(*charts))


def _ranks(result: Retargeted) -> str:
    from nas.plots.retarget import RANK_LOOKS, kind, rank_changes

    lead = (
        "Latency ranks of the candidates on either front, the fastest on top; dotted where the change is within the "
        f"intervals, thin where nothing is known to change. {kendall_sentence(result)}"
    )
    looks = [(name, look, sum(kind(c) == name for c in result.on_either_front)) for name, look in RANK_LOOKS.items()]
    key = page.key((style.GLYPHS[symbol], color, f"{text} ({num})") for _, (color, symbol, text), num in looks if num)
    return page.section("ranks", "Whose rank changed", page.text(lead), key, page.figure(rank_changes(result), "ranks"))


def _picks(result: Retargeted) -> str:
    lead = "The same rules on both devices" + (
        f"; within {result.latency_budget:g} ms there." if result.latency_budget is not None else "."
    )
    names = list(dict.fromkeys([*result.picks_here, *result.picks_there]))
    rows = []
    for name in names:
        was, now = result.picks_here.get(name), result.picks_there.get(name)
        same = was is not None and now is not None and was.candidate == now.candidate
        rows.append(
            [
                page.text(name),
                _pick(result, was.candidate if was else None, "here"),
                "the same" if same else _pick(result, now.candidate if now else None, "there"),
                milliseconds(result.find(was.candidate).there.latency_ms) if was else NONE,
                milliseconds(now.latency_ms) if now else NONE,
            ]
        )
    head = ("pick", "was", "is there", "the old one there", "the new one there")
    table = page.table(head, rows, [False, False, False, True, True], cards=True)
    return page.section("picks", "The picks", page.text(lead), table)


def _pick(result: Retargeted, candidate: str | None, side: str) -> str:
    if candidate is None:
        return NONE
    found = result.find(candidate)
    ms = milliseconds(getattr(found, side).latency_ms)
    return (
        f"<span><code>{page.text(candidate)}</code><small>{ms} {side}, {count(found.num_params)} parameters, "
        f"latent error {error(found.latent_error)}</small></span>"
    )


def _table(result: Retargeted) -> str:
    lead = (
        "Ranks are among all evaluated candidates. Two candidates tie where the latency of one lies within the 90 % "
        "interval of the other; a change that ties alone could undo says so."
    )
    rows = [
        [
            f"<code>{page.text(c.candidate)}</code>",
            error(c.latent_error),
            count(c.num_params),
            interval(c.here),
            interval(c.there),
            ranks(c),
            move(c),
        ]
        for c in result.on_either_front
    ]
    head = ("candidate", "latent error", "parameters", "latency here", "latency there", "rank", "front")
    table = page.table(head, rows, [False] + [True] * 5 + [False])
    order = page.notes([f"Words of a candidate stand in the order {' - '.join(result.candidates[0].options)}."])
    return page.section("candidates", "Both fronts as a table", page.text(lead), order + table)


def _next(result: Retargeted) -> str:
    title = "Worth evaluating next"
    if result.promising_missing is not None:
        return page.section("next", title, "Candidates never evaluated.", page.missing(result.promising_missing))
    lead = (
        "Candidates of the whole space that were never evaluated and that would be on the front there if their "
        "predicted errors hold: those that add most to its hypervolume, one after the other."
    )
    if not result.promising:
        return page.section(
            "next", title, lead, page.missing("no unevaluated candidate is predicted to be on that front")
        )
    ratio = result.prior_ratio
    how = (
        f"Predicted error: the sum of the run's single-swap errors times {ratio:.2f}, the median of measured over "
        "summed errors of the evaluated candidates. Gain: share of the box that the front's hypervolume is a part of."
    )
    rows = [
        [
            f"<code>{page.text(c.candidate)}</code>",
            error(c.predicted_error),
            f"{milliseconds(c.latency_ms)} ({milliseconds(c.low_ms).removesuffix(' ms')} to "
            f"{milliseconds(c.high_ms).removesuffix(' ms')})",
            count(c.num_params),
            f"{c.gain:.2g}",
        ]
        for c in result.promising
    ]
    head = ("candidate", "predicted error", "latency there", "parameters", "gain")
    return page.section("next", title, lead, page.table(head, rows, [False] + [True] * 4), page.notes([how]))


def _from(result: Retargeted) -> str:
    rows: list[tuple[str, object]] = [("run", result.run), ("search space", result.space)]
    for side, facts, title in (("here", result.here, result.titles[0]), ("there", result.there, result.titles[1])):
        rows += [
            (side, title),
            (f"{side}: file", facts.file or NONE),
            (f"{side}: runtime", facts.runtime),
            (f"{side}: fitted to", INFORMATION[facts.fitted_from]),
            (f"{side}: error", facts.error or NONE),
            *((f"{side}: note", note) for note in facts.notes),
        ]
    return page.section("profiles", "The two profiles", "What both latencies come from.", page.pairs(rows))
