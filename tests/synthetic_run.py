"""A synthetic run directory from closed-form rules, for tests and for looking at the report.

Nothing in it was measured: costs, latencies and errors follow the formulas below, the images are colour ramps and
every text says "synthetic". It is never shipped as a result.

    python -m tests.synthetic_run FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

STAGES = ("E1", "E2", "E3", "deep", "D3", "D2", "D1")
ENCODER = ("RARA", "RA", "RR", "R")
DECODER = ("RARARA", "RARA", "RAR", "RRA", "RRR", "RR", "RA", "R")
LAST = (*DECODER[:6], "RA@3", "R@3")
OPTIONS = {"E1": ENCODER, "E2": ENCODER, "E3": ENCODER, "deep": ("none",), "D3": DECODER, "D2": DECODER, "D1": LAST}
#: Width of a stage, and the pixels of its feature map: parameters grow with the first squared, time with the second.
WIDTH = {"E1": 16, "E2": 32, "E3": 64, "deep": 0, "D3": 64, "D2": 32, "D1": 16}
PIXELS = {"E1": 64, "E2": 16, "E3": 4, "deep": 0, "D3": 4, "D2": 16, "D1": 64}
CAPTIONS = ("synthetic ramp, left", "synthetic ramp, right", "synthetic ramp, top", "synthetic ramp, bottom")
NUM_CANDIDATES = 48
BASE_ERROR = 0.002
FAILED = {11: "noise error is nan", 29: "worker ended with SIGKILL"}


def layers(stage: str, option: str) -> tuple[int, int]:
    """Number of R and of A layers of an option."""
    return (0, 0) if stage == "deep" else (option.count("R"), option.count("A"))


def num_params(words: dict[str, str]) -> int:
    """50,000 + sum of width^2 (18 r + 16 a)."""
    return 50_000 + sum(WIDTH[s] ** 2 * (18 * r + 16 * a) for s in STAGES for r, a in [layers(s, words[s])])


def num_macs(words: dict[str, str]) -> int:
    """2e6 + sum of pixels width^2 (18 r + 20 a)."""
    return 2_000_000 + sum(
        PIXELS[s] * WIDTH[s] ** 2 * (18 * r + 20 * a) for s in STAGES for r, a in [layers(s, words[s])]
    )


def latency_ms(words: dict[str, str]) -> float:
    """0.3 + sum of pixels (0.004 r + 0.012 a)."""
    return 0.3 + sum(PIXELS[s] * (0.004 * r + 0.012 * a) for s in STAGES for r, a in [layers(s, words[s])])


def swap_error(stage: str, option: str) -> float:
    """0.004 (missing layers)^2 pixels^0.5; zero for the teacher's own word and for `none`."""
    if stage == "deep":
        return 0.0
    full = 4 if stage.startswith("E") else 6
    return 0.004 * (full - len(option.split("@")[0])) ** 2 * PIXELS[stage] ** 0.5


def random_words(rng: np.random.Generator) -> dict[str, str]:
    """One option name a stage; the teacher's own with a probability that differs from candidate to candidate."""
    keep = rng.random()
    return {stage: OPTIONS[stage][0] if rng.random() < keep else str(rng.choice(OPTIONS[stage])) for stage in STAGES}


def prior_of(words: dict[str, str]) -> float:
    """BASE_ERROR, the dropped deep path's, plus the sum of the swap errors."""
    return BASE_ERROR + sum(swap_error(stage, words[stage]) for stage in STAGES)


