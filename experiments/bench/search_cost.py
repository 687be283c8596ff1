"""What a whole search costs, against training each candidate from scratch to the same fidelity.

    python -m experiments.bench.search_cost RUN [--candidates 3] [--max-steps 3000] [--minutes 18]

RUN is a finished run. For some candidates of its front the same architecture is trained from random weights on the
same latents with the same loss (the teacher's noise prediction), until its latent error is that of the assembled
candidate. What scratch training is given: the best of three learning rates, each tried for `--tuning-steps` on the
first candidate (by noise error at the end), AdamW with 50 warm-up steps and a constant rate, so that it may stop at any
step; looking every `--every` steps is not counted. Where the cap comes first, the figure is a lower bound, and the
output says so. Seconds are of the processor (one thread), which other processes do not stretch. Killed and started
again it goes on with the next candidate.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.atomic import write_json

if TYPE_CHECKING:
    from nas.run.context import RunContext
    from search_spaces.unet import StagedUNet

RATES = (1.5e-3, 4e-3, 1e-2)
WARM_UP = 50
CLIP = 1.0


def choose(run: RunContext, num: int) -> list[tuple[str, float]]:
    """Candidates (id, assembled latent error) of the front whose error is at most 0.5, evenly by the error's rank."""
    import numpy as np

    from nas.pareto import ERROR_FLOOR, front

    rows, values = run.store.objectives()
    values = np.asarray(values)
    usable = front(values) & (values[:, 0] > ERROR_FLOOR) & (values[:, 0] <= run.recipe.picks.max_error)
    if not usable.any():
        usable = front(values)
    ordered = np.flatnonzero(usable)[np.argsort(values[usable, 0], kind="stable")]
    places = ((np.arange(min(num, len(ordered))) + 0.5) * len(ordered) / min(num, len(ordered))).astype(int)
    records = run.store.at(rows[ordered[places]])
    return [(r.candidate, float(values[row, 0])) for r, row in zip(records, ordered[places], strict=True)]


def from_scratch(run: RunContext, name: str, seed: int) -> StagedUNet:
    """The architecture with weights as its modules draw them."""
    import torch

    from search_spaces.candidate import Candidate
    from search_spaces.surgery import assemble

    # A copy, because the head is the teacher's own.
    student = copy.deepcopy(assemble(run.teacher.unet, Candidate.from_id(name, run.space.stages)))
    student = student.eval().requires_grad_(True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in student.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return student


class Training:
    """Output-level training at a constant learning rate after a warm-up.

    Args:
        run: its teacher, data, batches and `finalize.batch_size`.
        name: candidate id.
        rate: learning rate.
    """

    def __init__(self, run: RunContext, name: str, rate: float) -> None:
        import torch

        from nas.run.distilled_evaluator import stored_targets
        from nas.sampling import alphas_cumprod

        self.student = from_scratch(run, name, run.recipe.seed)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=rate, weight_decay=0.0, fused=True)
        self.rate, self.step, self.seconds = rate, 0, 0.0
        self._targets = stored_targets(run)
        self._source = run.batches(run.recipe.finalize.batch_size)(0)
        self._alphas = alphas_cumprod(run.teacher.scheduler.config)

    def go_on(self, steps: int) -> str | None:
        """Train for so many steps; why it could not, if it could not."""
        import torch

        from nas.distill.align import backward
        from nas.sampling import add_noise

        for _ in range(steps):
            target = self._targets(self.step)  # the teacher's side is shared and not counted
            start = time.process_time()
            batch = next(self._source)
            noisy = add_noise(self._alphas, batch.latents, batch.noise, batch.timesteps)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * min(1.0, (self.step + 1) / WARM_UP)
            output = self.student(noisy, batch.timesteps, batch.context, return_dict=False)[0]
            reason = backward(self.student, output, target, torch.zeros(1), 0, CLIP)
            if reason is not None:
                return reason.replace("at step 1", f"at step {self.step + 1}")
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            self.seconds += time.process_time() - start
        return None


def tune(run: RunContext, name: str, steps: int) -> dict[str, float | None]:
    """Noise error after so many steps by learning rate; None where it diverged."""
    found: dict[str, float | None] = {}
    for rate in RATES:
        training = Training(run, name, rate)
        reason = training.go_on(steps)
        found[f"{rate:g}"] = None if reason else run.evaluator.noise_error(training.student)
    return found


