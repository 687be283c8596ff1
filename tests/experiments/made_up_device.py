"""A device whose latency is a sum of kernel sums at known costs, so that the truth of every candidate is known."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from experiments.cli import app
from experiments.exits import run_app
from nas.calibration.target import Target
from search_spaces.candidate import Candidate

SPACE = """
name: few
options:
  E1: [RARA, RA, R]
  E2: [RARA, R]
  E3: [R]
  deep: [none]
  D3: [RARARA, R]
  D2: [RARARA, R]
  D1: [RARARA, RRR, R@3]
candidates:
  largest: RARA-RARA-R-none-RARARA-RARARA-RARARA
  smallest: R-R-R-none-R-R-R@3
"""
FACTS = ["--device", "Made up", "--runtime", "none", "--precision", "fp32"]


def truth_ms(target: Target, subject: str) -> float:
    """10 GMAC a second, 20 us an operator."""
    kernels = target.kernels
    cost = [1e-7 if "_macs@" in n else 0.02 if n.startswith("num_") else 0.0 for n in kernels.kernel_names]
    if subject == "base":
        sums = kernels.base
    elif "/" in subject:
        stage, option = subject.split("/")
        sums = kernels.stages[stage][target.space.options[stage].index(option)]
    else:
        matrix = target.space.encode(Candidate.from_id(subject, target.space.stages))[None]
        sums = kernels.of_candidates(target.space, matrix)[0]
    return float(sums @ np.array(cost))


def write_csv(path: Path, target: Target, subjects: Iterable[str], **facts: str) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "latency_ms", *facts])
        for subject in subjects:
            writer.writerow([subject, repr(truth_ms(target, subject)), *facts.values()])
    return path


def candidates(target: Target, num: int, seed: int = 0) -> list[str]:
    rows = target.space.sample(np.random.default_rng(seed), 4 * num)
    return list(dict.fromkeys(target.space.decode(row).id for row in rows))[:num]


def parts(target: Target) -> list[str]:
    return ["base", *(f"{s}/{o}" for s in target.space.stages for o in target.space.options[s] if o != "none")]


def run(*arguments: object) -> int:
    """`nanosd calibrate` in this process; its exit code."""
    return run_app(app, ["calibrate", *map(str, arguments)])


def fill(file: Path, latency_ms: Callable[[str], float], at_most: int = 99) -> int:
    """Fills in what a file asks for; the number of rows that were empty."""
    rows = list(csv.reader(file.open(newline="")))
    empty = [row for row in rows[1:] if not row[1]][:at_most]
    for row in empty:
        row[1] = repr(latency_ms(row[0]))
    with file.open("w", newline="") as out:
        csv.writer(out).writerows(rows)
    return len(empty)
