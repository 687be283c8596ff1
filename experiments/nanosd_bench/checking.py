"""Is the fast evaluation right, and how many samples are enough? On random candidates, against PairedEvaluator."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from experiments.nanosd_bench.job import Job
from experiments.nanosd_bench.shards import PREFIX

Floats = npt.NDArray[np.float64]
TOLERANCE = 1e-4
"""Largest relative difference that passes: sampling carries rounding errors through ten steps."""


class Agreement(NamedTuple):
    """Kendall's tau over all candidates, and over the half with the smaller errors."""

    every: float
    better_half: float


@dataclass(frozen=True)
class Check:
    """Candidates (N) measured both ways.

    Attributes:
        noise_error, latent_error: by PairedEvaluator (N,).
        shared_noise_error: by SharedEvaluator (N,).
        shares: of `latent_error`, sample by sample (N, samples), by SharedEvaluator.
        plain_ms, shared_ms: CPU time a candidate; nothing shared with other candidates.
    """

    candidates: tuple[str, ...]
    noise_error: Floats
    latent_error: Floats
    shared_noise_error: Floats
    shares: Floats
    plain_ms: float
    shared_ms: float

    @property
    def worst(self) -> float:
        """Largest relative difference of either error."""
        noise = np.abs(self.shared_noise_error / self.noise_error - 1)
        latent = np.abs(self.shares.mean(axis=1) / self.latent_error - 1)
        return float(max(noise.max(), latent.max()))

    def kendall(self, num_samples: int) -> Agreement:
        """Rank correlation of the first samples' mean with `latent_error`."""
        from scipy.stats import kendalltau

        few, better = self.shares[:, :num_samples].mean(axis=1), self.latent_error <= np.median(self.latent_error)
        return Agreement(
            every=float(kendalltau(few, self.latent_error).statistic),
            better_half=float(kendalltau(few[better], self.latent_error[better]).statistic),
        )


def check(job: Job, num: int, seed: int = 0) -> Check:
    """Measure `num` random candidates both ways.

    Raises:
        UserError: blocks that are not trained yet.
    """
    from search_spaces.surgery import assemble

    run, shared = job.run, job.evaluator
    matrix = run.space.sample(np.random.default_rng(seed), num)
    candidates = [run.space.decode(row) for row in matrix]
    plain, noise, shares = [], [], []
    plain_s = shared_s = 0.0
    for candidate in candidates:
        start = time.process_time()
        plain.append(run.evaluator.evaluate(assemble(run.teacher.unet, candidate, run.blocks, copy=False)))
        plain_s += time.process_time() - start
        prefix = {stage: candidate.options[stage] for stage in PREFIX}
        leaves = ((candidate.options["D2"],), (candidate.options["D1"],))
        start = time.process_time()
        noise.append(shared.noise_errors(prefix, leaves)[0, 0])
        parts = [shared.latent_errors(prefix, part.start, leaves)[0, 0] for part in job.latent_parts]
        shared_s += time.process_time() - start
        shares.append(np.concatenate(parts))
    return Check(
        candidates=tuple(candidate.id for candidate in candidates),
        noise_error=np.array([f.noise_error for f in plain]),
        latent_error=np.array([f.latent_error for f in plain]),
        shared_noise_error=np.array(noise),
        shares=np.array(shares),
        plain_ms=1000 * plain_s / num,
        shared_ms=1000 * shared_s / num,
    )


def print_check(found: Check) -> int:
    """Print the figures; 0 when both ways agree."""
    total = found.shares.shape[1]
    print(
        f"{len(found.candidates)} random candidates, {total} samples; CPU a candidate: PairedEvaluator "
        f"{found.plain_ms:.0f} ms, SharedEvaluator {found.shared_ms:.0f} ms"
    )
    print(f"largest relative difference of latent_error or noise_error: {found.worst:.1e} (legal {TOLERANCE:.0e})")
    print("Kendall's tau of fewer samples with all of them: all candidates, better half")
    for num in range(16, total + 1, 16):
        print("  {:3d} samples  {:.3f}  {:.3f}".format(num, *found.kendall(num)))
    print("passed" if found.worst <= TOLERANCE else "FAILED")
    return 0 if found.worst <= TOLERANCE else 1
