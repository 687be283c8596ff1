"""What `nanosd measure` prints at its end."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.output import print_json, print_mapping, print_rows, say

if TYPE_CHECKING:
    from latency_predictors.manifest import Drift, Manifest
    from latency_predictors.measurement import Measurement

MOST_ROWS = 40
"""Of whole networks, and as many of everything else: the rest is in the file."""


def show(
    manifest: Manifest, measured: dict[str, Measurement], networks: Collection[str], out: Path, *, json: bool
) -> None:
    """Print the measurements and the session, as tables or as one JSON document; failures to standard error.

    `networks`: the subjects that are whole networks; blocks never push one of them out of the table.
    """
    if json:
        print_json({"manifest": manifest, "measurements": measured})
    else:
        _print_measurements(measured, networks)
        print_mapping(_session(manifest))
        print(f"results: {out / 'measurements.csv'}")
    for name, reason in manifest.failed.items():
        say(f"{name} failed: {reason}")
    if manifest.failed:
        say(f"{len(manifest.failed)} failed and are left out; --retry-failed tries them again")
    if manifest.drift is not None and manifest.drift.warning is not None:
        say(manifest.drift.warning)


def _print_measurements(measured: dict[str, Measurement], networks: Collection[str]) -> None:
    whole = [name for name in measured if name in networks]
    parts = [name for name in measured if name not in networks]
    shown = [*parts[:MOST_ROWS], *whole[:MOST_ROWS]]
    print_rows(
        [
            {
                "subject": m.subject,
                "latency_ms": m.median_ms,
                "ci95_pct": m.ci95_half_width_pct,
                "num_samples": m.num_samples,
                "clock": m.clock,
            }
            for m in (measured[name] for name in shown)
        ],
        {
            "subject": "subject",
            "latency_ms": "latency ms",
            "ci95_pct": "95 % interval +- %",
            "num_samples": "samples",
            "clock": "clock",
        },
    )
    for names, what in ((parts, "blocks, halves or operators"), (whole, "whole networks")):
        if len(names) > MOST_ROWS:
            print(f"and {len(names) - MOST_ROWS} more {what} in measurements.csv")


def _session(manifest: Manifest) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "device": manifest.device,
        "runtime": manifest.runtime,
        "precision": manifest.precision,
        "threads": manifest.threads,
        "nodes": ", ".join(f"{count} {provider}" for provider, count in manifest.placement.items()),
        "drift": None if manifest.drift is None else drift_in_words(manifest.drift),
    }
    quantization = manifest.quantization
    if quantization is not None and quantization.integer_macs_share is not None:
        least, most = quantization.integer_macs_share
        facts["MACs_in_integer_kernels"] = f"{100 * least:.0f} to {100 * most:.0f} % of a subject's"
        facts["multiply_in_float"] = quantization.float_operators
        facts["worst_error_l2"] = quantization.worst_error_l2
    return facts


def drift_in_words(drift: Drift) -> str:
    """The drift of the reference graph in one line; docs/measuring.md says what it is made of."""
    treated = "divided out within each group" if drift.corrected else "not divided out: that takes 8 subjects a pass"
    return (
        f"{drift.drift_pct:.1f} % between the fastest and the slowest fifth of the session, by the reference graph "
        f"(its own noise: {drift.noise_pct:.1f} %); {treated}"
    )
