"""Early stopping by dominance, by MO-ASHA and not at all: hypervolume against what was spent.

    python -m experiments.bench.early_stopping [--curves measured,power,crossing] [--sampler ehvi] [--seeds 10] [--json]

`measured` are candidates of the toy space at rungs of brief distillation (`distillation_curves.csv`), `samples` the
whole of them at rungs of compared samples; `power` and `crossing` are made up, with known truth: power laws to
different ends, and such in which good candidates start badly. Costs are counted in distillation steps, and a rung's
measurement (a quarter of the samples) as 5 of them, the last one as 20, which is what they took on a CPU.
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

from nas.search.settings import SamplerName
from nas.search.simulation_rungs import RungTable, StoppingTrace, simulate_stopping
from nas.search.stopping import EARLY_STOPPING, EarlyStopping, StoppingSettings
from nas.search.table import CandidateTable, ReferenceName, read_table

CURVES = ("measured", "power", "crossing")
PATH = Path(__file__).with_name("distillation_curves.csv")
RUNG_COST, END_COST = 5.0, 20.0
SHARES = (0.9, 0.95, 0.98, 0.99)
BUDGETS = (10, 20, 30, 40)


def measured(path: Path = PATH, rungs: Sequence[int] = (0, 12, 25, 50), steps: int = 100) -> Any:
    """Table and curves of the measured candidates: rungs on 24 samples, the end on all."""
    rows: dict[str, dict[int, dict[str, str]]] = defaultdict(dict)
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows[row["arch"]][int(row["steps"])] = row
    lines = ["arch,error,latency_ms,num_params," + ",".join(f"at{r}" for r in rungs)]
    for arch, found in rows.items():
        end = found[steps]
        values = [end["latent_error"], end["latency_ms"], end["num_params"]]
        lines.append(",".join([arch, *values, *(found[r]["latent_error"] for r in rungs)]))
    return _table("\n".join(lines), rungs, steps)


def made_up(kind: str, seed: int = 0, rungs: Sequence[int] = (0, 12, 25, 50), steps: int = 100) -> Any:
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


def main() -> None:
    """All policies on all curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", default=",".join(CURVES))
    parser.add_argument("--sampler", default="ehvi", choices=get_args(SamplerName))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--risk", type=float, default=0.05)
    parser.add_argument("--budget", type=float, default=40, help="in evaluations to the end without rungs")
    parser.add_argument("--reference", default="worst", choices=get_args(ReferenceName))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result: dict[str, Any] = {}
    for name in options.curves.split(","):
        result[name] = {}
        for policy in EARLY_STOPPING:
            traces, tables = [], []
            for seed in range(options.seeds):
                table, curves = measured() if name == "measured" else made_up(name, seed)
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