def candidate_rows(rng: np.random.Generator, num: int = NUM_CANDIDATES) -> list[dict[str, Any]]:
    """`num` distinct candidates; latent error = prior times a log-normal factor; two of them failed."""
    rows: dict[str, dict[str, Any]] = {}
    while len(rows) < num:
        words = random_words(rng)
        if not rows:
            words = {stage: OPTIONS[stage][0] for stage in STAGES}
        candidate_id, order = "-".join(words.values()), len(rows)
        if candidate_id in rows:
            continue
        error = prior_of(words) * float(np.exp(0.12 * rng.standard_normal()))
        failed = order in FAILED
        rows[candidate_id] = {
            "id": candidate_id,
            **words,
            "num_params": num_params(words),
            "num_macs": num_macs(words),
            "latency_ms": latency_ms(words),
            "latent_error": float("nan") if failed else error,
            "noise_error": float("nan") if failed else 0.6 * error**0.9,
            "tafid": float("nan") if failed else 0.8 + 40 * error,
            "prior": prior_of(words),
            "outcome": "failed" if failed else "done",
            "reason": FAILED.get(order),
            "seconds": 0.5 + 0.1 * (order % 5),
            "order": order,
        }
    return list(rows.values())


def whole_space() -> dict[str, Any]:
    """Facts of all 32,768 candidates, by brute force."""
    from itertools import product

    from nas.run_data import space_facts

    names = [dict(zip(STAGES, words, strict=True)) for words in product(*OPTIONS.values())]
    return space_facts(len(names), [latency_ms(w) for w in names], [num_params(w) for w in names])


def write_images(folder: Path, blur: float) -> None:
    """64x64 colour ramps; `blur` pulls them towards grey."""
    from PIL import Image

    folder.mkdir(parents=True)
    ramp = np.linspace(0, 1, 64)
    x, y = np.meshgrid(ramp, ramp)
    for index, main in enumerate((x, 1 - x, y, 1 - y)):
        pixels = np.stack([main, 0.5 + 0.5 * np.sin(12 * x * y), 1 - main * y], axis=-1)
        pixels = (1 - blur) * pixels + blur * 0.5
        Image.fromarray((255 * pixels).round().astype(np.uint8)).save(folder / f"{index}.png")


def closing_row(name: str, words: dict[str, str], teacher_ms: float, tafid_floor: float) -> dict[str, Any]:
    """A row of the closing table; measured latency is 3 % above the predicted one, alignment halves every error."""
    predicted, error = latency_ms(words), prior_of(words)
    return {
        "pick": name,
        "candidate": "-".join(words.values()),
        "num_params": num_params(words),
        "num_macs": num_macs(words),
        "predicted_ms": predicted,
        "measured": {"median_ms": 1.03 * predicted, "iqr_ms": 0.05 * predicted},
        "speed_up": teacher_ms / (1.03 * predicted),
        "before": {"latent_error": error, "noise_error": 0.6 * error, "tafid": 0.8 + 40 * error},
        "after": {"latent_error": error / 2, "noise_error": 0.3 * error, "tafid": 0.8 + 20 * error},
        "tafid_floor": tafid_floor,
        "checks": checks(error),
    }


def checks(error: float) -> dict[str, Any]:
    """The checks of a model of this error: everything that grows or falls with it does."""

    def likeness(e: float) -> dict[str, Any]:
        return {"psnr_db": 30 - 10 * e, "ssim": 1 / (1 + e), "perceptual": e / 4, "embedding_cosine": 1 / (1 + 3 * e)}

    points = [60 + 120 * i for i in range(8)]
    return {
        "intervals": {"latent_error": [0.4 * error, 0.6 * error], "tafid": [0.8, 0.8 + 40 * error]},
        "features": "latents",
        "num_samples": 128,
        "num_images": 32,
        "noise_curve": [
            {"timestep": t, "error": 60 * error / t, "low": 50 * error / t, "high": 70 * error / t} for t in points
        ],
        "images": likeness(error),
        "unrelated": likeness(2.0),
        "kernel_distance": error**2,
        "kernel_interval": [-0.01, error**2 + 0.01],
        "tafid_infinity": 20 * error,
        "path_length_ratio": 1 - error / 10,
        "largest_jump_ratio": 1 + error / 10,
        "evaluation_seconds": 0.7,
        "seconds": 2.5,
    }


