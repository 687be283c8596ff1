"""Time the costing of candidates at SD 1.5's shapes.

    python -m experiments.bench.costs [--json]

Timed from index matrices to every cost: parameters, MACs, weight bytes, activation traffic and peak activation memory
(`CostTable.all_costs` at W8A16); the best of several runs. All 32,768 candidates of `nanosd` at once, and random ones
of `nanosd-joint` (its figure is candidates a second). fvcore counts operations of built U-Nets of `nanosd` one by one.
It traces by running them, on the CPU (it fails on the meta device), in a process of its own whose memory is not in
this one's peak; building them is not in its time. Exit code 0: every bar is met; 1: one is missed, and named.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

SEED = 0
REPEATS = 20  # the best of them: machines are shared
NUM_JOINT = 100_000
NUM_FVCORE = 3
GIB = 2**30
#: The bars: key, whether the figure must be below or at least the bar.
BARS = (("seconds_all", "below", 0.05), ("joint_candidates_per_s", "at least", 1e6), ("peak_rss_gib", "below", 1.0))


def measure() -> dict[str, Any]:
    """The figures as a JSON-ready mapping."""
    import numpy as np
    import torch

    from search_spaces.costs import CostTable
    from search_spaces.precision import Precision
    from search_spaces.space_file import load_space

    torch.set_num_threads(1)
    unet, vae = sd15_unet(), sd15_vae()
    rng = np.random.default_rng(SEED)

    space, joint = load_space("nanosd"), load_space("nanosd-joint")
    start = time.perf_counter()
    table = CostTable.from_unet(unet, space, latent_size=64, num_tokens=77)
    seconds_table = time.perf_counter() - start
    matrix = space.enumerate()
    seconds_all = best(lambda: table.all_costs(matrix, Precision.W8A16))
    seconds_kernels = best(lambda: table.kernels(matrix))

    start = time.perf_counter()
    joint_table = CostTable.from_unet(unet, joint, latent_size=64, num_tokens=77, vae=vae)
    seconds_joint_table = time.perf_counter() - start
    sample = joint.sample(rng, NUM_JOINT)
    seconds_joint = best(lambda: joint_table.all_costs(sample, Precision.W8A16))

    sampled = [space.decode(row) for row in space.sample(rng, NUM_FVCORE)]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
        seconds_fvcore = other.submit(fvcore_seconds, [candidate.id for candidate in sampled]).result()

    return {
        "candidates": len(matrix),
        "seconds_all": seconds_all,
        "joint_candidates_per_s": NUM_JOINT / seconds_joint,
        "ratio_vs_fvcore": seconds_fvcore / (seconds_all / len(matrix)),
        "peak_rss_gib": peak_rss_bytes() / GIB,
        "seconds_kernels_all": seconds_kernels,
        "seconds_per_candidate_fvcore": seconds_fvcore,
        "seconds_to_build_table": seconds_table,
        "seconds_to_build_joint_table": seconds_joint_table,
        "num_joint_candidates": joint.num_candidates,
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def best(run: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Least seconds of several runs."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def fvcore_seconds(ids: list[str]) -> float:
    """Mean seconds that fvcore, as it comes (without attention products), takes for one of these U-Nets."""
    import torch
    from fvcore.nn import FlopCountAnalysis

    from search_spaces.candidate import Candidate
    from search_spaces.surgery import assemble

    torch.set_num_threads(1)
    inputs = torch.zeros(1, 4, 64, 64), torch.zeros(1), torch.zeros(1, 77, 768)
    seconds = []
    for text in ids:
        net: Any = assemble(sd15_unet(), Candidate.from_id(text), copy=False).to_empty(device="cpu")
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for parameter in net.parameters():
                parameter.zero_()
            analysis = FlopCountAnalysis(net, inputs).unsupported_ops_warnings(False).tracer_warnings("none")
            analysis.uncalled_modules_warnings(False)
            seconds.append(best(analysis.total, repeats=1))
    return sum(seconds) / len(seconds)


def sd15_unet() -> Any:
    """SD 1.5's U-Net on the meta device."""
    import torch
    from diffusers import UNet2DConditionModel

    from nas.random_teacher import SD15_UNET

    with torch.device("meta"):
        return UNet2DConditionModel(**SD15_UNET).eval()


def sd15_vae() -> Any:
    """SD 1.5's VAE on the meta device."""
    import torch
    from diffusers import AutoencoderKL

    from nas.random_teacher import SD15_VAE

    with torch.device("meta"):
        return AutoencoderKL(**SD15_VAE).eval()


def peak_rss_bytes() -> int:
    """Most memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB elsewhere


def missed(figures: dict[str, Any]) -> list[str]:
    """One sentence for each bar that is missed."""
    return [
        f"{key} is {figures[key]:.4g}, the bar is {side} {bar:g}"
        for key, side, bar in BARS
        if not (figures[key] < bar if side == "below" else figures[key] >= bar)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.costs", description="Time the costing of candidates at SD 1.5's shapes."
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    figures = measure()
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        for key, value in figures.items():
            print(f"{key:<30}{value:>20,.6g}" if isinstance(value, (int, float)) else f"{key:<30}{value:>20}")
    for sentence in missed(figures):
        print(f"missed: {sentence}", file=sys.stderr)
    return 1 if missed(figures) else 0


if __name__ == "__main__":
    sys.exit(main())
