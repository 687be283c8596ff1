"""Do the 90 % intervals of device profiles hold 90 %, whatever little was measured?

    python -m experiments.bench.this_machine --shape toy,sd-tenth --work runs/this_machine
    python -m experiments.bench.intervals --profile runs/this_machine/*/profile.json --networks 1,3,10 --blocks 4,12,37

FILE is a device profile (format 2) with many blocks and whole U-Nets, as the first command writes them. In each draw so
many of its blocks and U-Nets, chosen at random, are what was measured; a profile is fitted to them and predicts the
other U-Nets. Printed are, over draws, the share of them that lies in the interval, its median half width and the median
error, per cent.

The constants that stand behind intervals while little is measured were chosen so that this share is near 90 %:
`--scale prior_log_std=0.5` shows what one does, here with half of it. JSON: {"profiles": {FILE: {"BLOCKS blocks,
NETWORKS U-Nets": {"coverage90", "half_width_pct", "median_error_pct", "num_fits"}}}}.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from latency_predictors import fitting, parts
from latency_predictors.fitting import ProfileFacts, fit_profile
from latency_predictors.models import additive, ensemble
from latency_predictors.profile import DeviceProfile
from latency_predictors.training import Training
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError

CONSTANTS: dict[str, tuple[ModuleType, str]] = {
    "prior_log_std": (additive, "PRIOR_LOG_STD"),
    "prior_log_std_per_spread": (additive, "PRIOR_LOG_STD_PER_SPREAD"),
    "prior_log_std_scale_only": (additive, "PRIOR_LOG_STD_SCALE_ONLY"),
    "imputed_log_std": (parts, "_IMPUTED_LOG_STD"),
    "imputed_count": (parts, "_IMPUTED_COUNT"),
    "network_share": (parts, "_NETWORK_SHARE"),
    "chosen_factor": (fitting, "_CHOSEN_FACTOR"),
    "gp_prior_count": (ensemble, "_PRIOR_COUNT_ALONE"),
    "ensemble_prior_count": (ensemble, "_PRIOR_COUNT"),
}
"""By name: where each stands, with what it was chosen on."""


def coverage(
    profile: DeviceProfile, num_blocks: Sequence[int], num_networks: Sequence[int], draws: int, seed: int = 0
) -> dict[str, dict[str, float]]:
    """The table of one profile; see the module. A setting in which nothing could be fitted is left out.

    Raises:
        UserError: fewer blocks or whole U-Nets than asked for.
    """
    known = profile.training
    blocks, networks = list(known.parts), list(known.networks)
    if max(num_blocks) > len(blocks):
        raise UserError(f"--blocks {max(num_blocks)}: the profile has {len(blocks)}; give at most so many")
    if max(num_networks) >= len(networks):
        raise UserError(
            f"--networks {max(num_networks)}: the profile has {len(networks)}; give fewer, since others are predicted"
        )
    found: dict[str, dict[str, float]] = {}
    for some_blocks in num_blocks:
        for some_networks in num_networks:
            rng = np.random.default_rng([seed, some_blocks, some_networks])  # whatever other settings are asked for
            rows = []
            for _ in range(draws):
                chosen = [networks[i] for i in rng.permutation(len(networks))]
                training = Training(
                    {blocks[i]: known.parts[blocks[i]] for i in rng.permutation(len(blocks))[:some_blocks]},
                    {name: known.networks[name] for name in chosen[:some_networks]},
                )
                row = _one(profile, training, chosen[some_networks:])
                rows += [] if row is None else [row]
            if rows:
                means = np.mean([row[0] for row in rows]), *np.median([row[1:] for row in rows], axis=0)
                keys = ("coverage90", "half_width_pct", "median_error_pct")
                found[f"{some_blocks} blocks, {some_networks} U-Nets"] = {
                    **dict(zip(keys, map(float, means), strict=True)),
                    "num_fits": len(rows),
                }
    return found


def _one(profile: DeviceProfile, training: Training, unseen: Sequence[str]) -> tuple[float, float, float] | None:
    """Coverage, half width and median error (per cent) on `unseen`; None where there is no fit or no latency."""
    space = profile.own_space
    facts = ProfileFacts(profile.device, profile.runtime, profile.precision, profile.latent_size, profile.num_tokens)
    matrix = np.stack([space.encode(Candidate.from_id(name, space.stages)) for name in unseen])
    try:
        fitted = fit_profile(space, profile.kernel_tables, training, facts)
        predicted = fitted.predict(space, matrix)
    except UserError:
        return None
    measured = np.array([profile.training.networks[name].latency_ms for name in unseen])
    holds = (predicted.low_ms <= measured) & (measured <= predicted.high_ms)
    widths = 100.0 * (predicted.high_ms / predicted.latency_ms - 1.0)
    errors = 100.0 * np.abs(predicted.latency_ms / measured - 1.0)
    return float(holds.mean()), float(np.median(widths)), float(np.median(errors))


@contextmanager
def scaled(factors: Mapping[str, float]) -> Iterator[None]:
    """Multiplies constants meanwhile. They are read whenever a profile is fitted, and are nobody's option.

    Raises:
        UserError: an unknown constant, or a factor that is not positive.
    """
    for name, factor in factors.items():
        if name not in CONSTANTS or not 0 < factor < np.inf:
            raise UserError(f"--scale {name}={factor:g}: legal are positive factors of {', '.join(CONSTANTS)}")
    before = {name: getattr(*CONSTANTS[name]) for name in factors}
    try:
        for name, factor in factors.items():
            setattr(*CONSTANTS[name], factor * before[name])
        yield
    finally:
        for name, value in before.items():
            setattr(*CONSTANTS[name], value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 2 for what the user must mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", type=Path, nargs="+", required=True)
    parser.add_argument("--networks", default="1,2,3,5,10")
    parser.add_argument("--blocks", default="4,12,37")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", action="append", default=[], metavar="NAME=FACTOR", help=", ".join(CONSTANTS))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    tables: dict[str, Any] = {}
    try:
        blocks, networks = ([int(n) for n in text.split(",")] for text in (given.blocks, given.networks))
        factors = {name: float(factor) for name, _, factor in (text.partition("=") for text in given.scale)}
        with scaled(factors):
            for path in given.profile:
                tables[str(path)] = coverage(DeviceProfile.load(path), blocks, networks, given.draws, given.seed)
    except ValueError as error:  # a UserError is one
        print(f"intervals: {error}", file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps({"profiles": tables}, indent=1))
        return 0
    for path_text, table in tables.items():
        print(path_text)
        for name, row in table.items():
            print(
                f"  {name:<22} coverage {row['coverage90']:.2f}  half width {row['half_width_pct']:6.1f} %  "
                f"median error {row['median_error_pct']:5.1f} %  ({row['num_fits']:.0f} fits)"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
