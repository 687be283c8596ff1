"""Measure what Ray Tune costs a sweep beyond its evaluations, with the toy teacher.

    python -m experiments.bench.sweep [--workers 2] [--trials 40] [--samples 192] [--sampler tpe] [--json]

The sweep is a real one: blocks of the toy teacher (distilled for one step, which costs an evaluation the same as well
trained ones), real workers, the real store and study. Latency is stood in for by MACs, so nothing is calibrated.

`overhead_ms` is, for every two evaluations that followed each other in one worker process, the time from the end of
the first (before it is stored) to the start of the second. `utilisation` is the evaluating share of the workers' time
from the first start to the last end; `start_s` and `end_s` are what Ray takes before and after that. Choose `--samples`
for evaluations of about 2 s: on a machine with other work, evaluations get longer and processor time is shared, so
`load_average` goes with every figure.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces.errors import UserError

if TYPE_CHECKING:
    from nas.run.context import RunContext
    from nas.search.store import CandidateRecord


def prepare(folder: Path, samples: int, images: int = 64) -> RunContext:
    """A run of the toy teacher with blocks in its bank and the teacher's side of the comparison cached."""
    from nas.config import load_recipe
    from nas.progress import Progress
    from nas.run import phases
    from nas.run.context import RunContext
    from nas.run.directory import RunDirectory

    overrides = [f"fidelity.num_samples={samples}", f"fidelity.num_noise_samples={samples}"]
    overrides += [f"data.num_images={images}", "distill.steps=1", "distill.batch_size=4"]
    run = RunContext(load_recipe(None, overrides), RunDirectory(folder))
    run.directory.create(run.recipe)
    phases.prepare(run, Progress(silent=True))
    phases.distill(run, Progress(silent=True))
    _ = run.evaluator
    return run


def sweep(run: RunContext, workers: int, trials: int, sampler: Any, seed: int) -> dict[str, Any]:
    """Run the sweep and return its figures, JSON-ready."""
    from nas.run.evaluate import make_evaluator
    from nas.search import CandidateStore, KnownCosts, SweepSettings, run_sweep

    costs = KnownCosts(
        latency_ms=lambda matrix: run.costs.macs(matrix) / 1e6,
        num_params=run.costs.params,
        num_macs=run.costs.macs,
    )
    settings = SweepSettings(num_candidates=trials, workers=workers, sampler=sampler, seed=seed)
    factory = functools.partial(make_evaluator, str(run.directory.path.resolve()))
    began, load = time.time(), os.getloadavg()[0]
    run_sweep(run.space, factory, costs, settings, run.directory.path)
    ended = time.time()
    records = [r for r in CandidateStore(run.directory.store).latest() if r.outcome == "done"]
    return {
        **figures(records, workers, began, ended),
        "sampler": sampler,
        "load_average": [round(load, 1), round(os.getloadavg()[0], 1)],
        "num_cpus": os.cpu_count(),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def figures(records: Sequence[CandidateRecord], workers: int, began: float, ended: float) -> dict[str, Any]:
    """Overhead and utilisation of finished evaluations; `began` and `ended` are the sweep's, in epoch seconds."""
    if not records:
        raise UserError("no evaluation finished; see failures.log in the run's store")
    spans: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        end = datetime.fromisoformat(record.finished_at).timestamp()
        spans.setdefault(record.worker, []).append((end - record.seconds, end))
    gaps = [after[0] - before[1] for one in spans.values() for before, after in pairwise(sorted(one))]
    first = min(start for one in spans.values() for start, _ in one)
    last = max(end for one in spans.values() for _, end in one)
    busy = sum(record.seconds for record in records)
    overhead_ms = np.array(gaps) * 1e3 if gaps else np.array([np.nan])
    return {
        "trials": len(records),
        "workers": workers,
        "worker_processes": len(spans),
        "evaluation_s": {"median": _round(np.median([r.seconds for r in records])), "sum": _round(busy)},
        "overhead_ms": {
            "median": _round(np.median(overhead_ms), 1),
            "mean": _round(overhead_ms.mean(), 1),
            "p90": _round(np.quantile(overhead_ms, 0.9), 1),
            "worst": _round(overhead_ms.max(), 1),
        },
        "utilisation": _round(busy / (workers * (last - first))),
        "start_s": _round(first - began, 2),
        "end_s": _round(ended - last, 2),
        "seconds": _round(ended - began, 2),
    }


def _round(value: Any, digits: int = 3) -> float | None:
    return round(float(value), digits) if np.isfinite(value) else None


def render(found: dict[str, Any]) -> str:
    """The figures as text for a terminal."""
    overhead, evaluation = found["overhead_ms"], found["evaluation_s"]
    return "\n".join(
        [
            f"{found['trials']} trials in {found['worker_processes']} worker processes, sampler {found['sampler']}, "
            f"evaluations of {evaluation['median']} s (median)",
            f"overhead between evaluations: median {overhead['median']} ms, mean {overhead['mean']} ms, "
            f"90 % {overhead['p90']} ms, worst {overhead['worst']} ms",
            f"utilisation {found['utilisation']:.1%} from the first start to the last end",
            f"start {found['start_s']} s, end {found['end_s']} s, in all {found['seconds']} s",
            f"load average {found['load_average'][0]} to {found['load_average'][1]} on {found['num_cpus']} processors",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; exit code 0, or 1 with one line on standard error."""
    from nas.quiet import quiet

    parser = argparse.ArgumentParser(prog="python -m experiments.bench.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default 2)")
    parser.add_argument("--trials", type=int, default=40, help="candidates to evaluate (default 40)")
    parser.add_argument("--samples", type=int, default=192, help="fidelity samples: the length of an evaluation")
    parser.add_argument("--sampler", default="tpe", help="who proposes (default tpe)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    given = parser.parse_args(arguments)
    quiet()
    try:
        with tempfile.TemporaryDirectory(prefix="nanosd-bench-") as folder:
            run = prepare(Path(folder) / "run", given.samples)
            found = sweep(run, given.workers, given.trials, given.sampler, given.seed)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(found, indent=1) if given.json else render(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
