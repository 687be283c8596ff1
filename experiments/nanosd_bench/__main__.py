"""Make NanoSD-Bench: `python -m experiments.nanosd_bench run DIR`; see docs/nanosd-bench.md.

    run DIR [--samples N]   blocks, errors of all candidates; stop it and start it again as you like
    check DIR               shared evaluation against PairedEvaluator on random candidates; agreement by sample count
    status DIR              how much is there
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from search_spaces.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0; 2 for what the user must mend; 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.nanosd_bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="make the table, or go on with it")
    run.add_argument("folder", type=Path)
    run.add_argument("--samples", type=int, default=None, help="samples a candidate (default: the recipe's)")
    check = commands.add_parser("check", help="compare with PairedEvaluator on random candidates")
    check.add_argument("folder", type=Path)
    check.add_argument("--num", type=int, default=20)
    args = parser.parse_args(arguments)

    from nas.quiet import quiet

    quiet()
    import torch

    torch.set_num_threads(1)
    try:
        if args.command == "run":
            return _run(args.folder, args.samples)
        return _check(args.folder, args.num)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130


def _run(folder: Path, samples: int | None) -> int:
    from experiments.nanosd_bench.job import Job
    from experiments.nanosd_bench.shards import NOISE, SAMPLES
    from nas.progress import Progress

    job, progress = Job(folder), Progress()
    with job.run.directory.lock():
        job.prepare(progress)
        job.evaluate([NOISE, *job.latent_parts[: -(-samples // SAMPLES) if samples else None]], progress)
    return 0


def _check(folder: Path, num: int) -> int:
    from experiments.nanosd_bench.checking import check, print_check
    from experiments.nanosd_bench.job import Job

    return print_check(check(Job(folder), num))


if __name__ == "__main__":
    sys.exit(main())
