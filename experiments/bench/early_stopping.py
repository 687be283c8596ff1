"""Early stopping by dominance, by MO-ASHA and not at all: hypervolume against what was spent.

    python -m experiments.bench.early_stopping [--curves measured,power,crossing] [--sampler ehvi] [--seeds 10] [--json]

`measured` are candidates of the toy space at rungs of brief distillation (`distillation_curves.csv`), `raw` the 300 of
them whose error is known before and after it, `space` the whole space with errors after it made up from those; `power`
and `crossing` are made up, with known truth: power laws to different ends, and such in which good candidates start
badly. Costs are counted in distillation steps, and a rung's measurement (a quarter of the samples) as 5 of them, the
last one as 20, which is what they took on a CPU.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from nas.search.learning_curves import LearningCurves, Point
from nas.search.settings import SamplerName
from nas.search.simulation_rungs import RungTable, StoppingTrace, simulate_stopping
from nas.search.stopping import EARLY_STOPPING, EarlyStopping, StoppingSettings
from nas.search.table import CandidateTable, ReferenceName, read_table

CURVES = ("measured", "raw", "power", "crossing")
PATH = Path(__file__).with_name("distillation_curves.csv")
RUNG_COST, END_COST = 5.0, 20.0
SHARES = (0.9, 0.95, 0.98, 0.99)
BUDGETS = (10, 20, 30, 40)


def measured(
    path: Path = PATH, rungs: Sequence[int] = (0, 12, 25, 50), steps: int = 100
) -> tuple[CandidateTable, RungTable]:
    """Table and curves of the measured candidates that have all these rungs; those on the way are of few samples."""
    rows: dict[str, dict[int, dict[str, str]]] = defaultdict(dict)
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            # The error before distillation is there twice; of few samples it comes later.
            if len(rungs) > 1 or int(row["steps"]) not in rows[row["arch"]]:
                rows[row["arch"]][int(row["steps"])] = row
    lines = ["arch,error,latency_ms,num_params," + ",".join(f"at{r}" for r in rungs)]
    for arch, found in rows.items():
        if set(rungs) <= set(found):
            values = [found[steps][name] for name in ("latent_error", "latency_ms", "num_params")]
            lines.append(",".join([arch, *values, *(found[r]["latent_error"] for r in rungs)]))
    return _table("\n".join(lines), rungs, steps)


def made_up(
    kind: str, seed: int = 0, rungs: Sequence[int] = (0, 12, 25, 50), steps: int = 100
) -> tuple[CandidateTable, RungTable]:
    """Table and curves of a made-up space of 1,024 candidates: five decisions of four widths.

    An error falls from e0 to its end as (1 + t / s)^-p. In `power` e0 follows the end up to a spread of a tenth of a
    decade; in `crossing` up to half of one and candidates with a good end start worse.
    """
    rng = np.random.default_rng(seed)
    matrix = np.stack(np.meshgrid(*[np.arange(4)] * 5, indexing="ij"), axis=-1).reshape(-1, 5)
    weight, cost = rng.uniform(0.2, 1.0, 5), rng.uniform(0.2, 1.0, (2, 5))
    size = matrix / 3
    end = -0.2 - 1.2 * size @ weight / weight.sum() + 0.08 * rng.standard_normal(len(matrix))
    latency, params = (1 + size @ c + 0.02 * rng.random(len(matrix)) for c in cost)
    crossing = kind == "crossing"
    drop = rng.normal(0.4, 0.25 if crossing else 0.06, len(matrix)).clip(0.02)
    if crossing:
        drop -= 0.35 * (end - end.mean())  # the better the end, the farther from it the start
    scale = 10 ** rng.normal(1.2, 0.3 if crossing else 0.1, len(matrix))
    lines = ["arch,error,latency_ms,num_params," + ",".join(f"at{r}" for r in rungs)]
    share = {r: np.log1p(r / scale) / np.log1p(steps / scale) for r in rungs}
    noise = 0.03
    for i, row in enumerate(matrix):
        on_way = [10 ** (end[i] + drop[i] * (1 - share[r][i]) + noise * rng.standard_normal()) for r in rungs]
        values = [10 ** end[i], latency[i], params[i], *on_way]
        lines.append("".join(map(str, row)) + "," + ",".join(f"{v:.6g}" for v in values))
    return _table("\n".join(lines), rungs, steps)


def whole_space(path: Path, seed: int = 0, steps: int = 100) -> tuple[CandidateTable, RungTable]:
    """All candidates of a table of NanoSD-Bench, with errors after distillation made up from the 300 measured ones.

    Their line (in logarithms), with a residual of theirs drawn at random for each candidate. The rung is before
    distillation, measured on as many samples as the table has.
    """
    from experiments.nanosd_bench.table import load

    before, after = (np.log10(column) for column in _both_ends())
    slope, level = np.polyfit(before, after, 1)
    frame = load(path)
    raw = np.log10(frame["latent_error"].to_numpy(np.float64))
    residuals = after - level - slope * before
    end = level + slope * raw + np.random.default_rng(seed).choice(residuals, len(raw))
    columns = (10**end, frame["latency_ms"], frame["num_params"], 10**raw)
    lines = [
        f"{arch},{e:.6g},{ms:.6g},{n:.6g},{r:.6g}" for arch, e, ms, n, r in zip(frame["arch"], *columns, strict=True)
    ]
    return _table("\n".join(["arch,error,latency_ms,num_params,at0", *lines]), (0,), steps)


def _both_ends() -> tuple[Any, Any]:
    table, curves = measured(rungs=(0,))
    return curves.errors[:, 0], table.values[:, 0]


def curves_of(name: str, seed: int, path: Path | None = None) -> tuple[CandidateTable, RungTable]:
    """Table and curves by name."""
    if name in ("measured", "raw"):
        return measured(rungs=(0,) if name == "raw" else (0, 12, 25, 50))
    if name == "space":
        from experiments.nanosd_bench.table import PATH as SHIPPED

        return whole_space(path or SHIPPED, seed)
    return made_up(name, seed)


def _table(text: str, rungs: Sequence[int], steps: int) -> tuple[CandidateTable, RungTable]:
    names = [f"at{r}" for r in rungs]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "curves.csv"
        path.write_text(text + "\n", encoding="utf-8")
        objectives = ("error", "latency_ms", "num_params")
        table = read_table(path, objectives=objectives, known=objectives[1:], columns=names)
    spent = [r + RUNG_COST * (i + 1) for i, r in enumerate(rungs)]
    errors = np.stack([table.columns[name] for name in names], axis=1)
    end = np.array([*spent, steps + RUNG_COST * len(rungs) + END_COST])
    return table, RungTable(tuple(rungs), errors, end, steps + END_COST)


def run(
    table: CandidateTable,
    curves: RungTable,
    policy: EarlyStopping,
    sampler: SamplerName,
    seed: int,
    budget: float,
    workers: int = 1,
    reference: ReferenceName = "worst",
    risk: float = 0.05,
) -> StoppingTrace:
    """One simulated sweep."""
    from nas.search.table_study import StudyDoor

    door = StudyDoor(table, sampler, seed, reference=reference)
    settings = StoppingSettings(policy, risk=risk)
    return simulate_stopping(door, table, curves, settings, budget, workers, reference)


def figures(traces: Sequence[StoppingTrace], tables: Sequence[CandidateTable], whole: float) -> dict[str, Any]:
    """Medians and worst seeds of one policy; costs in evaluations of `whole`."""
    found: dict[str, Any] = {"hv": {}, "spent_to": {}}
    for number in BUDGETS:
        shares = [trace.share_at(number * whole) for trace in traces]
        found["hv"][number] = {"median": round(float(np.median(shares)), 4), "worst": round(min(shares), 4)}
    for share in SHARES:
        spent = [s / whole if (s := trace.spent_to(share)) is not None else np.inf for trace in traces]
        middle, most = float(np.median(spent)), max(spent)
        found["spent_to"][share] = {
            "median": round(middle, 1) if np.isfinite(middle) else None,
            "worst": round(most, 1) if np.isfinite(most) else None,
        }
    both = list(zip(traces, tables, strict=True))
    met, lost = sum(t.met(table) for t, table in both), sum(t.lost(table) for t, table in both)
    found["evaluations"] = float(np.median([len(t.rows) for t in traces]))
    found["stopped"] = round(float(np.mean([t.stopped.mean() for t in traces])), 3)
    found["front_met"], found["front_lost"] = met, lost
    found["lost_share"] = round(lost / met, 4) if met else None
    return found


def coverage(table: CandidateTable, curves: RungTable, risk: float, num: int, repeats: int = 200) -> dict[str, float]:
    """Share of final errors below the optimistic forecast from `num` others at random, by rung, and over all rungs."""
    rng = np.random.default_rng(0)
    below = np.zeros((repeats, len(curves.steps)), dtype=bool)
    for own in below:
        rows = rng.choice(len(table), num + 1, replace=False)
        points = [[Point(s, float(e)) for s, e in zip(curves.steps, curves.errors[row], strict=True)] for row in rows]
        learned = LearningCurves()
        for row, of_row in zip(rows[1:], points[1:], strict=True):
            learned.add(of_row, float(table.values[row, 0]))
        for i, point in enumerate(points[0]):
            optimistic = learned.forecast(point, risk / len(curves.steps)).optimistic
            own[i] = table.values[rows[0], 0] < optimistic
    found = {str(s): round(float(b), 4) for s, b in zip(curves.steps, below.mean(axis=0), strict=True)}
    return found | {"any": round(float(below.any(axis=1).mean()), 4)}


def main(arguments: Sequence[str] | None = None) -> None:
    """All policies on all curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", default=",".join(CURVES))
    parser.add_argument("--table", type=Path, help="of NanoSD-Bench, for `space` (default: the one that is shipped)")
    parser.add_argument("--sampler", default="ehvi", choices=get_args(SamplerName))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--risk", type=float, default=0.05)
    parser.add_argument("--budget", type=float, default=40, help="in evaluations to the end without rungs")
    parser.add_argument("--reference", default="worst", choices=get_args(ReferenceName))
    parser.add_argument("--coverage", action="store_true", help="of the optimistic forecasts, instead of sweeps")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.coverage:
        for name in options.curves.split(","):
            table, curves = curves_of(name, 0, options.table)
            for num in (8, 20, 50):
                if num < len(table):
                    print(name, num, json.dumps(coverage(table, curves, options.risk, num, 1000)), flush=True)
        return
    result: dict[str, Any] = {}
    for name in options.curves.split(","):
        result[name] = {}
        for policy in EARLY_STOPPING:
            traces, tables = [], []
            for seed in range(options.seeds):
                table, curves = curves_of(name, seed, options.table)
                tables.append(table)
                budget = options.budget * curves.spent_without
                traces.append(
                    run(
                        table,
                        curves,
                        policy,
                        options.sampler,
                        seed,
                        budget,
                        options.workers,
                        options.reference,
                        options.risk,
                    )
                )
            result[name][policy] = figures(traces, tables, curves.spent_without)
            if not options.json:
                print(name, policy, json.dumps(result[name][policy]), flush=True)
    if options.json:
        print(json.dumps({"sampler": options.sampler, "seeds": options.seeds, "curves": result}, indent=1))


if __name__ == "__main__":
    main()
