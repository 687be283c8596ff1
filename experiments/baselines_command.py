"""`nanosd baselines`: hand-made layouts, trained and measured as a run's candidates are, beside its front."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.output import print_json, print_rows

if TYPE_CHECKING:
    from nas.baselines import Baselines


def baselines(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Finished run: its folder, or its name under runs/.")],
    front: Annotated[
        int, typer.Option("--front", min=0, help="Candidates of the front to finish besides picks and rivals.")
    ] = 3,
    uniform_params: Annotated[
        int | None,
        typer.Option(
            "--uniform-params", min=1, help="Parameters of the uniform-width layout; left out: those of the pick prime."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
) -> None:
    """Set hand-made layouts (BK-SDM-Tiny, TinySD, uniform width) against the searched front, on the same footing."""
    from experiments.runs import find_run
    from nas.quiet import quiet

    run_dir = find_run(run)
    quiet()
    from nas.progress import Progress
    from nas.report import write_report
    from nas.run.baselines import make_baselines

    record = make_baselines(run_dir, front, Progress(), uniform_params)
    report = write_report(run_dir)
    if json:
        print_json({**as_json(record), "report": report})
    else:
        print_record(record)
        print(f"report: {Path(report)}")


def as_json(record: "Baselines") -> dict[str, Any]:
    """The record with its verdict."""
    return {**record.model_dump(mode="json"), "dominates_all": record.dominates_all}


def print_record(record: "Baselines") -> None:
    """Print every entry and the verdict."""
    from nas.plots.format import count, error, milliseconds
    from nas.report.baselines import verdict

    print_rows(
        [
            {
                "model": entry.name,
                "made": "by hand" if entry.is_baseline else "searched",
                "parameters": count(entry.num_params),
                "MACs": count(entry.num_macs),
                f"{record.latency} latency": milliseconds(record.latency_ms(entry)),
                "latent error": error(entry.after["latent_error"]),
                "taFID": error(entry.after["tafid"]),
                "dominated by": ", ".join(entry.dominated_by) if entry.is_baseline else "",
            }
            for entry in record.entries
        ]
    )
    print("\n".join(verdict(record)))
