"""Fit the NPU profiles that come with the package, from AI Hub's public measurements.

    python -m experiments.reproduce.npu_profiles --data FILE.csv [--out latency_predictors/profiles]

Reads the measurements by path and ships only what was fitted. Networks that transformers and diffusers can build by
configuration (latency_predictors/npu/zoo.py) are recorded on the meta device; the device's W8A16 rows of them are
fitted, those of Stable Diffusion and ControlNet with half the log error of the others, since they are what the profile
is for. Then it is fitted again without every diffusion model in turn, and without all of them, for the error statement.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from latency_predictors.npu.profile import Error, ErrorStatement, NpuProfile, Published
from latency_predictors.npu.records import LatencyTable, Network, read_latency_table
from latency_predictors.npu.roofline import Attention, Roofline, Work, fit, network_ms
from latency_predictors.npu.zoo import NETWORKS, traced
from search_spaces.errors import UserError
from search_spaces.precision import Precision
from search_spaces.space import SearchSpace
from search_spaces.space_file import load_space

LATENT_SIZE, NUM_TOKENS = 64, 77
DIFFUSION_SD, OTHER_SD = 0.1, 0.2
PAPER = "NanoSD, arXiv 2601.09823"
OUT = Path("latency_predictors/profiles")
NOTES = (
    "An estimate from public measurements of whole models; no block or candidate was measured on the device.",
    "Holds for 64 x 64 latents; the published figures at smaller tiles are not reproduced.",
    "Attention exported head by head; with all heads' scores in memory a U-Net at 64 x 64 latents is much slower.",
    "Toolchains differ by tens of per cent on the same graph (VAE decoder, text encoder): differences under 10 % "
    "are ties.",
)


@dataclass(frozen=True)
class Device:
    """One profile to be fitted."""

    name: str
    soc: str
    column: str
    paper: str | None = None
    """Who published latencies of NanoSD's candidates on it."""


DEVICES = (
    Device("sm8750-w8a16", "SM8750", "Samsung Galaxy S25", PAPER),
    Device("sm8850-w8a16", "SM8850", "Snapdragon 8 Elite Gen 5 QRD"),
    Device("sm8650-w8a16", "SM8650", "Samsung Galaxy S24"),
    Device("qcs8550-w8a16", "QCS8550", "QCS8550 (Proxy)"),
)


@dataclass(frozen=True)
class Row:
    """One measured network of known architecture."""

    network: Network
    work: Work
    latency_ms: float


def measured_rows(table: LatencyTable, column: int) -> list[Row]:
    """Networks of the device whose operators are known and whose runtime paths do not contradict each other."""
    doubtful = table.contradictory([column])
    rows = []
    for i, network in enumerate(table.networks):
        latency_ms = float(table.latency_ms[i, column])
        if not np.isfinite(latency_ms) or doubtful[i] or network.architecture not in NETWORKS:
            continue
        rows.append(Row(network, _work(network.model, network.component), latency_ms))
    return rows


@cache
def _work(model: str, component: str) -> Work:
    return Work.of(traced(model, component), Precision.W8A16, Attention.PER_HEAD)


def fitted(rows: Sequence[Row]) -> Roofline:
    """Roofline of these rows."""
    return fit(
        [row.work for row in rows],
        [row.latency_ms for row in rows],
        [DIFFUSION_SD if row.network.is_diffusion else OTHER_SD for row in rows],
    )


def errors(roofline: Roofline, rows: Sequence[Row]) -> tuple[Error, ...]:
    """Of the diffusion networks among these rows."""
    return tuple(
        Error(
            network="/".join((row.network.architecture, row.network.path)),
            error_pct=round(100 * (network_ms(roofline, row.work) / row.latency_ms - 1)),
        )
        for row in rows
        if row.network.is_diffusion
    )


def left_out(rows: Sequence[Row]) -> tuple[Error, ...]:
    """Errors of every diffusion model, fitted without it."""
    found: list[Error] = []
    for model in sorted({row.network.model for row in rows if row.network.is_diffusion}):
        roofline = fitted([row for row in rows if row.network.model != model])
        found += errors(roofline, [row for row in rows if row.network.model == model])
    return tuple(found)


