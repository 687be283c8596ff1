"""How well this machine's latencies are predicted: calibrate, then predict whole U-Nets that the fit never saw.

    python -m experiments.bench.this_machine [--shape toy,sd-tenth] [--device 1-thread,2-threads,w8a8] [--json]

For every shape and device: the blocks of `nanosd` (36 stage options and the base) and `--fit` whole U-Nets (10) are
measured and a device profile is fitted; `--unseen` other random U-Nets (50) are measured in the same session and
predicted. Shapes: the toy teacher, SD 1.5's topology at a tenth of its width (32, 64, 128, 128 channels; latents of
64x64, 77 tokens of 768), or SD 1.5 itself. Devices: onnxruntime on this processor with one thread, with two, or
quantised to W8A8 with one.

The noise floor is what a perfect predictor would be off: every unseen U-Net's passes, each divided by its level, are
split into two halves. The difference of their medians has twice the standard deviation of the median of all, so half of
it is the repeatability.

Measurements are kept under `--work` and an interrupted benchmark goes on there. Keep the machine quiet meanwhile.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import UserError

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from latency_predictors.measurement import Recording
    from latency_predictors.profile import DeviceProfile

SPACE = "nanosd"
SHAPES = ("toy", "sd-tenth", "sd15")
DEVICES: dict[str, dict[str, Any]] = {
    "1-thread": {"threads": 1, "precision": "float32"},
    "2-threads": {"threads": 2, "precision": "float32"},
    "w8a8": {"threads": 1, "precision": "w8a8"},
}
#: Seconds a subject: a run of the toy takes milliseconds, one of a tenth of SD 1.5 half a second.
_SECONDS = {"toy": 0.5, "sd-tenth": 3.5, "sd15": 8.0}

Floats = NDArray[np.float64]


def score(profile: DeviceProfile) -> dict[str, float | None]:
    """Errors in per cent, rank correlations and interval coverage over the profile's unseen U-Nets."""
    from latency_predictors.judgement import Judgement
    from search_spaces.candidate import Candidate
    from search_spaces.space_file import load_space

    space = load_space(profile.space)
    measured = np.array([check.measured_ms for check in profile.validation])
    rows = [space.encode(Candidate.from_id(check.candidate, space.stages)) for check in profile.validation]
    found = profile.predict(space, np.stack(rows))
    judged = Judgement.unseen(measured, found)
    return {
        "median_error_pct": judged.median_error_pct,
        "p90_error_pct": judged.p90_error_pct,
        "worst_error_pct": float(100 * np.abs(found.latency_ms / measured - 1).max()),
        "within10": judged.within10,
        "spearman": judged.spearman,
        "kendall": judged.kendall,
        "coverage90": judged.coverage90,
        "num_unseen": judged.num,
    }


def noise_floor_pct(recorded: Mapping[str, Sequence[Recording]], names: Sequence[str]) -> Floats:
    """Repeatability of these subjects (names,) in per cent: see the module's text. NaN for one of a single pass."""
    from latency_predictors.measurement import pass_levels

    levels = pass_levels(recorded)
    return np.array([_split_halves_pct(recorded[name], levels) for name in names])


def _split_halves_pct(passes: Sequence[Recording], levels: Mapping[int, float]) -> float:
    halves = [
        [ms / levels.get(each.pass_id, 1.0) for each in passes[start::2] for ms in each.wall_ms or each.cpu_ms]
        for start in (0, 1)
    ]
    if not all(halves):
        return math.nan
    first, second = (float(np.median(half)) for half in halves)
    return 50 * abs(first - second) / (0.5 * (first + second))


def recordings(journal: Path) -> dict[str, list[Recording]]:
    """Every pass of every subject that a calibration's journal holds."""
    from latency_predictors.measurement import Recording

    found: dict[str, list[Recording]] = {}
    for line in journal.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "recording" in entry:
            recording = Recording.model_validate(entry["recording"])
            found.setdefault(recording.subject, []).append(recording)
    return found


