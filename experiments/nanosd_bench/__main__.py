"""Make NanoSD-Bench: `python -m experiments.nanosd_bench run DIR`; see docs/nanosd-bench.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from search_spaces.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 where a check fails; 2 for what the user must mend; 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m experiments.nanosd_bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="make blocks and errors, or go on with them; stop it as you like")
    run.add_argument("folder", type=Path)
    run.add_argument("--first-samples", type=int, default=32, help="samples before candidates are distilled (32)")
    run.add_argument("--samples", type=int, default=None, help="samples in the end (default: the recipe's)")
    run.add_argument("--distil", type=int, default=300, help="candidates to distil briefly (300)")
    check = commands.add_parser("check", help="compare with PairedEvaluator on random candidates")
    check.add_argument("folder", type=Path)
    check.add_argument("--num", type=int, default=20, help="candidates (20)")
    status = commands.add_parser("status", help="say how much is there")
    status.add_argument("folder", type=Path)
    combine = commands.add_parser("combine", help="write the table of what is there, with costs")
    combine.add_argument("folder", type=Path)
    combine.add_argument("--out", type=Path, required=True, help="Parquet file")
    args = parser.parse_args(arguments)

    from nas.quiet import quiet

    quiet()
    import torch

    torch.set_num_threads(1)
    try:
        if args.command == "run":
            return _run(args.folder, args.first_samples, args.samples, args.distil)
        if args.command == "check":
            return _check(args.folder, args.num)
        if args.command == "status":
            return _status(args.folder)
        return _combine(args.folder, args.out)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130


def _run(folder: Path, first: int, samples: int | None, num_distilled: int) -> int:
    from experiments.nanosd_bench.distilled import distil
    from experiments.nanosd_bench.job import Job
    from experiments.nanosd_bench.shards import NOISE, SAMPLES
    from experiments.nanosd_bench.table import write
    from nas.progress import Progress

    job, progress = Job(folder), Progress()
    with job.run.directory.lock():
        job.prepare(progress)
        parts = job.latent_parts[: -(-samples // SAMPLES) if samples else None]
        early = max(1, -(-first // SAMPLES))
        job.evaluate([NOISE], progress)
        for number, part in enumerate(parts, start=1):
            job.evaluate([part], progress)
            write(job, folder / "table.parquet")
            if number == min(early, len(parts)) and num_distilled:
                distil(job, num_distilled, progress)
                write(job, folder / "table.parquet")
    return 0


def _status(folder: Path) -> int:
    from experiments.nanosd_bench.job import existing
    from experiments.nanosd_bench.shards import NOISE
    from nas.distill.results import read_results

    job = existing(folder)
    blocks = job.run.directory.blocks
    print(f"blocks: {len(read_results(blocks)) if blocks.is_file() else 'not trained yet'}")
    for part in [NOISE, *job.latent_parts]:
        done = sum(job.shards.has(part, unit) for unit in job.units) if blocks.is_file() else 0
        print(f"{part.name}: {done} of {len(job.units)} units")
    from experiments.nanosd_bench.distilled import read_distilled

    print(f"distilled: {len(read_distilled(folder))} candidates")
    return 0


def _combine(folder: Path, out: Path) -> int:
    from experiments.nanosd_bench.job import existing
    from experiments.nanosd_bench.table import write

    said = write(existing(folder), out)
    size = out.stat().st_size / 1e6
    print(f"{out}: {size:.2f} MB, {said['num_samples']} samples a candidate, {said['num_distilled']} distilled")
    return 0


def _check(folder: Path, num: int) -> int:
    from experiments.nanosd_bench.checking import check, print_check
    from experiments.nanosd_bench.job import existing

    return print_check(check(existing(folder), num))


if __name__ == "__main__":
    sys.exit(main())