def precision_factors(path: Path, device: str) -> dict[str, float]:
    """Latency of other precisions relative to W8A16: medians over networks that have both, by the same path."""
    table = read_latency_table(path, ("w8a16", "w8a8", "float"))
    column = table.column(device)
    known = {n: float(ms) for n, ms in zip(table.networks, table.latency_ms[:, column], strict=True) if np.isfinite(ms)}
    factors = {}
    for precision in ("float", "w8a8"):
        ratios = [
            ms / known[network._replace(precision="w8a16")]
            for network, ms in known.items()
            if network.precision == precision and network._replace(precision="w8a16") in known
        ]
        factors[precision] = float(f"{np.median(ratios):.3g}")
    return factors


def published(profile: NpuProfile, source: str) -> tuple[Published, ...]:
    """The paper's own figures beside the prediction; none of them is fitted."""
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=LATENT_SIZE, cross_attention_dim=768, attention_head_dim=8)
    nanosd = load_space("nanosd")
    table = profile.tabulate(unet, nanosd, LATENT_SIZE, NUM_TOKENS)
    family = table.latency_ms(nanosd.enumerate())
    without_deep = nanosd.named("bk-sdm-tiny")
    with_deep = without_deep.replace("deep", "R.RAR.RR")
    only = SearchSpace(name="bk-sdm-base", options={stage: [word] for stage, word in with_deep.options.items()})
    figures = (
        ("base U-Net without E4, Mid, D4 (309 M)", 41.0, table.latency_ms(nanosd.encode(without_deep)[None])[0]),
        (
            "the same with E4, Mid, D4 back (565 M)",
            46.0,
            profile.tabulate(unet, only, LATENT_SIZE, NUM_TOKENS).latency_ms(only.encode(with_deep)[None])[0],
        ),
        ("fastest of the family; predicted: of all 32,768 candidates", 12.0, family.min()),
        ("slowest of the family; predicted: of all 32,768 candidates", 41.0, family.max()),
    )
    return tuple(
        Published(what=what, published_ms=ms, predicted_ms=round(float(predicted), 1), source=source)
        for what, ms, predicted in figures
    )


def profile_of(path: Path, device: Device) -> NpuProfile:
    """Fit one profile and find its errors."""
    table = read_latency_table(path)
    rows = measured_rows(table, table.column(device.column))
    profile = NpuProfile(
        device=device.column,
        soc=device.soc,
        precision=Precision.W8A16,
        attention=Attention.PER_HEAD,
        toolchain="Qualcomm AI Hub Models, perf.yaml files of February 2026; QNN context binaries and DLCs",
        latent_size=LATENT_SIZE,
        roofline=fitted(rows),
        precision_factors=precision_factors(path, device.column),
        training_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        num_networks=len(rows),
        errors=ErrorStatement(
            without_diffusion=errors(fitted([row for row in rows if not row.network.is_diffusion]), rows),
            leave_one_model_out=left_out(rows),
            published=(),
        ),
        notes=NOTES,
    )
    if device.paper is None:
        return profile
    found = profile.errors.model_copy(update={"published": published(profile, device.paper)})
    return profile.model_copy(update={"errors": found})


def render(profile: NpuProfile) -> str:
    """The error statement as text."""
    found = profile.errors
    lines = [f"{profile.soc} {profile.precision}: {profile.num_networks} networks"]
    for title, rows in (
        ("fitted without any diffusion model", found.without_diffusion),
        ("fitted without this model", found.leave_one_model_out),
    ):
        lines += [f"{title}:", *(f"  {row.error_pct:+4d} %  {row.network}" for row in rows)]
    lines += ["published, never fitted:"] if found.published else []
    lines += [f"  {row.predicted_ms:6.1f} ms, published {row.published_ms:g}: {row.what}" for row in found.published]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.reproduce.npu_profiles", description="Fit the NPU profiles of the package."
    )
    parser.add_argument("--data", type=Path, required=True, help="AI Hub measurements as CSV")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the profiles (default: %(default)s)")
    options = parser.parse_args(argv)
    try:
        for device in DEVICES:
            profile = profile_of(options.data, device)
            profile.save(options.out / f"{device.name}.json")
            print(render(profile))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