def measure(shape: str, device: str, num_fit: int, num_unseen: int, seconds: float, work: Path) -> dict[str, Any]:
    """Calibrates one shape on one device and judges the profile: the figures as a JSON-ready mapping."""
    from latency_predictors.calibration import CalibrationSettings, calibrate
    from search_spaces.conditioning import text_width
    from search_spaces.space_file import load_space

    unet, latent_size, num_tokens = _teacher(shape)
    folder = work / f"{shape}-{device}"
    settings = CalibrationSettings(
        num_fit=num_fit,
        num_check=num_unseen,
        max_seconds=seconds,
        warm_up=1 if shape != "toy" else 3,
        rounds_per_pass=3,
        min_repeats=6,
        **DEVICES[device],
    )
    begin = time.perf_counter()
    profile = calibrate(
        unet,
        load_space(SPACE),
        latent_size,
        num_tokens,
        text_width(unet.config),
        folder,
        settings,
        _Report(f"{shape}, {device}"),
        teacher_key=f"bench {shape}",
    )
    took = time.perf_counter() - begin
    profile.save(folder / "profile.json")
    recorded = recordings(folder / "measurements.jsonl")
    floor = noise_floor_pct(recorded, [check.candidate for check in profile.validation])
    return {
        "blocks": profile.num_parts,
        "networks_fitted": profile.num_networks,
        **score(profile),
        "noise_floor_median_pct": float(np.nanmedian(floor)),
        "noise_floor_p90_pct": float(np.nanpercentile(floor, 90)),
        "rounds": min(sum(len(each.cpu_ms) for each in passes) for passes in recorded.values()),
        "load_average": max(each.conditions.load_average_1min or 0.0 for p in recorded.values() for each in p),
        "fastest_ms": min(check.measured_ms for check in profile.validation),
        "slowest_ms": max(check.measured_ms for check in profile.validation),
        "seconds": took,
        "profile": str(folder / "profile.json"),
    }


def _teacher(shape: str) -> tuple[UNet2DConditionModel, int, int]:
    """U-Net (random weights, or the toy's), height of its latents, number of its text tokens."""
    import torch
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from nas.random_teacher import SD15_UNET

    if shape == "toy":
        from nas.teacher import load_teacher

        teacher = load_teacher("toy")
        return teacher.unet, teacher.latent_size, teacher.num_tokens
    config = SD15_UNET if shape == "sd15" else {**SD15_UNET, "block_out_channels": [32, 64, 128, 128]}
    torch.manual_seed(0)
    if shape == "sd15":  # 3.4 GB of random weights that no measurement needs at once
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(config)
    else:
        unet = UNet2DConditionModel.from_config(config)
    return unet.eval(), 64, 77


class _Report:
    """Progress on standard error, with the time that is left at the pace so far."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._begin, self._first = time.perf_counter(), -1

    def __call__(self, done: int, total: int, note: str) -> None:
        if self._first < 0:
            self._first = done
        took, new = time.perf_counter() - self._begin, done - self._first
        left = f", about {took / new * (total - done):.0f} s left" if new > 0 else ""
        print(f"\r{self._what}: {done}/{total} {note}{left}".ljust(110), end="", file=sys.stderr, flush=True)
        if done == total and note == "measured":
            print(file=sys.stderr)


_COLUMNS = {
    "median_error_pct": ("median %", ".1f"),
    "p90_error_pct": ("p90 %", ".1f"),
    "worst_error_pct": ("worst %", ".1f"),
    "spearman": ("Spearman", ".3f"),
    "within10": ("+-10 %", ".2f"),
    "coverage90": ("cov. 90 %", ".2f"),
    "noise_floor_median_pct": ("noise med. %", ".1f"),
    "noise_floor_p90_pct": ("noise p90 %", ".1f"),
    "rounds": ("rounds", "d"),
    "load_average": ("load", ".1f"),
    "seconds": ("seconds", ".0f"),
}


def render(figures: dict[str, dict[str, Any]]) -> str:
    """The figures as a table for a terminal."""
    lines = [f"{'shape, device':<22}" + "".join(f"{title:>14}" for title, _ in _COLUMNS.values())]
    for name, row in figures.items():
        lines.append(f"{name:<22}" + "".join(f"{_cell(row[key], spec):>14}" for key, (_, spec) in _COLUMNS.items()))
    return "\n".join(lines)


def _cell(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.this_machine", description=(__doc__ or "").split("\n", 1)[0]
    )
    parser.add_argument("--shape", default="toy,sd-tenth", help=f"of {', '.join(SHAPES)} (default: %(default)s)")
    parser.add_argument("--device", default=",".join(DEVICES), help="default: %(default)s")
    parser.add_argument("--fit", type=int, default=10, help="whole U-Nets to fit (default: %(default)s)")
    parser.add_argument("--unseen", type=int, default=50, help="whole U-Nets to predict (default: %(default)s)")
    parser.add_argument("--seconds", type=float, help="a subject (default: .5 for the toy, 3.5 and 8 for the others)")
    parser.add_argument("--work", type=Path, default=Path("runs/this_machine"), help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    try:
        shapes = _names(options.shape, SHAPES, "--shape")
        devices = _names(options.device, tuple(DEVICES), "--device")
        figures = {
            f"{shape}, {device}": measure(
                shape, device, options.fit, options.unseen, options.seconds or _SECONDS[shape], options.work
            )
            for shape in shapes
            for device in devices
        }
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(figures, indent=1, allow_nan=False) if options.json else render(figures))
    return 0


def _names(text: str, legal: Sequence[str], flag: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in legal]
    if unknown or not names:
        raise UserError(f"{flag}: {text!r}; legal are {', '.join(legal)}, separated by commas")
    return list(dict.fromkeys(names))


if __name__ == "__main__":
    sys.exit(main())
