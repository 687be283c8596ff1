"""`nanosd proxy`: whether the error after brief distillation ranks candidates as that of the finished model does."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.output import print_json, print_rows, say

if TYPE_CHECKING:
    from nas.fidelity.proxy_record import Proxy


def proxy(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, or its name under runs/.")],
    candidates: Annotated[int, typer.Option(min=4, help="Candidates, from the front's better half.")] = 16,
    steps: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Steps of brief distillation; repeatable. Default: search.distill_steps or finalize.steps."
        ),
    ] = None,
    long_steps: Annotated[
        int | None, typer.Option(min=2, help="Steps of the distillation to compare with; default: ten times as many.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
) -> None:
    """Distil some candidates briefly and for long, and say whether the brief score ranks the finished models.

    Stopped or killed it goes on when it is called again; more steps or candidates are added to what is there.
    """
    from experiments.runs import find_run

    run_dir = find_run(run)
    from nas.fidelity.proxy_record import FILE, advice, warnings
    from nas.progress import Progress
    from nas.quiet import quiet

    quiet()
    from nas.run.proxy import proxy as measure

    found = measure(run_dir, candidates, steps, long_steps, Progress())
    if json:
        print_json({"run": run_dir, "agreement": rows(found), "warnings": warnings(found), "proxy": found})
        return
    print_rows([{_HEADINGS.get(key, key): value for key, value in row.items()} for row in rows(found)])
    print(costs(found))
    print(advice(found))
    for warning in warnings(found):
        say(f"warning: {warning}")
    print(f"file: {run_dir / FILE}")


_HEADINGS = {
    "measure": "score",
    "against": "against",
    "interval": "95 % interval",
    "kendall": "Kendall",
    "spearman": "Spearman",
}


def rows(found: "Proxy") -> list[dict[str, Any]]:
    """Agreement of each score after each number of steps with the same one, and with the latent error, after all."""
    from nas.fidelity.proxy_record import MEASURES, agreement

    table = []
    for steps in (0, *found.steps):
        for measure in MEASURES:
            for against in dict.fromkeys((measure, MEASURES[0])):
                each = agreement(found, steps, measure, against)
                table.append(
                    {
                        "steps": steps,
                        "measure": measure.replace("_", " "),
                        "against": f"{against.replace('_', ' ')} after {found.long_steps:,}",
                        "num": each.num,
                        "kendall": None if each.kendall is None else round(each.kendall, 3),
                        "interval": None if each.low is None else f"{each.low:.2f} to {each.high:.2f}",
                        "spearman": None if each.spearman is None else round(each.spearman, 3),
                    }
                )
    return table


def costs(found: "Proxy") -> str:
    """What a distillation and an evaluation took, medians over the candidates."""
    from statistics import median

    from nas.plots.format import duration

    parts = []
    for steps in (*found.steps, found.long_steps):
        taken = [m.seconds for c in found.complete if (m := c.at(steps)) is not None and m.reason is None]
        if taken:
            parts.append(f"{steps:,} steps {duration(median(taken))} (longest {duration(max(taken))})")
    evaluations = [m.evaluation_seconds for c in found.complete for m in c.measured if m.reason is None]
    if evaluations:
        parts.append(f"an evaluation {duration(median(evaluations))}")
    if found.teacher_passes:
        parts.append(f"{found.teacher_passes:,} teacher passes for all {duration(found.teacher_seconds)}")
    return "costs: " + ", ".join(parts)
