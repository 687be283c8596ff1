"""What taFID looks at, compared: repeatability over seeds, agreement with the latent error, floor, seconds.

    python -m experiments.bench.fidelity RUN [--candidates 40] [--out FILE]

RUN is a finished run: its trained blocks are assembled into the first candidates that it evaluated, and each is
compared with the teacher twice, with other noise, prompts and timesteps.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

KINDS = ("latents", "vae-encoder", "unet-encoder")
SEEDS = (0, 1)


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--candidates", type=int, default=40)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = compare(given.run, given.candidates)
    text = json.dumps(found, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")


def compare(run_dir: Path, num: int) -> dict[str, Any]:
    """Figures by kind of features, and those of the paired errors."""
    import numpy as np
    import torch
    from scipy.stats import kendalltau

    from nas.fidelity.features import make_features
    from nas.fidelity.frechet import feature_distance
    from nas.fidelity.paired import PairedEvaluator
    from nas.fidelity.small_samples import kernel_distance
    from nas.run.context import RunContext
    from search_spaces.candidate import Candidate
    from search_spaces.surgery import assemble

    run = RunContext.open(run_dir)
    rows, _ = run.store.objectives()
    candidates = [Candidate.from_id(r.candidate, run.space.stages) for r in run.store.at(rows[:num])]
    networks = [assemble(run.teacher.unet, c, run.blocks, copy=False) for c in candidates]
    extractors = {kind: make_features(kind, run.teacher) for kind in KINDS}
    values: dict[str, list[list[float]]] = {}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    floors: dict[str, list[float]] = {kind: [] for kind in KINDS}
    evaluation = []
    for seed in SEEDS:
        evaluator = PairedEvaluator(run.teacher, run.dataset, run.fidelity_settings, seed)
        teachers = {kind: e.of_latents(evaluator.paired_inputs.latents) for kind, e in extractors.items()}
        for kind, extractor in extractors.items():
            floors[kind].append(feature_distance(teachers[kind], extractor.of_latents(evaluator.other_latents)))
        column: dict[str, list[float]] = {}
        for network in networks:
            fidelity = evaluator.evaluate(network)
            evaluation.append(fidelity.seconds)
            latents = evaluator.sample(network)
            column.setdefault("noise_error", []).append(fidelity.noise_error)
            column.setdefault("latent_error", []).append(fidelity.latent_error)
            for kind, extractor in extractors.items():
                start = time.perf_counter()
                features = extractor.of_latents(latents)
                column.setdefault(f"tafid {kind}", []).append(feature_distance(features, teachers[kind]))
                seconds[kind].append(time.perf_counter() - start)
                column.setdefault(f"kid {kind}", []).append(kernel_distance(features, teachers[kind]).value)
        for name, found in column.items():
            values.setdefault(name, []).append(found)

    def tau(a: Any, b: Any) -> float:
        return round(float(kendalltau(a, b).statistic), 3)

    reference = np.array(values["latent_error"][0])
    better = np.argsort(reference)[: len(reference) // 2]
    table = {
        name: {
            "repeatability": tau(a, b),
            "repeatability_better_half": tau(np.array(a)[better], np.array(b)[better]),
            "with_latent_error": tau(a, reference),
        }
        for name, (a, b) in values.items()
    }
    for kind in KINDS:
        table[f"tafid {kind}"] |= {
            "dimension": extractors[kind].dimension,
            "floor": round(float(np.mean(floors[kind])), 5),
            "best": round(float(np.min(values[f"tafid {kind}"])), 5),
            "seconds": round(float(np.median(seconds[kind])), 3),
        }
    return {
        "candidates": len(candidates),
        "num_samples": run.recipe.fidelity.num_samples,
        "threads": torch.get_num_threads(),
        "evaluation_seconds": round(float(np.median(evaluation)), 3),
        "measures": table,
    }


if __name__ == "__main__":
    main()
