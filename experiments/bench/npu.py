"""Latency of Stable Diffusion's parts on an NPU that has measured none of them.

    python -m experiments.bench.npu --data FILE.csv [--targets DEVICE,...] [--n 1,10,20] [--json]

Protocol. One device of the file is the target, all others are sources; devices with identical figures are one. Only
W8A16 networks entirely on the NPU count. The target's figures of ``n`` networks are known, none of them of Stable
Diffusion or ControlNet; which ones, the method asks for itself (``--choice designed``: least variance left at the
networks asked for, computed from the sources alone) or chance (``--choice random``, ``--draws`` times). Asked for are
all Stable Diffusion and ControlNet networks of the target (U-Nets, ControlNet, VAE decoders, text encoders, each by
runtime path); the sources' figures of the same networks are known. Nothing about the target's other rows enters, not
even its scale. Interval widths come from the sources, each held out in turn.

Left out of what may be measured: networks that another runtime path runs more than twice as fast on the median source,
since what they measure is the toolchain. Left out everywhere, and listed: figures more than twice slower than the same
graph on the same device and path. That a figure of the target is one of
these is known from its own figures only, so the mean is given a second time with its slowed figures of Stable Diffusion
and ControlNet asked for, too (`mean_with_slowed`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, spearmanr

from latency_predictors.npu.records import LatencyTable, read_latency_table
from latency_predictors.npu.transfer import LogPrediction, Sources, choose, interval_scale, predict
from search_spaces.errors import UserError

Floats = NDArray[np.float64]
KEYS = ("mape", "spearman", "coverage90")
_MIN_QUERIES = 3  # below that no rank correlation
_MIN_SOURCES = 3  # figures a network needs on the sources


class Task:
    """One device as target: what may be measured, what is asked for, and what the sources say of both."""

    def __init__(
        self, table: LatencyTable, column: int, exclude: Sequence[int] = (), with_slowed: bool = False
    ) -> None:
        others = [i for i in range(len(table.devices)) if i != column and i not in exclude]
        log_ms = np.log(table.latency_ms)
        for row, ms in _slowed_diffusion(table, column).items() if with_slowed else ():
            log_ms[row, column] = np.log(ms)
        known = np.isfinite(log_ms[:, others]).sum(axis=1)
        diffusion = np.array([network.is_diffusion for network in table.networks])
        asked = np.isfinite(log_ms[:, column]) & (known >= min(_MIN_SOURCES, len(others)))
        kept = asked & (diffusion | ~table.superseded(others))
        self.networks = [network for network, keep in zip(table.networks, kept, strict=True) if keep]
        self.target: Floats = log_ms[kept, column]
        self.queries = np.flatnonzero(diffusion[kept])
        self.pool = [int(i) for i in np.flatnonzero(~diffusion[kept])]
        paths = [network.path for network in self.networks]
        self.sources = Sources.of(log_ms[np.ix_(kept, others)], paths, self.queries)

    def predict(self, measured: Sequence[int]) -> LogPrediction:
        """Of the queries."""
        rows = np.array(measured)
        found = predict(self.sources, rows, self.target[rows])
        return LogPrediction(found.mean[self.queries], found.sd[self.queries])


def _slowed_diffusion(table: LatencyTable, column: int) -> dict[int, float]:
    """Rows and milliseconds of a device's diffusion networks that were left out because the same graph was faster."""
    rows = {network: row for row, network in enumerate(table.networks)}
    return {
        rows[network]: ms
        for device, network, ms, _ in table.slowed
        if table.twins.get(device) == table.devices[column] and network.is_diffusion and network in rows
    }


def judge(
    table: LatencyTable,
    device: str,
    counts: Sequence[int],
    choice: str,
    draws: int,
    seed: int,
    with_slowed: bool = False,
) -> dict[str, dict[str, float]] | None:
    """Scores of one target by number of measurements; None where the file has none of its diffusion networks."""
    column = table.column(device)
    task = Task(table, column, with_slowed=with_slowed)
    if len(task.queries) < _MIN_QUERIES or not task.pool:
        return None
    held_out = [Task(table, other, exclude=(column,)) for other in range(len(table.devices)) if other != column]
    held_out = [other for other in held_out if len(other.queries) >= _MIN_QUERIES and other.pool]
    truth = task.target[task.queries]
    scores: dict[str, dict[str, float]] = {}
    for num in counts:
        rng = np.random.default_rng(seed)
        scale = interval_scale([_deviations(other, num) for other in held_out])
        rows = [_score(task.predict(measured), truth, scale) for measured in _choices(task, num, choice, draws, rng)]
        mean = np.mean(rows, axis=0)
        scores[str(num)] = {
            "mape": float(mean[0]),
            "spearman": float(mean[1]),
            "coverage90": float(mean[2]),
            "num_measured": min(num, len(task.pool)),
            "num_asked": len(truth),
        }
    return scores


