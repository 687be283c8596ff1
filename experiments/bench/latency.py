"""Few-shot latency prediction on devices never seen: our predictor beside the usual baselines.

    python -m experiments.bench.latency --data FILE.csv --space fbnet --targets A,B --n 10,20 --draws 10 --json

HELP's protocol (Lee et al., NeurIPS 2021): the first 4,000 rows of the table (NAS-Bench-201: 900) are the pool to
measure from, the next 1,000 the test; both are cut to the middle 80 % by the target's latency. Latencies of the source
devices are known on the pool only, so the test rows' are predicted. `--draws` random draws of `--n` rows each.
Without --targets every device in turn is the target and the others are the sources.

Interval coverage presumes that pool and test rows were measured alike. Some columns drift: 90 % of the whole pool's
residuals from a one-hot model (NAS-Bench-201: pairs too) lie within a bound that holds only for 59 % of the test on
NAS-Bench-201's 1080ti_32, 63 % on silver_4114, 72 % on gold_6240, 73 to 97 % elsewhere; on FBNet's samsung_s7 80 %,
essential_ph_1 83 %, 85 to 96 % elsewhere.

Values that cannot be latencies (not finite, not positive, a twentieth or twenty times the column's median) are left
out, and the output says how many and why.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.latency_spaces import SPACES, LatencySpace
from experiments.bench.latency_spaces.table import Table, read_table
from latency_predictors.judgement import is_covered, rank_correlations
from latency_predictors.models import (
    Ensemble,
    Gp,
    Inputs,
    LatencyPrior,
    Model,
    Nnls,
    OneHotRidge,
    Prediction,
    learn_prior,
    propose,
)
from latency_predictors.models.base import Array, Digits
from search_spaces.errors import UserError

_METRICS = ("spearman", "mape", "within10", "coverage90")

Makers = dict[str, Callable[[LatencyPrior], Model]]


def methods(space: LatencySpace) -> Makers:
    """What is compared; `ours` is the default predictor, `gp` is a member of it."""
    return {
        "ours": lambda prior: Ensemble(prior=prior),
        "gp": lambda prior: Gp(prior=prior),
        "transfer": lambda prior: Nnls(features="kernels+sources" if prior.num_sources else "kernels"),
        "nnls": lambda _: Nnls(),
        "onehot": lambda _: OneHotRidge(num_options=space.num_options),
        "flops": lambda _: Nnls(features="macs"),
    }


def evaluate_target(
    table: Table,
    target: str,
    sources: Sequence[str],
    nums: Sequence[int],
    draws: int,
    seed: int,
    choose: str = "random",
) -> dict[int, dict[str, dict[str, float]]]:
    """{n: {method: metrics}} of one target device, means over the draws. The sources never include the target.

    choose: "random" draws all n rows at random; "d-optimal" draws the first and lets `propose` choose the others.
    """
    space, measured = table.space, table.column(target)
    pool = _middle(measured, 0, space.num_pool)
    test = _middle(measured, space.num_pool, space.num_pool + space.num_test)
    if max(nums) > len(pool):
        raise UserError(f"--n {max(nums)}: the pool of {target} has {len(pool)} rows; give less")
    inputs = Inputs(space.kernels(table.structure), space.kernel_names, table.structure)
    known = np.array([table.column(source)[: space.num_pool] for source in sources]).reshape(-1, space.num_pool).T
    inputs = replace(inputs, sources=_source_predictions(inputs, known, space))
    prior = learn_prior(inputs.rows(slice(0, space.num_pool)), known, np.random.default_rng(seed))
    scores: dict[int, dict[str, list[tuple[float, ...]]]] = {n: {name: [] for name in methods(space)} for n in nums}
    for n in nums:
        # The same rows for a target and n whichever sources, other targets and other n there are.
        rng = np.random.default_rng([seed, n, *target.encode()])
        for _ in range(draws):
            rows = rng.choice(pool, n, replace=False)
            if choose == "d-optimal":
                start = int(np.flatnonzero(pool == rows[0])[0])
                rows = pool[[start, *propose(prior, inputs.rows(pool), [start], n - 1)]]
            for name, make in methods(space).items():
                prediction = make(prior).fit(inputs.rows(rows), measured[rows]).predict(inputs.rows(test))
                scores[n][name].append(score(prediction, measured[test]))
    return {
        n: {name: dict(zip(_METRICS, np.mean(each, axis=0).tolist(), strict=True)) for name, each in by_name.items()}
        for n, by_name in scores.items()
    }


def _source_predictions(inputs: Inputs, known_ms: Array, space: LatencySpace) -> Array:
    """Latencies (N, S) in ms of all networks on the source devices, from those known on the pool (pool, S)."""
    model = OneHotRidge(
        num_options=space.num_options,
        # All pairs of FBNet's 22 decisions would be 18,711 columns.
        pairs=inputs.structure is not None and inputs.structure.shape[1] <= 6,
        ridge=tuple(10.0 ** np.arange(-2.0, 4.0, 0.5)),
    )
    predicted = np.empty((len(inputs), known_ms.shape[1]))
    for column, latency_ms in enumerate(known_ms.T):
        rows = np.flatnonzero(np.isfinite(latency_ms))
        predicted[:, column] = model.fit(inputs.rows(rows), latency_ms[rows]).predict(inputs).latency_ms
    return predicted


def _middle(latency_ms: Array, start: int, stop: int) -> Digits:
    """Rows in [start, stop) with the middle 80 % of latencies."""
    rows = start + np.flatnonzero(np.isfinite(latency_ms[start:stop]))
    if not len(rows):
        raise UserError(f"rows {start} to {stop}: no latency of this target is usable; choose another target")
    low, high = np.quantile(latency_ms[rows], [0.1, 0.9])
    return rows[(latency_ms[rows] >= low) & (latency_ms[rows] <= high)]


def score(prediction: Prediction, measured_ms: Array) -> tuple[float, ...]:
    """(Spearman's rank correlation, MAPE in %, share within 10 %, coverage of the 90 % interval) of N networks.

    A constant prediction ranks nothing; its correlation counts as 0.
    """
    predicted = prediction.latency_ms
    rank = rank_correlations(measured_ms, predicted)[0] or 0.0
    relative = np.abs(predicted / measured_ms - 1.0)
    covered = is_covered(measured_ms, prediction)
    return (rank, 100.0 * float(relative.mean()), float((relative <= 0.1).mean()), float(covered.mean()))


def mean_over_targets(targets: dict[str, dict[int, dict[str, dict[str, float]]]]) -> dict[int, dict[str, Any]]:
    """{n: {method: metrics}}: the mean of every metric over the target devices."""
    first = next(iter(targets.values()))
    return {
        n: {
            name: {
                metric: math.fsum(each[n][name][metric] for each in targets.values()) / len(targets) for metric in row
            }
            for name, row in by_name.items()
        }
        for n, by_name in first.items()
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The benchmark's JSON document."""
    table = read_table(options.data, SPACES[options.space])
    targets, named = options.targets or table.usable_devices, options.sources or table.usable_devices
    for name in (*targets, *named):
        if np.isnan(table.column(name)[: table.space.num_pool]).all():
            raise UserError(f"device {name!r}: no latency of its pool rows is usable; leave it out")
    figures = {}
    for target in targets:
        taboo = options.targets or [target]
        sources = [name for name in named if name not in taboo]
        figures[target] = evaluate_target(
            table, target, sources, options.n, options.draws, options.seed, options.choose
        )
        print(f"{target}: done", file=sys.stderr, flush=True)
    return {
        "targets": figures,
        "mean": mean_over_targets(figures),
        "dropped": table.dropped,
        "protocol": {
            "space": options.space,
            "pool_rows": table.space.num_pool,
            "test_rows": table.space.num_test,
            "draws": options.draws,
            "seed": options.seed,
            "choose": options.choose,
        },
    }


def render(document: dict[str, Any]) -> str:
    """The document as a table for a terminal."""
    lines = [
        f"dropped {note['num_rows']} rows of {device}: {note['why']}" for device, note in document["dropped"].items()
    ]
    lines.append(f"{'target':<16}{'n':>4}  {'method':<10}{'Spearman':>9}{'MAPE %':>8}{'+-10 %':>8}{'90 % cov.':>10}")
    for target, by_n in [*document["targets"].items(), ("mean", document["mean"])]:
        for n, by_name in by_n.items():
            for name, row in by_name.items():
                cells = f"{row['spearman']:>9.3f}{row['mape']:>8.2f}{row['within10']:>8.3f}{row['coverage90']:>10.3f}"
                lines.append(f"{target:<16}{n:>4}  {name:<10}{cells}")
    return "\n".join([*lines, *beats(document)])


def beats(document: dict[str, Any]) -> list[str]:
    """A line per n: our mean MAPE against every other method's, and on how many targets ours is the smaller one."""
    lines = []
    for n, by_name in document["mean"].items():
        targets = [by_n[n] for by_n in document["targets"].values()]
        ours = by_name["ours"]["mape"]
        against = [
            f"{name} {row['mape']:.2f} ({sum(each['ours']['mape'] < each[name]['mape'] for each in targets)} of "
            f"{len(targets)} targets)"
            for name, row in by_name.items()
            if name != "ours"
        ]
        lines.append(f"beats, n = {n}: MAPE {ours:.2f} against {', '.join(against)}")
    return lines


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _counts(text: str) -> list[int]:
    counts = [int(part) for part in text.split(",")]
    if not counts or min(counts) < 1:
        raise ValueError
    return list(dict.fromkeys(counts))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; exit code 0, or 2 for what the user must mend."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="CSV: the architecture, then one column of ms per device"
    )
    parser.add_argument("--space", choices=list(SPACES), required=True)
    parser.add_argument("--targets", type=_names, help="devices to predict; default: each in turn")
    parser.add_argument("--sources", type=_names, help="devices to transfer from; default: all that are no target")
    parser.add_argument("--n", type=_counts, default=[10, 20], help="numbers of measurements; default 10,20")
    parser.add_argument("--draws", type=lambda text: _counts(text)[0], default=10, help="default 10")
    parser.add_argument("--seed", type=int, default=0, help="of the draws; default 0")
    parser.add_argument("--choose", choices=["random", "d-optimal"], default="random", help="how rows are drawn")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    try:
        document = run(options)
    except UserError as error:
        print(f"latency benchmark: {error}", file=sys.stderr)
        return 2
    print(json.dumps(document, indent=1, allow_nan=False) if options.json else render(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
