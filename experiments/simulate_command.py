"""`nanosd simulate`: a sweep against a table of evaluated candidates, with any number of simulated workers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.output import print_json, print_rows, say
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from nas.search.simulation import Trace
    from nas.search.simulation_study import Simulation, SimulationSettings

_MAX_WORKERS = 100_000
_MAX_RUNS = 1000


def simulate(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="CSV or Parquet of candidates evaluated already.")],
    arch: Annotated[str, typer.Option(help="Column of architecture strings, one digit a decision.")] = "arch",
    minimize: Annotated[str, typer.Option(help="Objectives: columns, by commas.")] = "error,params,flops",
    known: Annotated[
        str | None, typer.Option(help="Those known for every candidate; without it, all but the first.")
    ] = None,
    error_from: Annotated[str | None, typer.Option(help="Column of accuracies that the error is made from.")] = None,
    sampler: Annotated[str, typer.Option(help="Who proposes: a sampler of the recipe.")] = "ehvi",
    workers: Annotated[str, typer.Option(help="Numbers of workers, by commas.")] = "1,10,100,1000",
    evaluations: Annotated[int, typer.Option(min=1, help="Evaluations at most, with each number of workers.")] = 2000,
    until: Annotated[
        float | None, typer.Option(min=0, max=1, help="Stop at this share of the true hypervolume; 1: never.")
    ] = 0.995,
    seconds: Annotated[float | None, typer.Option(min=0, help="Median time of an evaluation; default 600.")] = None,
    seconds_from: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column that the time follows, in place of --seconds.")
    ] = None,
    seconds_scale: Annotated[float, typer.Option(min=0, help="Seconds a unit of --seconds-from.")] = 1.0,
    spread: Annotated[float, typer.Option(min=0, max=3, help="Log-normal spread of the times; 0.1: about 10 %.")] = 0.1,
    failures: Annotated[float, typer.Option(min=0, max=1, help="Share of evaluations that fail.")] = 0.0,
    proposal_ms: Annotated[float, typer.Option(min=0, help="Simulated time of one proposal.")] = 50.0,
    start_seconds: Annotated[float, typer.Option(min=0, help="Until the workers are up.")] = 0.0,
    reference: Annotated[str, typer.Option(help="Reference point of the hypervolume: worst or tight.")] = "worst",
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Repetitions.")] = 3,
    processes: Annotated[int | None, typer.Option(min=1, help="Processes here; without it, one a core.")] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Page (HTML) to write; default: TABLE-simulated.html, here.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
) -> None:
    """Simulate a sweep with few and with many workers against a table: evaluations, hours, utilisation, front."""
    from nas.quiet import quiet

    quiet()
    from dataclasses import asdict

    from experiments.processes import num_cores
    from nas.atomic import ensure_writable
    from nas.report.simulation_page import write_simulation_page
    from nas.search.sampler import check_sampler
    from nas.search.simulation_study import SimulationSettings
    from nas.search.table import REFERENCES, TableSource

    if seconds is not None and seconds_from is not None:
        raise UserError("--seconds and --seconds-from: give one of them")
    if reference not in REFERENCES:
        raise UserError(f"--reference {reference}: legal are {', '.join(REFERENCES)}")
    objectives = _names("--minimize", minimize)
    numbers = _counts(workers)
    if len(numbers) * seeds > _MAX_RUNS:
        raise UserError(f"--workers, --seeds: {len(numbers) * seeds} simulations; legal are at most {_MAX_RUNS}")
    columns = (seconds_from,) if seconds_from is not None and seconds_from not in objectives else ()
    settings = SimulationSettings(
        source=TableSource(
            str(table),
            arch,
            objectives,
            objectives[1:] if known is None else _names("--known", known),
            error_from,
            columns=columns,
        ),
        sampler=check_sampler(sampler),
        num_evaluations=evaluations,
        until=until if until is not None and until < 1 else None,
        seconds=600.0 if seconds is None and seconds_from is None else seconds,
        seconds_column=seconds_from,
        seconds_scale=seconds_scale,
        spread=spread,
        failures=failures,
        proposal_ms=proposal_ms,
        start_s=start_seconds,
        reference="tight" if reference == "tight" else "worst",
    )
    page = out or Path(f"{table.stem}-simulated.html")
    if page.is_dir():
        raise UserError(f"--out {page}: a folder; give a file to write")
    ensure_writable(page.parent)
    found = _run(settings, numbers, seeds, processes or num_cores())
    write_simulation_page(found, page)
    if json:
        print_json({**asdict(found), "page": page})
    else:
        _print(found)
        print(f"page: {page}")


def _names(option: str, text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise UserError(f"{option} {text!r}: names no column")
    return names


def _counts(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and 1 <= int(part) <= _MAX_WORKERS for part in parts):
        raise UserError(f"--workers {text}: legal are numbers from 1 to {_MAX_WORKERS:,}, such as 1,10,100,1000")
    return sorted({int(part) for part in parts})


def _run(settings: "SimulationSettings", numbers: list[int], seeds: int, processes: int) -> "Simulation":
    from experiments.processes import in_processes
    from nas.search.simulation_study import study

    table = settings.source.read()
    table.tracker(settings.reference)
    settings.durations(table, 0)  # what cannot be simulated is said before anything is
    # The longest first, so that no process is left alone with one at the end.
    jobs = [(settings, number, seed) for number in reversed(numbers) for seed in range(seeds)]
    found: dict[int, dict[int, Trace]] = {}
    for (_, number, seed), trace in in_processes(_one, jobs, processes):
        found.setdefault(number, {})[seed] = trace
        done = sum(map(len, found.values()))
        say(f"{done}/{len(jobs)}: {number:,} workers, seed {seed}: {100 * trace.share[-1]:.1f} % of the hypervolume")
    return study(settings, table, {n: [found[n][seed] for seed in range(seeds)] for n in numbers})


def _one(job: Any) -> "Trace":
    settings, number, seed = job
    trace: Trace = settings.run(settings.source.read(), number, seed)
    return trace


def _print(found: "Simulation") -> None:
    from nas.plots.format import NONE, duration
    from nas.report.simulation_page import hours, percent, sentences, target_share, whole

    print("\n".join(sentences(found)))
    share = target_share(found)
    name = f"{100 * float(share):g} %"
    print_rows(
        [
            {
                "workers": f"{each.num_workers:,}",
                f"evaluations to {name}": whole(each.reached[share].evaluations),
                f"time to {name}": hours(each.reached[share].hours),
                "speed-up": NONE if each.speed_up is None else f"{each.speed_up:.1f}×",
                "in all": f"{each.evaluations:,.0f}",
                "time in all": duration(each.hours * 3600),
                "utilisation": percent(each.utilisation),
                "hypervolume": percent(each.hypervolume.median),
            }
            for each in found.workers
        ]
    )
    print("medians over seeds, the worst seed in brackets; hypervolume as a share of the table's own front")
