r"""How many evaluations does each sampler need? Hypervolume on a table of candidates that are evaluated already.

    python -m experiments.bench.search --table FILE.csv --arch arch --minimize 'error,params,flops' \
        --known params,flops --error-from mean_acc --methods ours,random,nsga2,tpe,gp --seeds 10 --budget 200 --json
    python -m experiments.bench.search --table experiments/nanosd_bench/nanosd_bench.parquet \
        --minimize latent_error,latency_ms,num_params --prior single_swap_sum --methods ours-prior,ours,nsga2,tpe,gp

FILE (CSV or Parquet) has a column of architecture strings, one digit a decision, and numbers. `error` is 100 (or 1)
minus `--error-from`. Samplers are told the `--known` objectives of every candidate, if they can use them, and the
others of what they have evaluated. `--batch q`: q candidates are asked for, then all of them told. Hypervolumes
are shares of the true front's below the reference point: `worst`, the worst value of each objective in the table, or
`tight` (:meth:`nas.search.table.CandidateTable.reference`), which says more of the good end. Samplers that
can be given a reference point (`ours`, `qlognehvi`) choose their own, or are told it with `--tell-reference`.

JSON: {"methods": {METHOD: {"hv": {N: {"median", "worst"}}, "evals_to": {SHARE: {"median", "worst"}}, "proposal_ms":
{"median", "p90"}}}, "settings": {...}}. Medians and worst are over seeds; null is a share that was not reached, or a
number of evaluations beyond the budget; a method is null where its library is not installed. `proposal_ms` is processor
time a proposal. With `--journal FILE` finished runs are kept and not repeated.

`ours` is the recipe's sampler `ehvi`; `ours-prior` is told the column `--prior` too, a prediction of the only unknown
objective for every candidate. `nsga2`, `tpe` and `gp` are Optuna's NSGAIISampler (population 16), TPESampler
(multivariate) and GPSampler as they come: they may propose a candidate again, which costs an evaluation.
`nsga2-unseen`, `tpe-unseen` and `gp-unseen` are the same inside the recipe's sweep, where the nearest candidate not yet
proposed takes the place of a repeated one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.bench.search_runs import METHODS, UNSEEN, WITH_PRIOR, Job, Run, run_jobs, sampler_name
from experiments.processes import num_cores
from nas.search.simulation_study import SHARES, over_seeds
from nas.search.table import TableSource
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from nas.search.table import ReferenceName

EVALUATIONS = (10, 20, 50, 100, 200)


def summary(runs: Sequence[Run], budget: int) -> dict[str, Any]:
    """Medians and worst over the runs (one a seed) of one method; see the module."""
    hv = {
        # A run that ended before its budget has evaluated every candidate.
        str(n): asdict(over_seeds([run.share[:n][-1] if n <= budget else None for run in runs], more_is_worse=False))
        for n in EVALUATIONS
    }
    evals_to = {f"{share:g}": asdict(over_seeds([_first(run.share, share) for run in runs])) for share in SHARES}
    times = np.concatenate([run.proposal_ms for run in runs])
    proposal = {"median": float(np.median(times)), "p90": float(np.quantile(times, 0.9))}
    return {"hv": hv, "evals_to": evals_to, "proposal_ms": proposal}


def _first(shares: Sequence[float], share: float) -> int | None:
    return next((number for number, reached in enumerate(shares, 1) if reached >= share), None)


def available(methods: Sequence[str]) -> dict[str, str | None]:
    """Each method and why it cannot run here (None if it can).

    Raises:
        UserError: a method that there is none of.
    """
    from nas.search.sampler import check_sampler

    legal = (*METHODS, WITH_PRIOR, *UNSEEN)
    unknown = [method for method in methods if method not in legal]
    if unknown or not methods:
        raise UserError(f"--methods {','.join(unknown)}: no such method; legal are {', '.join(legal)}")
    found: dict[str, str | None] = {}
    for method in methods:
        try:
            check_sampler(sampler_name(method))
            found[method] = None
        except UserError as error:
            found[method] = str(error)
    return found


def compare(
    arguments: TableSource,
    methods: Sequence[str] = METHODS,
    seeds: int = 10,
    budget: int = 200,
    batch: int = 1,
    reference: ReferenceName = "worst",
    processes: int = 1,
    told: bool = False,
    journal: Path | None = None,
    prior: str | None = None,
) -> dict[str, Any]:
    """The bench's JSON; see the module.

    Raises:
        UserError: a table, a method or a prior that cannot be used.
    """
    told_prior = arguments if prior is None else replace(arguments, columns=(*arguments.columns, prior))
    table = told_prior.read()
    missing = available(methods)
    if (prior is None) == (WITH_PRIOR in methods):
        raise UserError(f"method {WITH_PRIOR} and --prior COLUMN go together; give both or neither")
    if prior is not None and table.known.count(False) != 1:
        raise UserError(f"--prior {prior}: predicts one objective; give --known all others")
    for method, reason in missing.items():
        if reason is not None:
            print(f"{method}: left out, {reason}", file=sys.stderr)
    table.tracker(reference)  # says at once what is wrong with the reference
    jobs = [
        Job(told_prior, method, seed, budget, batch, reference, told, prior)
        if method == WITH_PRIOR
        else Job(arguments, method, seed, budget, batch, reference, told)
        for seed in range(seeds)
        for method in methods
        if missing[method] is None
    ]
    runs: dict[str, list[Run]] = {}
    for number, run in enumerate(run_jobs(jobs, processes, journal), 1):
        runs.setdefault(run.method, []).append(run)
        last = f"{run.share[-1]:.4f}" if run.share else "nothing"
        print(f"{number}/{len(jobs)} {run.method} seed {run.seed}: {last} after {len(run.share)}", file=sys.stderr)
    return {
        "methods": {method: summary(runs[method], budget) if method in runs else None for method in methods},
        "settings": {
            "table": table.name,
            "num_candidates": len(table),
            "front_size": len(table.front),
            "objectives": dict(
                zip(table.objectives, ("known" if k else "evaluated" for k in table.known), strict=True)
            ),
            "reference": {"name": reference, "point": table.reference(reference).tolist(), "told": told},
            "notes": list(table.notes),
            "seeds": seeds,
            "budget": budget,
            "batch": batch,
            "prior": prior,
            "proposal_ms": "processor time of a proposal",
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.search", description=__doc__.split("\n")[0])
    parser.add_argument("--table", required=True, metavar="FILE", help="CSV or Parquet")
    parser.add_argument("--arch", default="arch", help="column of architecture strings")
    parser.add_argument("--decisions", default="", help="columns that each are a decision, in place of --arch")
    parser.add_argument("--minimize", default="error,params,flops", help="objectives")
    parser.add_argument(
        "--known", default=None, help="objectives known for every candidate; default: all but the first"
    )
    parser.add_argument("--error-from", default=None, help="column of accuracies that the error is made from")
    parser.add_argument("--prior", default=None, metavar="COLUMN", help=f"prediction that {WITH_PRIOR} is told")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=int, default=200, help="evaluations of a run")
    parser.add_argument("--batch", type=int, default=1, help="evaluations at a time")
    parser.add_argument("--reference", choices=("worst", "tight"), default="worst")
    parser.add_argument("--tell-reference", action="store_true", help="tell samplers the reference point")
    parser.add_argument("--processes", type=int, default=num_cores())
    parser.add_argument("--journal", type=Path, default=None, help="file that keeps finished runs (JSON lines)")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    try:
        for name in ("seeds", "budget", "batch", "processes"):
            if getattr(given, name) < 1:
                raise UserError(f"--{name} {getattr(given, name)}: legal is 1 or more")
        objectives = _listed(given.minimize)
        arguments = TableSource(
            given.table,
            given.arch,
            objectives,
            objectives[1:] if given.known is None else _listed(given.known),
            given.error_from,
            _listed(given.decisions),
        )
        found = compare(
            arguments,
            _listed(given.methods),
            given.seeds,
            given.budget,
            given.batch,
            given.reference,
            given.processes,
            given.tell_reference,
            given.journal,
            given.prior,
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; runs in a --journal are kept", file=sys.stderr)
        return 130
    print(json.dumps(found, indent=2, allow_nan=False) if given.json else _text(found))
    return 0


def _listed(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _text(found: Mapping[str, Any]) -> str:
    settings = found["settings"]
    lines = [
        f"{settings['table']}: {settings['num_candidates']:,} candidates, {settings['front_size']} on the front; "
        f"{settings['seeds']} seeds, batch {settings['batch']}, reference {settings['reference']['name']}",
        *settings["notes"],
        "median (worst seed): hypervolume after N evaluations | evaluations to a share of it | ms a proposal, p90",
        "method     "
        + " ".join(f"{f'N={n}':>13}" for n in EVALUATIONS)
        + " |"
        + " ".join(f"{f'{100 * share:g} %':>13}" for share in SHARES)
        + " |",
    ]
    for method, row in found["methods"].items():
        if row is None:
            lines.append(f"{method:<10} not installed")
            continue
        hv = " ".join(_cell(row["hv"][str(n)], ".3f") for n in EVALUATIONS)
        evals = " ".join(_cell(row["evals_to"][f"{share:g}"], "g") for share in SHARES)
        proposal = row["proposal_ms"]
        lines.append(f"{method:<10} {hv} | {evals} | {proposal['median']:.1f}, {proposal['p90']:.1f}")
    return "\n".join(lines)


def _cell(value: Mapping[str, float | None], form: str) -> str:
    median, worst = ("-" if v is None else format(v, form) for v in (value["median"], value["worst"]))
    return f"{f'{median} ({worst})':>13}"


if __name__ == "__main__":
    sys.exit(main())
