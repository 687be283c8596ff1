"""The report's section of the front, and what sections say of the candidates that they draw."""

from __future__ import annotations

from nas import plots
from nas.plots import data, style
from nas.plots.format import NONE, count, error, milliseconds
from nas.report import page
from nas.run_data import RunData


def front(run: RunData) -> str:
    """The three-objective front and its projections."""
    lead = (
        "Candidates that no other one beats in latent error, latency and parameters at once; all three are better "
        "when smaller. Point at a mark for the candidate's id, words and costs; drag to turn."
    )
    if not run.done:
        return page.section("front", "The front", lead, no_candidates(run))
    found = data.front_data(run)
    key = page.key(
        [
            ("●", style.BLUE, f"on the front ({found.num_front:,})"),
            ("●", style.FAINT, f"dominated ({found.num_dominated:,})"),
        ]
        + [(style.GLYPHS[symbol], color, name) for name, (color, symbol) in style.pick_marks(list(found.picks)).items()]
        + [(style.GLYPHS[symbol], color, name) for name, color, symbol in plots.FINISHED_MARKS if run.baselines]
    )
    # Its height is the page's: a phone is no place for a chart as tall as a laptop's.
    space = plots.front_3d(run).update_layout(showlegend=False, height=None)
    flat = [page.figure(plots.front_pair(run, x, y, legend=False), f"front-{x}-{y}") for x, y in plots.PAIRS]
    rows = [
        (
            f"<code>{page.text(c.candidate_id)}</code>",
            error(c.latent_error),
            milliseconds(c.latency_ms),
            count(c.num_params),
            count(c.num_macs),
        )
        for c in sorted(found.front, key=lambda c: c.latent_error or 0.0)
    ]
    listing = page.table(("candidate", "latent error", "latency", "parameters", "MACs"), rows, [False] + [True] * 4)
    many = found.num_front - len(found.front)
    listed = f"{len(rows):,} of the {found.num_front:,}" if many else f"The {len(rows)}"
    names = small(f"Words of a candidate stand in the order {' - '.join(found.front[0].words) or 'of the stages'}.")
    return page.section(
        "front",
        "The front",
        lead,
        key,
        '<div class="tall">'
        + page.figure(space, "front-3d", on_phone="{'scene.camera.eye':{x:1.9,y:1.7,z:0.75}}")
        + "</div>",
        "<h3>Two objectives at a time</h3>",
        key,
        page.side_by_side(*flat),
        page.details(f"{listed} candidates on the front as a table", names + listing),
        _finished_note(run),
        drawn(run),
        failures(run),
    )


def _finished_note(run: RunData) -> str:
    """What is finished on the front's charts, and what is not."""
    if run.baselines is None:
        return ""
    return small(
        "Candidates and picks stand where the search saw them: assembled, not yet distilled as wholes. Those called "
        "finished were, searched ones and ones made by hand alike; compare these with each other."
    )


def no_candidates(run: RunData) -> str:
    """What stands where no candidate has finished."""
    reason = run.missing.get("candidates") or "no candidate has finished with a usable latent error"
    return page.missing(reason) + failures(run)


def failures(run: RunData) -> str:
    """Those that were not evaluated to the end, on demand."""
    rows = [
        (f"<code>{page.text(c.candidate_id)}</code>", page.text(c.outcome), page.text(c.reason or NONE))
        for c in run.failed
    ]
    first = f"; the first {len(rows)} of them" if len(rows) < run.evaluated.num_failed else ""
    return (
        page.details(
            f"{run.evaluated.num_failed:,} were not evaluated to the end{first}",
            page.table(("candidate", "outcome", "reason"), rows, [False] * 3),
        )
        if rows
        else ""
    )


def drawn(run: RunData) -> str:
    """Which candidates the figures show, where these are not all."""
    if len(run.done) == len(run.evaluated):
        return ""
    found = data.front_data(run)
    front = "all" if len(found.front) == found.num_front else f"{len(found.front):,} (evenly by error)"
    return small(
        f"Drawn are {front} of the {found.num_front:,} candidates on the front and {len(found.dominated):,} of the "
        f"{found.num_dominated:,} others, at random; numbers in the text are of all. candidates.parquet has them all."
    )


def small(sentence: str) -> str:
    """Small print of one sentence."""
    return f'<p class="lead"><small>{page.text(sentence)}</small></p>'
