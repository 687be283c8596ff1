"""Time a store of a million candidates: opening it, updating the front, appending, the tables and the report.

    python -m experiments.bench.store [--records N] [--folder DIR] [--json]

The candidates are made up (their ids, costs and errors follow the formulas of `make_records`); they are written through
`CandidateStore.extend` as a sweep's would be, then everything is measured in a new process. Seconds are wall time, and
in brackets CPU time of that process: on a machine that is busy with other things only the latter says something. With
`--folder` the store is kept there, and one that is there already is measured again. Exit code 0: every bar is met; 1:
one is missed, and named.

Figures: `open` is `CandidateStore(folder).counts()`, imports included; `front from nothing` reads the objectives of all
and takes front and hypervolume; `front update` adds the last 20,000 to the front of the others one by one, `hard` adds
20,000 points of a sphere's octant, of which none dominates another; `append` is one record with its wait for the disk,
`first append` the first of a process.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.search.record import CandidateRecord

NUM_RECORDS = 1_000_000
BATCH = 10_000
NUM_ADDED = 20_000
NUM_APPENDED = 50
SEED = 0
STAGES = ("E1", "E2", "E3", "deep", "D3", "D2", "D1")
WORDS = tuple(word + width for word in ("RARA", "RA", "RR", "R") for width in ("", "_w0.5", "_w0.25"))
#: The bars: key, largest value.
BARS = (("open_s", 3.0), ("front_update_ms", 5.0), ("report_s", 30.0))


def make_records(num: int) -> Iterator[list[CandidateRecord]]:
    """Distinct candidates in batches: costs add up over stages, error is additive times a log-normal factor of 0.2."""
    import numpy as np

    from nas.search.record import CandidateRecord

    rng = np.random.default_rng(SEED)
    cost, params, loss = (rng.lognormal(0, 0.7, (len(STAGES), len(WORDS))) for _ in range(3))
    # What is cheaper loses more, so that there is a front.
    loss = loss / (cost * params)
    ranks = rng.permutation(len(WORDS) ** 6)[:num]  # the seventh stage has one option
    pattern = CandidateRecord(
        candidate="x", options={}, vector=(), outcome="done", latency_ms=1.0, num_params=1, trial="x", seed=SEED
    )
    for begin in range(0, num, BATCH):
        rows = np.stack(np.unravel_index(ranks[begin : begin + BATCH], (len(WORDS),) * 6), axis=1)
        rows = np.insert(rows, 3, 0, axis=1)
        sums = [table[np.arange(7), rows].sum(axis=1) for table in (cost, params, loss)]
        errors = 0.002 * sums[2] * rng.lognormal(0, 0.2, len(rows))
        yield [
            pattern.model_copy(
                update={
                    "candidate": "-".join(WORDS[i] for i in row),
                    "options": {stage: WORDS[i] for stage, i in zip(STAGES, row, strict=True)},
                    "vector": tuple(row),
                    "latency_ms": latency,
                    "num_params": int(1e5 * size),
                    "num_macs": int(1e7 * size),
                    "prior": expected,
                    "metrics": {"latent_error": error, "noise_error": 0.6 * error, "tafid": 0.8 + 40 * error},
                    "trial": f"{begin + place:016x}",
                    "recipe_hash": "0123456789abcdef",
                    "worker": "host:1",
                    "seconds": 1.5,
                    "finished_at": "2026-01-01T00:00:00.000+00:00",
                }
            )
            for place, (row, latency, size, expected, error) in enumerate(
                zip(rows.tolist(), sums[0].tolist(), sums[1], (0.002 * sums[2]).tolist(), errors.tolist(), strict=True)
            )
        ]


def write(folder: Path, num: int) -> dict[str, float]:
    """Write the store of a run directory; seconds of `extend` alone."""
    from nas.search.store import STORE_FOLDER, CandidateStore

    store, seconds, cpu = CandidateStore(folder / STORE_FOLDER), 0.0, 0.0
    for batch in make_records(num):
        start = time.perf_counter(), time.process_time()
        assert store.extend(batch) == len(batch)
        seconds, cpu = seconds + time.perf_counter() - start[0], cpu + time.process_time() - start[1]
    return {"write_s": seconds, "write_cpu_s": cpu}


def measure(run_dir: Path) -> dict[str, Any]:
    """The figures of a written store as a JSON-ready mapping; in a process that did not write it."""
    figures: dict[str, Any] = {}

    def timed(name: str, call: Callable[[], Any], count: int = 1) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = call()
        unit, factor = ("ms", 1e3 / count) if count > 1 else ("s", 1.0)
        figures[f"{name}_{unit}"] = factor * (time.perf_counter() - wall)
        figures[f"{name}_cpu_{unit}"] = factor * (time.process_time() - cpu)
        return result

    def opened() -> Any:
        from nas.search.store import STORE_FOLDER, CandidateStore

        store = CandidateStore(run_dir / STORE_FOLDER)
        store.counts()
        return store

    store = timed("open", opened)
    figures["num_records"] = len(store)
    figures["store_mb"] = sum(path.stat().st_size for path in store.folder.iterdir()) / 1e6
    figures["open_peak_rss_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    import numpy as np

    from nas.growing_front import DominatedVolume
    from nas.pareto import FrontTracker
    from nas.report import write_report
    from nas.search.tables import export_tables

    _, values = store.objectives()
    tracker = FrontTracker((values[:, 1:].min(axis=0), values[:, 1:].max(axis=0)))
    timed("front_from_nothing", lambda: tracker.extend(store.objectives()[1]))
    figures["front_size"], figures["hypervolume"] = tracker.size, tracker.hypervolume
    growing = FrontTracker((values[:, 1:].min(axis=0), values[:, 1:].max(axis=0)))
    last = values[-min(NUM_ADDED, len(values) // 2) :]
    growing.extend(values[: len(values) - len(last)])

    def add() -> None:
        for row in last:
            growing.add(row)
            _ = growing.hypervolume

    timed("front_update", add, len(last))
    assert growing.size == tracker.size and abs(growing.hypervolume - tracker.hypervolume) < 1e-12
    octant = np.abs(np.random.default_rng(SEED).normal(size=(NUM_ADDED, 3)))
    octant = 1 - octant / np.linalg.norm(octant, axis=1, keepdims=True)
    volume = DominatedVolume(np.ones(3))
    timed("front_update_hard", lambda: [volume.add(point) for point in octant], len(octant))

    pattern = store.at(np.array([0]))[0]
    names = [f"new-{time.time_ns()}-{i}" for i in range(NUM_APPENDED)]
    new = [pattern.model_copy(update={"candidate": name, "trial": name, "outcome": "failed"}) for name in names]
    timed("first_append", lambda: store.append(new[0]))  # which sorts the keys of all
    timed("append", lambda: [store.append(record) for record in new[1:]], len(new) - 1)
    timed("tables", lambda: export_tables(run_dir))
    path = timed("report", lambda: write_report(run_dir))
    figures["report_mb"] = path.stat().st_size / 1e6
    figures["peak_rss_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return figures


def render(figures: dict[str, Any]) -> str:
    """The figures as text for a terminal."""
    lines = [f"{figures['num_records']:,} records, {figures['store_mb']:.0f} MB, front of {figures['front_size']:,}"]
    for key, label in (
        ("write_s", "written"),
        ("open_s", "open"),
        ("front_from_nothing_s", "front from nothing"),
        ("front_update_ms", "front update"),
        ("front_update_hard_ms", "front update, hard"),
        ("first_append_s", "first append"),
        ("append_ms", "append"),
        ("tables_s", "candidates.parquet and .csv"),
        ("report_s", "report"),
    ):
        if key in figures:
            name, unit = key.rsplit("_", 1)
            cpu = figures[f"{name}_cpu_{unit}"]
            lines.append(f"{label:<28}{figures[key]:10.3f} {unit} ({cpu:.3f} {unit} CPU)")
    lines.append(f"{'report.html':<28}{figures['report_mb']:10.1f} MB")
    lines.append(
        f"{'peak memory':<28}{figures['peak_rss_gib']:10.2f} GiB ({figures['open_peak_rss_gib']:.2f} once open)"
    )
    lines += [f"missed: {name} {figures[name]:.3g}, the bar is {bar:g}" for name, bar in figures["missed"]]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.store", description="Time a large store.")
    parser.add_argument("--records", type=int, default=NUM_RECORDS, help="how many (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="keep the run directory there")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        figures: dict[str, Any] = {"machine": platform.machine(), "python": platform.python_version()}
        if not (folder / "store").is_dir():
            figures |= write(folder, options.records)
        with get_context("spawn").Pool(1) as pool:
            figures |= pool.apply(measure, (folder,))
    figures["missed"] = [(name, bar) for name, bar in BARS if figures[name] > bar]
    print(json.dumps(figures, indent=1) if options.json else render(figures))
    return 1 if figures["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