def _choices(task: Task, num: int, choice: str, draws: int, rng: np.random.Generator) -> list[list[int]]:
    if choice == "designed":
        return [choose(task.sources, task.pool, task.queries, num)]
    size = min(num, len(task.pool))
    return [list(rng.choice(task.pool, size, replace=False)) for _ in range(draws)]


def _deviations(task: Task, num: int) -> Floats:
    found = task.predict(choose(task.sources, task.pool, task.queries, num))
    return (found.mean - task.target[task.queries]) / found.sd


def _score(found: LogPrediction, truth: Floats, scale: float) -> tuple[float, float, float]:
    error = np.exp(found.mean - truth) - 1
    covered = np.abs(found.mean - truth) <= norm.ppf(0.95) * scale * found.sd
    return 100 * float(np.abs(error).mean()), float(spearmanr(found.mean, truth).statistic), float(covered.mean())


def run(
    path: Path, targets: Sequence[str], counts: Sequence[int], choice: str, draws: int, seed: int
) -> dict[str, Any]:
    """The whole benchmark as a JSON-ready mapping."""
    table = read_latency_table(path)
    scores: dict[str, Any] = {}
    slowed: dict[str, Any] = {}
    not_judged: dict[str, str] = {}
    for device in targets or table.devices:
        found = judge(table, device, counts, choice, draws, seed)
        if found is None:
            not_judged[device] = "no W8A16 Stable Diffusion or ControlNet network in the file"
        else:
            scores[device] = found
            if _slowed_diffusion(table, table.column(device)):
                slowed[device] = judge(table, device, counts, choice, draws, seed, with_slowed=True)

    def over_targets(
        statistic: Callable[[list[float]], Any], found: dict[str, Any] = scores
    ) -> dict[str, dict[str, float]]:
        if not found:
            return {}
        return {
            str(n): {key: float(statistic([s[str(n)][key] for s in found.values()])) for key in KEYS} for n in counts
        }

    return {
        "protocol": {
            "choice": choice,
            "draws": draws if choice == "random" else 1,
            "strict": True,
            "precision": "w8a16",
        },
        "targets": scores,
        "mean": over_targets(np.mean),
        "median": over_targets(np.median),
        "targets_with_slowed": slowed,
        "mean_with_slowed": over_targets(np.mean, scores | slowed),
        "not_judged": not_judged,
        "dropped": dict(table.dropped),
        "slowed": [
            {"device": device, "network": "/".join(network), "ms": ms, "same_graph_ms": fastest}
            for device, network, ms, fastest in table.slowed
        ],
        "same_device": {device: twin for device, twin in table.twins.items() if device != twin},
    }


def render(figures: dict[str, Any]) -> str:
    """The figures as a table for a terminal."""
    lines = [f"{'target':<34}{'n':>4}{'MAPE %':>9}{'Spearman':>10}{'coverage':>10}"]
    with_slowed = [(f"{name}, with slowed", each) for name, each in figures["targets_with_slowed"].items()]
    if with_slowed:
        with_slowed.append(("mean, with slowed", figures["mean_with_slowed"]))
    means = [("mean", figures["mean"]), ("median", figures["median"]), *with_slowed]
    for device, scores in [*figures["targets"].items(), *means]:
        lines += [
            f"{device:<34}{num:>4}{s['mape']:>9.1f}{s['spearman']:>10.3f}{s['coverage90']:>10.2f}"
            for num, s in scores.items()
        ]
    lines += [f"not judged: {device}: {reason}" for device, reason in figures["not_judged"].items()]
    lines += [f"dropped: {count} rows: {reason}" for reason, count in figures["dropped"].items()]
    lines += [
        f"slowed: {row['device']}: {row['network']}: {row['ms']:g} ms, the same graph {row['same_graph_ms']:g} ms"
        for row in figures["slowed"]
    ]
    lines += [f"one device: {device} = {twin}" for device, twin in figures["same_device"].items()]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.npu", description="Latency of Stable Diffusion's parts on a new NPU."
    )
    parser.add_argument("--data", type=Path, required=True, help="AI Hub measurements as CSV")
    parser.add_argument("--targets", default="", help="devices, comma-separated (default: all in turn)")
    parser.add_argument("--n", default="1,10,20", help="numbers of measured networks (default: %(default)s)")
    parser.add_argument("--choice", choices=("designed", "random"), default="designed", help="who chooses them")
    parser.add_argument("--draws", type=int, default=10, help="random choices (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    try:
        targets = [name.strip() for name in options.targets.split(",") if name.strip()]
        figures = run(options.data, targets, _counts(options.n), options.choice, options.draws, options.seed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(figures, indent=1, allow_nan=False) if options.json else render(figures))
    return 0


def _counts(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"--n is {text!r}; legal are numbers from 1, comma-separated, such as 1,10,20")
    return [int(part) for part in parts]


if __name__ == "__main__":
    sys.exit(main())
