"""The page of `nanosd simulate`: what more workers would bring, self-contained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nas.plots.format import NONE, duration
from nas.report import page

if TYPE_CHECKING:
    from nas.search.simulation_study import OverSeeds, Simulation, WithWorkers


def write_simulation_page(found: Simulation, path: Path) -> Path:
    """Write the page atomically; returns its path."""
    from nas.atomic import write_bytes

    return write_bytes(path, render_simulation(found).encode())


def render_simulation(found: Simulation) -> str:
    """The whole page as HTML."""
    return page.page(
        f"{found.table}, simulated", "\n".join((_head(found), _progress(found), _workers(found), _busy(found)))
    )


def sentences(found: Simulation) -> list[str]:
    """What the figures rest on, and what to distrust."""
    settings = found.settings
    said = [
        f"Sampler {settings.sampler}, {found.seeds} seed{'' if found.seeds == 1 else 's'}; an evaluation takes "
        f"{duration(found.median_seconds)} (median over the table), a proposal {settings.proposal_ms:g} ms of one "
        "driver.",
        *(f"{note}." for note in found.notes),
    ]
    if settings.failures:
        said.append(f"{100 * settings.failures:g} % of the evaluations fail, at a random point of their time.")
    if found.driver_is_slower:
        slowest = max(w.proposal_cpu_ms.median or 0.0 for w in found.workers)
        said.append(
            f"Proposals took up to {slowest:.0f} ms here (median of the slowest row), more than the "
            f"{settings.proposal_ms:g} ms simulated: give that as --proposal-ms."
        )
    return said


def target_share(found: Simulation) -> str:
    """The most demanding share of the hypervolume that every number of workers reached, else that any did."""
    shares = list(found.workers[0].reached)
    for every in (all, any):
        for share in reversed(shares):
            if every(each.reached[share].hours.median is not None for each in found.workers):
                return share
    return shares[0]


def percent(share: float | None) -> str:
    """A share as per cent."""
    return NONE if share is None else f"{100 * share:.1f} %"


def hours(value: OverSeeds) -> str:
    """Median and, where it differs, the worst seed."""
    if value.median is None:
        return NONE
    worst = "not reached" if value.worst is None else duration(value.worst * 3600)
    median = duration(value.median * 3600)
    return median if worst == median else f"{median} ({worst})"


def whole(value: OverSeeds) -> str:
    """Numbers of evaluations."""
    if value.median is None:
        return NONE
    worst = "not reached" if value.worst is None else f"{value.worst:,.0f}"
    median = f"{value.median:,.0f}"
    return median if worst == median else f"{median} ({worst})"


def _head(found: Simulation) -> str:
    from nas.plots.simulation import workers_text

    share = target_share(found)
    reached = [each for each in found.workers if each.reached[share].hours.median is not None]
    fastest = min(reached, key=lambda each: each.reached[share].hours.median or 0.0) if reached else None
    tiles = [
        ("table", found.table, f"{found.num_candidates:,} candidates, {found.front_size:,} on the front"),
        ("sampler", found.settings.sampler, f"{found.seeds} seed{'' if found.seeds == 1 else 's'}"),
        ("evaluation", duration(found.median_seconds), "median"),
    ]
    if fastest is not None:
        tiles.append(
            (
                f"{100 * float(share):g} % soonest",
                duration((fastest.reached[share].hours.median or 0.0) * 3600),
                f"with {workers_text(fastest.num_workers)}",
            )
        )
    first, *rest = sentences(found)
    return (
        f"<h1>{page.text(found.table)}: a simulated sweep</h1>"
        f'<p class="lead">{page.text(first)}</p>{page.notes(rest) if rest else ""}{page.facts(tiles)}'
    )


def _progress(found: Simulation) -> str:
    from nas.plots.simulation import missing_over_evaluations, missing_over_time

    lead = (
        "Share of the true front's hypervolume that is not found yet, medians over seeds; dotted lines at 95 and 99 %. "
        "More workers are sooner there, but each proposal knows fewer results: they need more evaluations."
    )
    return page.section(
        "progress",
        "How fast the front is found",
        page.text(lead),
        page.figure(missing_over_time(found), "time"),
        page.figure(missing_over_evaluations(found), "evaluations"),
    )


def _workers(found: Simulation) -> str:
    from nas.plots.simulation import hours_by_workers

    share = target_share(found)
    name = f"{100 * float(share):g} %"
    lead = (
        f"Evaluations, time and worker-hours to {name} of the hypervolume: median over seeds, the worst seed in "
        "brackets. Worker-hours count idle workers too. Utilisation is the share of all workers' time spent in "
        "evaluations, until the last one ends."
    )
    rows = [_row(each, share) for each in found.workers]
    head = (
        "with",
        f"evaluations to {name}",
        f"time to {name}",
        "worker-hours",
        "speed-up",
        "evaluations in all",
        "time in all",
        "utilisation",
        "hypervolume",
    )
    table = page.table(head, rows, [False] + [True] * (len(head) - 1), cards=True)
    return page.section(
        "workers",
        "What more workers bring",
        page.text(lead),
        table,
        page.figure(hours_by_workers(found, share), "hours"),
    )


def _row(each: WithWorkers, share: str) -> list[str]:
    from nas.plots.simulation import workers_text

    reached = each.reached[share]
    cost = reached.worker_hours.median
    return [
        workers_text(each.num_workers),
        whole(reached.evaluations),
        hours(reached.hours),
        NONE if cost is None else f"{cost:,.1f}",
        NONE if each.speed_up is None else f"{each.speed_up:.1f}×",
        f"{each.evaluations:,.0f}" + (f" ({each.failed:,.0f} failed)" if each.failed else ""),
        duration(each.hours * 3600),
        percent(each.utilisation),
        percent(each.hypervolume.median),
    ]


def _busy(found: Simulation) -> str:
    from nas.plots.simulation import busy_over_time

    lead = (
        "Workers that evaluate something. It rises as slowly as one driver can propose, and falls at the end while the "
        "last evaluations are waited for."
    )
    return page.section("busy", "How busy the workers are", page.text(lead), page.figure(busy_over_time(found), "busy"))
