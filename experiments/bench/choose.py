"""Does it matter what is measured? Error on unseen U-Nets for chosen against random measurements.

    python -m experiments.bench.choose --profile FILE... --budgets 5,10,20 --draws 12 --json

FILE is a device profile (format 2, so that it holds kernel sums) with many whole U-Nets, fitted and unseen together at
least twice the largest budget. In each draw half of them are what may be measured, the other half the test; random
choices are drawn three times. Prints the median over draws of the median and 90th percentile of the absolute error (per
cent), and of Spearman, by budget and by what is measured. JSON: {"profiles": {FILE: {BUDGET: {"MEASURE, CRITERION":
{"median_error_pct", "p90_error_pct", "spearman"}}}}}.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latency_predictors.choosing import Criterion, Measure, Pool
from latency_predictors.evaluation import evaluate
from latency_predictors.fitting import ProfileFacts, fit_profile
from latency_predictors.profile import DeviceProfile
from latency_predictors.training import Training
from search_spaces.errors import UserError

_RANDOM_EACH = 3
_MEASURES: tuple[Measure, ...] = ("candidates", "both")
_CRITERIA: tuple[Criterion, ...] = ("i_optimal", "d_optimal")


def compare(
    profile: DeviceProfile, budgets: Sequence[int], draws: int, seed: int = 0
) -> dict[str, dict[str, dict[str, float]]]:
    """The table of one profile; see the module.

    Raises:
        UserError: too few whole U-Nets, or a profile without kernel sums.
    """
    training, space = profile.training, profile.own_space
    networks = list(training.networks)
    if not profile.kernel_names:
        raise UserError("profile: has no kernel sums (format 1); calibrate again, or import its measurements")
    if len(networks) < 2 * max(budgets):
        raise UserError(
            f"profile: {len(networks)} whole U-Nets; for a budget of {max(budgets)} twice as many are needed"
        )
    rng = np.random.default_rng(seed)
    found: dict[str, dict[str, list[tuple[float, float, float]]]] = {str(n): {} for n in budgets}
    for _ in range(draws):
        shuffled = [networks[i] for i in rng.permutation(len(networks))]
        offered, test = shuffled[: len(networks) // 2], shuffled[len(networks) // 2 :]
        for measure in _MEASURES:
            pool = Pool.of(space, profile.kernel_tables, measure, offered=offered)
            names = [n for n in pool.names if n in training.parts or n in training.networks]
            for n in budgets:
                chosen = {f"{measure}, {c}": [pool.next([], n, c)] for c in _CRITERIA}
                chosen[f"{measure}, random"] = [
                    [names[i] for i in rng.choice(len(names), n, replace=False)] for _ in range(_RANDOM_EACH)
                ]
                for name, choices in chosen.items():
                    found[str(n)].setdefault(name, []).extend(_errors(profile, each, test) for each in choices)
    keys = ("median_error_pct", "p90_error_pct", "spearman")
    return {
        n: {name: dict(zip(keys, map(float, np.median(rows, axis=0)), strict=True)) for name, rows in by.items()}
        for n, by in found.items()
    }


def _errors(profile: DeviceProfile, chosen: Sequence[str], test: Sequence[str]) -> tuple[float, float, float]:
    """Median and 90th percentile of the error and Spearman on `test`; infinite errors where nothing can be fitted."""
    known = profile.training
    training = Training(
        {name: known.parts[name] for name in chosen if name in known.parts},
        {name: known.networks[name] for name in chosen if name in known.networks},
    )
    facts = ProfileFacts(profile.device, profile.runtime, profile.precision, profile.latent_size, profile.num_tokens)
    try:
        fitted = fit_profile(profile.own_space, profile.kernel_tables, training, facts)
    except UserError:
        return np.inf, np.inf, 0.0
    judgement = evaluate(fitted, {name: known.networks[name] for name in test}).judgement
    assert judgement is not None
    return judgement.median_error_pct, judgement.p90_error_pct, judgement.spearman or 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 2 for what the user must mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", type=Path, nargs="+", required=True)
    parser.add_argument("--budgets", default="5,10,20")
    parser.add_argument("--draws", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    tables: dict[str, Any] = {}
    try:
        budgets = [int(text) for text in given.budgets.split(",")]
        for path in given.profile:
            tables[str(path)] = compare(DeviceProfile.load(path), budgets, given.draws, given.seed)
    except ValueError as error:  # a UserError is one
        print(f"choose: {error}", file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps({"profiles": tables}, indent=1))
        return 0
    for path_text, table in tables.items():
        print(path_text)
        for n, rows in table.items():
            for name, row in rows.items():
                errors = f"median {row['median_error_pct']:6.1f} %  p90 {row['p90_error_pct']:6.1f} %"
                print(f"  {n:>3}  {name:<24} {errors}  Spearman {row['spearman']:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
