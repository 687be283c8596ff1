"""`nanosd retarget`: the front of a run on another device, as a table and as a page; nothing is trained."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.output import print_json, print_rows

if TYPE_CHECKING:
    from nas.picks import Pick
    from nas.run.retarget import Retargeted


def retarget(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, or its name under runs/.")],
    device: Annotated[str, typer.Option(help="Device profile (JSON), or a shipped one such as sm8750-w8a16.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder to write; default: RUN/retarget/<device>.")
    ] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(min=0, help="Budget on that device: largest latency in milliseconds.")
    ] = None,
    max_params: Annotated[
        int | None, typer.Option(min=1, help="Budget: largest number of parameters; default: the run's own.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
) -> None:
    """Draw the front of a run again for another device, from what it has evaluated."""
    from experiments.runs import find_run
    from nas.quiet import quiet

    run_dir = find_run(run)
    quiet()
    from nas.report.retarget_page import write_retarget_page
    from nas.run.retarget import retarget as draw
    from nas.run.retarget_files import PAGE, check_output, output_folder, write_tables

    check_output(run_dir, out)
    result = draw(run_dir, device, max_latency_ms, max_params)
    with output_folder(result, run_dir, out) as folder:
        files = write_tables(result, folder)
        files["page"] = write_retarget_page(result, folder / PAGE)
    if json:
        print_json({**_as_json(result), "files": files})
    else:
        print_result(result)
        print(f"page: {files['page']}")


def _as_json(result: "Retargeted") -> dict[str, Any]:
    from dataclasses import asdict

    titles = dict(zip(("title_here", "title_there"), result.titles, strict=True))
    picks = {"picks_here": result.picks_here, "picks_there": result.picks_there}
    return {**asdict(result), **titles, **picks}


def print_result(result: "Retargeted") -> None:
    """Print both fronts, who moves, the picks and what to evaluate next."""
    from nas.plots.format import count, error, milliseconds
    from nas.report.retarget_page import interval, kendall_sentence, move, moves_sentence, ranks, sentences

    here, there = result.titles
    print(f"here:  {here}\nthere: {there}")
    print("\n".join(sentences(result)))
    print_rows(
        [
            {
                "candidate": c.candidate,
                "latent error": error(c.latent_error),
                "parameters": count(c.num_params),
                "latency here": milliseconds(c.here.latency_ms),
                "latency there (90 %)": interval(c.there),
                "rank": ranks(c),
                "front": move(c),
            }
            for c in result.on_either_front
        ]
    )
    print("\n".join(filter(None, (moves_sentence(result), kendall_sentence(result)))))
    print("ranks are among all evaluated candidates; tie: within the 90 % intervals")
    names = dict.fromkeys([*result.picks_here, *result.picks_there])
    print_rows(
        [
            {
                "pick": name,
                "was": _candidate(result.picks_here.get(name)),
                "is there": _candidate(result.picks_there.get(name)),
                "the old one there": _there(result, result.picks_here.get(name)),
                "the new one there": _there(result, result.picks_there.get(name)),
            }
            for name in names
        ]
    )
    if result.promising_missing is not None:
        print(f"worth evaluating next: {result.promising_missing}")
    elif result.promising:
        print("worth evaluating next (never evaluated; on that front if the predicted errors hold):")
        print_rows(
            [
                {
                    "candidate": c.candidate,
                    "predicted error": error(c.predicted_error),
                    "parameters": count(c.num_params),
                    "latency there": milliseconds(c.latency_ms),
                    "gain in hypervolume": f"{c.gain:.2g}",
                }
                for c in result.promising
            ]
        )


def _candidate(pick: "Pick | None") -> str | None:
    return None if pick is None else pick.candidate


def _there(result: "Retargeted", pick: "Pick | None") -> str | None:
    from nas.plots.format import milliseconds

    return None if pick is None else milliseconds(result.find(pick.candidate).there.latency_ms)
