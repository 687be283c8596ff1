"""Fidelity of some candidates of the toy space at rungs of brief distillation: real curves to try early stopping on.

    python -m experiments.bench.distillation_curves DIR OUT.csv [--num 96]

DIR is the folder of a finished job of NanoSD-Bench: its trained blocks, its table, and its second stage, which has the
errors of 300 candidates after 100 steps, a third each from the front, from behind it and from the rest. All of them are
written with their error before distillation, as the table has it. The first of them (`--num`) are distilled again with
the same schedule and batches and measured on the way, on fewer samples. Killed and started again it goes on. The file
that is shipped, `distillation_curves.csv`, is what `early_stopping.py` reads.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.atomic import write_bytes

if TYPE_CHECKING:
    from experiments.nanosd_bench.distilled import Distilled

RUNGS = (0, 12, 25, 50)
NUM_SAMPLES = 24
COLUMNS = (
    "candidate", "arch", "stratum", "latency_ms", "num_params", "num_macs", "steps", "num_samples", "noise_error",
    "latent_error", "latent_error_se",
)  # fmt: skip
GROUP = 8


def measure(run: Any, group: Sequence[Distilled]) -> list[dict[str, Any]]:
    """Rows of a group of candidates: one a rung."""
    from nas.distill.candidate import distill_candidates
    from search_spaces.candidate import Candidate
    from search_spaces.surgery import assemble

    found = {one.candidate: Candidate.from_id(one.candidate, run.space.stages) for one in group}
    students = {name: assemble(run.teacher.unet, c, run.blocks, copy=False) for name, c in found.items()}
    about: dict[str, list[Any]] = {}
    rows = []
    for one in group:
        vector = run.space.encode(found[one.candidate])[None]
        costs = (run.latency.latency_ms(vector), run.costs.params(vector), run.costs.macs(vector))
        arch = "".join(str(i) for i in vector[0])
        about[one.candidate] = [one.candidate, arch, one.stratum, *(float(np.asarray(c)[0]) for c in costs)]
    batches = run.batches(run.align_settings.batch_size)
    for steps, copies in distill_candidates(run.teacher, students, batches, run.align_settings, RUNGS):
        for name, student in copies.items():
            errors = run.evaluator.sample_errors(run.evaluator.sample(student, run.evaluator.noise[:NUM_SAMPLES]))
            spread = errors.std(ddof=1) / np.sqrt(len(errors))
            values = [steps, NUM_SAMPLES, run.evaluator.noise_error(student), errors.mean(), spread]
            rows.append(dict(zip(COLUMNS, [*about[name], *values], strict=True)))
    return rows


def ends(run: Any, folder: Path, distilled: Sequence[Distilled]) -> list[dict[str, Any]]:
    """Rows of the errors before and after all steps."""
    from experiments.nanosd_bench.table import facts, load
    from search_spaces.candidate import Candidate

    frame = load(folder / "table.parquet").set_index("arch")
    num_samples = int(facts(folder / "table.parquet")["num_samples"])
    rows = []
    for one in distilled:
        vector = run.space.encode(Candidate.from_id(one.candidate, run.space.stages))
        free = [str(i) for i, names in zip(vector, run.space.options.values(), strict=True) if len(names) > 1]
        found: Any = frame.loc["".join(free)]
        about: list[Any] = [one.candidate, "".join(map(str, vector)), one.stratum]
        about += [float(found[name]) for name in ("latency_ms", "num_params", "num_macs")]
        errors = [float(found[name]) for name in ("noise_error", "latent_error", "latent_error_se")]
        end = [one.num_steps, run.recipe.fidelity.num_samples, one.noise_error, one.latent_error, ""]
        rows += [dict(zip(COLUMNS, [*about, *values], strict=True)) for values in ([0, num_samples, *errors], end)]
    return rows


def main() -> None:
    """Measure what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--num", type=int, default=96)
    options = parser.parse_args()

    from experiments.nanosd_bench.distilled import read_distilled
    from nas.quiet import quiet
    from nas.run.context import RunContext

    quiet()
    run = RunContext.open(options.folder / "run")
    chosen = [one for one in read_distilled(options.folder) if one.latent_error is not None]
    rows: list[dict[str, Any]] = []
    if options.out.is_file():
        with open(options.out, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    # Rungs on the way are the only ones of so few samples.
    rows = [row for row in rows if int(row["num_samples"]) == NUM_SAMPLES]
    known = {row["candidate"] for row in rows}
    left = [one for one in chosen[: options.num] if one.candidate not in known]
    both = ends(run, options.folder, chosen)
    _write(options.out, both + rows)
    for start in range(0, len(left), GROUP):
        rows += measure(run, left[start : start + GROUP])
        _write(options.out, both + rows)
        print(f"{len(rows) // len(RUNGS)} of {options.num} candidates", flush=True)


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    lines = [",".join(COLUMNS)] + [",".join(_text(row[name]) for name in COLUMNS) for row in rows]
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
