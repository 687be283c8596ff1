"""Whether searched fronts dominate the hand-made baselines: one line a finished run, and all figures as JSON.

    python -m experiments.bench.baselines RUN [RUN ...] [--front 3] [--uniform-params N] [--out FILE]

Runs of several seeds say whether an answer holds: `nanosd search --set seed=1 --name seed1` and so on. Baselines that
a run lacks are made (`nanosd baselines`), which takes minutes a run; what is there is read back.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.output import plain, print_rows
from experiments.runs import find_run
from nas.atomic import write_json

if TYPE_CHECKING:
    from nas.baselines import Baselines


def summary(run: str, seed: int, num_evaluated: int, record: Baselines) -> dict[str, Any]:
    """One row: which baselines are dominated, the hypervolumes, and the differences in error to their rivals."""
    return {
        "run": run,
        "seed": seed,
        "num_evaluated": num_evaluated,
        "num_searched_finished": len(record.searched),
        "dominates_all": record.dominates_all,
        "dominated": {entry.name: list(entry.dominated_by) for entry in record.baselines},
        "hypervolume_searched": record.hypervolume_searched,
        "hypervolume_with": record.hypervolume_with,
        "hypervolume_baselines": record.hypervolume_baselines,
        "latency": record.latency,
        "entries": [entry.model_dump(mode="json") for entry in record.entries],
    }


def main(arguments: list[str] | None = None) -> None:
    """Compare the runs that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--front", type=int, default=3, help="candidates of the front to finish besides")
    parser.add_argument("--uniform-params", type=int, help="size of the uniform-width layout (that of the pick prime)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args(arguments)

    from nas.progress import Progress
    from nas.run.baselines import make_baselines
    from nas.run.context import RunContext

    rows = []
    for name in given.runs:
        folder = find_run(name)
        record = make_baselines(folder, given.front, Progress(), given.uniform_params)
        run = RunContext.open(folder)
        rows.append(summary(folder.name, run.recipe.seed, len(run.store.objectives()[0]), record))
    print_rows(
        [
            {
                "run": row["run"],
                "evaluated": row["num_evaluated"],
                **{name: "dominated" if by else "not dominated" for name, by in row["dominated"].items()},
                "hypervolume": f"{row['hypervolume_searched']:.4f}",
                "with baselines": f"{row['hypervolume_with']:.4f}",
                "of baselines alone": f"{row['hypervolume_baselines']:.4f}",
            }
            for row in rows
        ]
    )
    if given.out is not None:
        write_json(given.out, plain(rows))
        print(json.dumps({"written": str(given.out)}))


if __name__ == "__main__":
    main()