def proxy(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Errors that halve after 100 steps and fall to a tenth after 1,000: ranks stay, but of two that change places."""

    def measured(row: dict[str, Any], steps: int, factor: float) -> dict[str, Any]:
        error = factor * row["latent_error"]
        return {
            "steps": steps,
            "latent_error": error,
            "noise_error": error / 3,
            "tafid": 9 * error,
            "seconds": steps / 20,
        }

    best = sorted((row for row in rows if row["outcome"] == "done"), key=lambda row: row["latent_error"])[:16]
    long = [0.1] * 14 + [0.1 * best[15]["latent_error"] / best[14]["latent_error"], 0.0999]
    return {
        "key": "synthetic",
        "steps": [100],
        "long_steps": 1000,
        "search_steps": 0,
        "batch_size": 32,
        "learning_rate": 3e-4,
        "num_samples": 128,
        "teacher_passes": 1000,
        "teacher_seconds": 40.0,
        "candidates": [
            {
                "candidate": row["id"],
                "num_params": row["num_params"],
                "latency_ms": row["latency_ms"],
                "measured": [measured(row, 0, 1.0), measured(row, 100, 0.5), measured(row, 1000, last)],
            }
            for row, last in zip(best, long, strict=True)
        ],
    }


#: Hand-made layouts, and the latency that the profile predicts of each, if it does.
BY_HAND = {
    "pruned": {"E1": "RA", "E2": "RA", "E3": "RA", "deep": "none", "D3": "RARA", "D2": "RARA", "D1": "RARA"},
    "slimmed": {"E1": "RARA", "E2": "RARA", "E3": "R", "deep": "none", "D3": "RARARA", "D2": "RARARA", "D1": "RARARA"},
}


def baselines(chosen: dict[str, Any]) -> dict[str, Any]:
    """baselines.json: measured latency is 3 % above the predicted one, distillation halves every error."""
    from nas.baselines import judged

    def entry(name: str, words: dict[str, str], by_hand: bool) -> Any:
        from nas.baselines import Entry

        error, predicted = prior_of(words), latency_ms(words)
        before = {"latent_error": error, "noise_error": 0.6 * error, "tafid": 0.8 + 40 * error}
        return Entry(
            name=name,
            kind="baseline" if by_hand else "searched",
            candidate="-".join(words.values()),
            rule="synthetic",
            training="synthetic",
            num_block_steps=250,
            num_output_steps=100,
            num_params=num_params(words),
            num_macs=num_macs(words),
            predicted_ms=None if name == "slimmed" else predicted,
            measured_ms=1.03 * predicted,
            measured_iqr_ms=0.05 * predicted,
            before=before,
            after={key: value / 2 for key, value in before.items()},
            intervals={"latent_error": (0.4 * error, 0.6 * error)},
            aligned=True,
        )

    entries = [entry(name, {s: row[s] for s in STAGES}, False) for name, row in chosen.items()]
    entries += [entry(name, words, True) for name, words in BY_HAND.items()]
    return judged("synthetic", "measured", "Synthetic device", 5.0, entries).model_dump(mode="json")


def make_run(folder: Path, seed: int = 0) -> Path:
    """Write a whole synthetic run directory and return it."""
    import pandas
    import yaml

    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)

    def dump(name: str, value: Any) -> None:
        (folder / name).write_text(json.dumps(value, indent=1), encoding="utf-8")

    rows = candidate_rows(rng)
    frame = pandas.DataFrame(rows)
    frame.to_parquet(folder / "candidates.parquet")
    frame.to_csv(folder / "candidates.csv", index=False)
    recipe = {
        "name": "synthetic",
        "seed": seed,
        "teacher": "toy",
        "space": "nanosd",
        "data": {"source": "photos", "num_images": 16},
        "search": {"num_candidates": NUM_CANDIDATES, "workers": 2, "sampler": "nsga2"},
        "distill": {"steps": 250, "batch_size": 32, "learning_rate": 1e-3},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")

    def point(words: dict[str, str], factor: float) -> dict[str, Any]:
        return {
            "candidate": "-".join(words.values()),
            "measured_ms": latency_ms(words),
            "predicted_ms": latency_ms(words) * factor,
        }

    fit = [point(random_words(rng), 1 + 0.01 * (-1) ** i) for i in range(8)]
    check = [point(random_words(rng), 1 + 0.01 * (i + 1) * (-1) ** i) for i in range(12)]
    dump(
        "device_profile.json",
        {
            "format_version": 1,
            "device": "Synthetic device, 2 cores",
            "runtime": "onnxruntime 0.0 (synthetic)",
            "precision": "float32",
            "threads": 1,
            "teacher_key": "0123456789abcdef",
            "space": "nanosd",
            "latent_size": 8,
            "base": {"median_ms": 0.3, "conditions": {"cpu": "synthetic", "load_average_1min": 0.5}},
            "fit": {"scale": 1.0, "intercept_ms": 0.0},
            "fitted": fit,
            "validation": check,
        },
    )
    errors = {s: {o: BASE_ERROR + swap_error(s, o) for o in names} for s, names in OPTIONS.items()}
    dump("swap_table.json", {"format_version": 1, "base_error": BASE_ERROR, "errors": errors})
    dump(
        "blocks.json",
        [
            {
                "stage": s,
                "option": o,
                "status": "trained",
                "reason": None,
                "first_loss": 0.8,
                "last_loss": 0.02 * (1 + i) ** 1.2,
            }
            for s, names in OPTIONS.items()
            for i, o in enumerate(names[1:])
        ],
    )
    done = [row for row in rows if row["outcome"] == "done"]
    chosen = {
        "fastest": min(done, key=lambda r: r["latency_ms"]),
        "smallest": min(done, key=lambda r: r["num_params"]),
        "prime": min(done, key=lambda r: r["latent_error"] * r["latency_ms"] * r["num_params"]),
        "budget": min((r for r in done if r["latency_ms"] < 2.5), key=lambda r: r["latent_error"]),
    }
    rules = {
        "fastest": "least predicted latency among the finished candidates",
        "smallest": "fewest parameters among the finished candidates",
        "prime": "least product of error, latency and parameters",
        "budget": "most faithful within 2.5 ms",
    }
    dump("picks.json", {name: {"candidate": row["id"], "rule": rules[name]} for name, row in chosen.items()})
    full = {stage: OPTIONS[stage][0] for stage in STAGES}
    teacher = closing_row("teacher", full, 0.0, 0.8) | {"candidate": None, "num_params": 2 * num_params(full)}
    teacher |= {"predicted_ms": None, "measured": {"median_ms": 5.0, "iqr_ms": 0.2}, "speed_up": 1.0}
    teacher |= {"before": None, "after": None, "checks": None}
    picked = [closing_row(k, {s: r[s] for s in STAGES}, 5.0, 0.8) for k, r in chosen.items()]
    dump("closing.json", {"rows": [teacher, *picked]})
    phases = ("prepare", "calibrate", "distill", "prior", "search", "pick", "finalize", "report")
    seconds = dict(zip(phases, (6.0, 48.0, 74.0, 21.0, 66.0, 0.4, 52.0, 3.0), strict=True))
    dump("timings.json", {"phases": seconds})
    dump("space.json", whole_space())
    dump("proxy.json", proxy(rows))
    dump(
        "provenance.json",
        {"recipe_hash": "synthetic", "torch": "0.0", "python": "3.11", "teacher_key": "0123456789abcdef"},
    )
    write_images(folder / "images" / "teacher", 0.0)
    for index, name in enumerate(chosen):
        write_images(folder / "images" / name, 0.15 * (1 + index))
    dump("images/captions.json", {"captions": CAPTIONS})
    dump("baselines.json", baselines(chosen))
    for name in (*chosen, *BY_HAND, "teacher"):
        write_images(folder / "baselines" / name, 0.1)
    return folder


if __name__ == "__main__":
    print(make_run(Path(sys.argv[1])))
