"""Release test of a teacher: does every kept stage do work that its shortest option cannot?

`python -m experiments.toy_teacher.release_test [--teacher DIR] [--json]`

One stage at a time is replaced by its shortest option (R; D1 by R@3, which reads the conv_in skip) within
the otherwise unchanged teacher, E4/Mid/D4 kept. The replacement is distilled for 150 FwGD steps; then the
paired latents after 10 DDIM steps must have changed by at least 1 % of the teacher latents' variance. A
stage below the bar would make its options free, and a front over them meaningless. Also checks that the
autoencoder reaches 24 dB. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.errors import UserError

if TYPE_CHECKING:
    from nas.teacher import Teacher

MIN_CHANGE_PCT = 1.0
MIN_PSNR_DB = 24.0
DISTILL_STEPS = 150
NUM_CROPS = 1152
SHORTEST = {"E1": "R", "E2": "R", "E3": "R", "D3": "R", "D2": "R", "D1": "R@3"}


def reconstruction_psnr_db(teacher: Teacher, per_photo: int = 16) -> tuple[float, float]:
    """PSNR on crops that training did not see exactly: (pooled squared error, mean over crops)."""
    from experiments.toy_teacher.train import held_out_crops
    from experiments.toy_teacher.vae_training import psnr_db, reconstruct

    images = held_out_crops(per_photo)
    return psnr_db(images, reconstruct(teacher.vae, images))


def stage_changes_pct(teacher: Teacher, seed: int = 0, steps: int = DISTILL_STEPS) -> dict[str, dict[str, float]]:
    """Change of paired latents for each replaced stage, in % of the teacher latents' variance.

    Returns stage -> {"guidance 1": %, "guidance 2": %}; the bar counts without guidance, which amplifies.
    """
    from nas.block_bank import BlockBank
    from nas.data import batches, photo_latents
    from nas.distill import DistillSettings
    from nas.distill.blocks import distill_blocks, load_blocks
    from nas.fidelity import FidelitySettings
    from nas.fidelity.paired import PairedEvaluator
    from search_spaces.candidate import Candidate
    from search_spaces.space import SearchSpace
    from search_spaces.surgery import assemble, teacher_candidate

    own = teacher_candidate(teacher.unet).options
    missing = [stage for stage in SHORTEST if stage not in own]
    if missing:
        raise UserError(
            f"teacher {teacher.spec!r} has no stage {missing[0]}; the release test needs {', '.join(SHORTEST)}"
        )
    space = SearchSpace(
        name="release-test",
        options={s: (o, SHORTEST[s]) if s in SHORTEST else (o,) for s, o in own.items()},
    )
    dataset = photo_latents(teacher, NUM_CROPS, seed + 100)
    settings = DistillSettings(steps=steps, seed=seed)
    with tempfile.TemporaryDirectory() as work:
        bank = BlockBank(Path(work) / "bank")
        results = distill_blocks(
            teacher,
            space,
            lambda step: batches(dataset, teacher, settings.batch_size, seed, step),
            settings,
            bank,
            Path(work),
            dataset.key,
        )
        blocks = load_blocks(teacher.unet, results, bank)
    changes: dict[str, dict[str, float]] = {stage: {} for stage in SHORTEST}
    for guidance in (1.0, 2.0):
        evaluator = PairedEvaluator(teacher, dataset, FidelitySettings(guidance=guidance), seed)
        for stage, option in SHORTEST.items():
            student = assemble(teacher.unet, Candidate(options={**own, stage: option}), blocks, copy=False)
            changes[stage][f"guidance {guidance:g}"] = 100 * evaluator.evaluate(student.eval()).latent_error
    return changes


def run(teacher: Teacher) -> dict[str, Any]:
    """All figures, with `passed`."""
    started = time.monotonic()
    pooled, mean = reconstruction_psnr_db(teacher)
    changes = stage_changes_pct(teacher)
    failed = [s for s, change in changes.items() if not change["guidance 1"] >= MIN_CHANGE_PCT]
    if not pooled >= MIN_PSNR_DB:
        failed.append("psnr")
    return {
        "teacher": teacher.spec,
        "teacher_key": teacher.key,
        "psnr_pooled_db": pooled,
        "psnr_mean_db": mean,
        "latent_change_pct": changes,
        "seconds": time.monotonic() - started,
        "failed": failed,
        "passed": not failed,
    }


def main() -> int:
    """Print the figures; 0 when every bar is met."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--teacher", default=None, help="diffusers folder (default: the bundled toy)")
    parser.add_argument("--json", action="store_true", help="machine-readable figures")
    args = parser.parse_args()

    import torch

    from experiments.toy_teacher import folder
    from nas.teacher import load_teacher

    torch.set_num_threads(1)
    try:
        result = run(load_teacher(args.teacher or folder()))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(result, indent=2))
        return 0 if result["passed"] else 1
    print(f"teacher {result['teacher_key']}: {result['seconds']:.0f} s")
    print(
        f"reconstruction {result['psnr_pooled_db']:.2f} dB (pooled error), {result['psnr_mean_db']:.2f} dB (mean over "
        f"crops); bar {MIN_PSNR_DB:g} dB pooled"
    )
    print(f"change of paired latents, % of variance; bar {MIN_CHANGE_PCT:g} % without guidance")
    for stage, change in result["latent_change_pct"].items():
        print(f"  {stage} -> {SHORTEST[stage]:4} " + "  ".join(f"{k}: {v:8.2f}" for k, v in change.items()))
    print("passed" if result["passed"] else "FAILED: " + ", ".join(result["failed"]))
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
