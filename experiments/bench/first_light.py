"""Print what the quickstart measured.

    python -m experiments.bench.first_light [--run runs/quickstart] [--json]

Every figure is read from the run directory's files or computed from them. Exit code 0: all there; 1: the run lacks a
part (named in the output; its figures are null); 2: there is no run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nas.run_data import RunData, read_run
from search_spaces.errors import UserError

RUN = Path("runs/quickstart")
MAKE_ONE = "python -m pip install nox && python -m nox -s quickstart"
#: The parts of a run that the figures below come from.
NEEDED = ("phases", "candidates", "device", "closing")


def measure(run: RunData) -> dict[str, Any]:
    """The figures of a run as a JSON-ready mapping; null where the run lacks the part, named in `missing`."""
    from nas.plots import data

    history = data.hypervolume_history(run)
    errors = data.errors_pct(run)
    outcomes = {name: sum(c.outcome == name for c in run.candidates) for name in ("failed", "infeasible")}
    teacher = run.teacher
    return {
        "run": run.folder.name,
        "seconds_per_phase": dict(run.phases) if run.phases else None,
        "seconds": sum(run.phases.values()) if run.phases else None,
        "num_space_candidates": run.space.num_candidates,
        "num_evaluated": len(run.evaluated),
        "num_failed": outcomes["failed"],
        "num_infeasible": outcomes["infeasible"],
        "front_size": data.front_data(run).num_front if run.done else None,
        "hypervolume": history.values[-1] if run.done else None,
        "hypervolume_rule": history.rule or None,
        "num_unseen_unets": len(run.device.errors_pct("check")) if run.device else None,
        "latency_error_median_pct": errors[0] if errors else None,
        "latency_error_worst_pct": errors[1] if errors else None,
        "teacher_measured_ms": teacher.measured_ms if teacher else None,
        "picks": [
            {
                "pick": row.name,
                "candidate": row.candidate_id,
                "num_params": row.num_params,
                "num_macs": row.num_macs,
                "predicted_ms": row.predicted_ms,
                "measured_ms": row.measured_ms,
                "speed_up": row.speed_up,
                "target_device": row.target_device,
                "target_ms": row.target_ms,
                "before_alignment": asdict(row.before),
                "after_alignment": asdict(row.after),
                "tafid_floor": row.tafid_floor,
            }
            for row in run.closing
            if not row.is_teacher
        ],
        "missing": {part: run.missing[part] for part in NEEDED if part in run.missing},
    }


def render(figures: dict[str, Any]) -> str:
    """The figures as text for a terminal."""
    from nas.plots.format import count, duration, error, milliseconds, percent, times

    space = figures["num_space_candidates"]
    lines = [f"run {figures['run']}: {duration(figures['seconds'])} in all"]
    lines += [
        f"  {phase:<12}{duration(seconds):>12}" for phase, seconds in (figures["seconds_per_phase"] or {}).items()
    ]
    value = figures["hypervolume"]
    lines += [
        f"candidates: {figures['num_evaluated']} evaluated{f' of {space:,}' if space else ''}, "
        f"{figures['num_failed']} failed, {figures['num_infeasible']} infeasible",
        f"front: {figures['front_size'] or 0} candidates, hypervolume {'none' if value is None else f'{value:.4f}'}",
    ]
    if figures["hypervolume_rule"]:
        lines.append(f"  ({figures['hypervolume_rule']})")
    lines += [
        f"latency prediction on {figures['num_unseen_unets'] or 0} unseen whole U-Nets: "
        f"median error {percent(figures['latency_error_median_pct'])}, "
        f"worst {percent(figures['latency_error_worst_pct'])}",
        f"teacher: {milliseconds(figures['teacher_measured_ms'])} measured",
    ]
    head = (
        "pick",
        "parameters",
        "MACs",
        "predicted",
        "measured",
        "speed-up",
        "latent error",
        "noise error",
        "taFID",
        "(floor)",
    )
    rows = [head]
    for pick in figures["picks"]:
        before, after = pick["before_alignment"], pick["after_alignment"]
        scores = [after if after[name] is not None else before for name in ("latent_error", "noise_error", "tafid")]
        rows.append(
            (
                pick["pick"],
                count(pick["num_params"]),
                count(pick["num_macs"]),
                milliseconds(pick["predicted_ms"]),
                milliseconds(pick["measured_ms"]),
                times(pick["speed_up"]),
                error(scores[0]["latent_error"]),
                error(scores[1]["noise_error"]),
                error(scores[2]["tafid"]),
                f"({error(pick['tafid_floor'])})",
            )
        )
    if len(rows) > 1:
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        for row in rows:
            cells = [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
            lines.append("  ".join(cells).rstrip())
    target = next((pick for pick in figures["picks"] if pick["target_device"]), None)
    if target is not None:
        there = ", ".join(f"{pick['pick']} {milliseconds(pick['target_ms'])}" for pick in figures["picks"])
        lines.append(f"predicted on {target['target_device']}: {there}")
    lines += [f"missing: {sentence}" for sentence in figures["missing"].values()]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.first_light", description="Print what the quickstart measured."
    )
    parser.add_argument("--run", type=Path, default=RUN, help="run directory (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    try:
        if not options.run.is_dir():
            raise UserError(f"no run at {options.run}; make one with: {MAKE_ONE}")
        figures = measure(read_run(options.run))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(figures, indent=1, allow_nan=False) if options.json else render(figures))
    return 1 if figures["missing"] else 0


if __name__ == "__main__":
    sys.exit(main())