def train(run: RunContext, name: str, error: float, rate: float, max_steps: int, seconds: float, every: int) -> Any:
    """Steps and processor seconds until the latent error is `error`, or the cap."""
    from nas.fidelity.errors import FidelityError

    training, curve = Training(run, name, rate), []
    reason, reached = None, False
    while not reached and reason is None and training.step < max_steps and training.seconds < seconds:
        reason = training.go_on(min(every, max_steps - training.step))
        if reason is None:
            try:
                latent = run.evaluator.sample_errors(run.evaluator.sample(training.student)).mean()
            except FidelityError as failed:
                reason = str(failed)
            else:
                curve.append((training.step, float(latent)))
                reached = bool(latent <= error)
    return {
        "candidate": name,
        "wanted_latent_error": error,
        "reached": reached,
        "steps": training.step,
        "cpu_seconds": round(training.seconds, 1),
        "latent_error": curve[-1][1] if curve else None,
        "reason": reason,
        "curve": curve,
    }


def costs(run: RunContext) -> dict[str, Any]:
    """The parts of the search, from the run's own clocks: seconds of phases, evaluations, finalists."""
    import numpy as np

    phases = run.directory.seconds()
    records = [r for r in run.store.latest() if r.outcome == "done" and r.reused_from is None]
    seconds = [r.seconds for r in records]
    return {
        "blocks, once": phases.get("distill", 0.0),
        "prior, once": phases.get("prior", 0.0),
        "evaluations": len(records),
        "seconds an evaluation (median)": round(float(np.median(seconds)), 2) if seconds else None,
        "all evaluations": round(float(np.sum(seconds)), 1),
        "finalists (distillation, images, export)": phases.get("finalize", 0.0),
    }


def compare(found: dict[str, Any]) -> dict[str, Any]:
    """Totals: the search without finalists, and all its evaluations from scratch at the mean cost of the sample."""
    search, trained = found["search"], found["from_scratch"]
    total = search["blocks, once"] + search["prior, once"] + search["all evaluations"]
    each = sum(t["cpu_seconds"] for t in trained) / len(trained)
    return {
        "search_seconds": round(total, 1),
        "from_scratch_seconds": round(each * search["evaluations"], 1),
        "ratio": round(each * search["evaluations"] / total, 1),
        "is_lower_bound": not all(t["reached"] for t in trained),
    }


def text(found: dict[str, Any]) -> str:
    """The same for people."""
    lines = [f"{name:<46}{value}" for name, value in found["search"].items()]
    lines.append(f"{'learning rate from scratch':<46}{found['rate']} (noise error by rate: {found['tuning']})")
    for each in found["from_scratch"]:
        how = "reached" if each["reached"] else "not reached"
        at = "-" if each["latent_error"] is None else f"{each['latent_error']:.3g}"
        lines.append(
            f"{each['candidate']}: {each['wanted_latent_error']:.3g} {how} after {each['steps']:,} steps, "
            f"{each['cpu_seconds']:.0f} s; latent error {at}{'; ' + each['reason'] if each['reason'] else ''}"
        )
    total = found["total"]
    bound = "at least " if total["is_lower_bound"] else ""
    lines.append(
        f"search: {total['search_seconds']:.0f} s; every evaluated candidate from scratch: {bound}"
        f"{total['from_scratch_seconds']:.0f} s; ratio {bound}{total['ratio']:g}"
    )
    return "\n".join(lines)


def main() -> None:
    """Print the table and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--candidates", type=int, default=3)
    parser.add_argument("--out", type=Path, help="default: RUN/search_cost.json, which is gone on with")
    parser.add_argument("--max-steps", type=int, default=3000, help="for each candidate")
    parser.add_argument("--minutes", type=float, default=18.0, help="of processor time, for all candidates")
    parser.add_argument("--tuning-steps", type=int, default=500, help="fewer prefer rates that break down later")
    parser.add_argument("--every", type=int, default=100, help="steps between two looks at the latent error")
    given = parser.parse_args()

    from nas.quiet import quiet
    from nas.run.context import RunContext

    quiet()
    run = RunContext.open(given.run)
    print(text(measure(run, given, given.out or run.directory.path / "search_cost.json")))


def measure(run: RunContext, given: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Whatever is not in `out` yet."""
    chosen = choose(run, given.candidates)
    settings = {name: getattr(given, name) for name in ("max_steps", "minutes", "tuning_steps", "every")}
    settings |= {"candidates": [list(each) for each in chosen]}
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    if found.get("settings") != settings:
        found = {"settings": settings, "from_scratch": []}
    found["search"] = costs(run)
    if "tuning" not in found:
        found["tuning"] = tune(run, chosen[0][0], given.tuning_steps)
        errors = {rate: error for rate, error in found["tuning"].items() if error is not None}
        found["rate"] = float(min(errors, key=lambda rate: errors[rate]))
        write_json(out, found)
    for name, error in chosen[len(found["from_scratch"]) :]:
        share = 60 * given.minutes / len(chosen)
        found["from_scratch"].append(train(run, name, error, found["rate"], given.max_steps, share, given.every))
        found["total"] = compare(found)
        write_json(out, found)
    return found


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
