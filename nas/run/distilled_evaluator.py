"""Candidates of a sweep that are distilled for some steps before they are compared with the teacher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nas.search.evaluation import PartialResult

if TYPE_CHECKING:
    from nas.distill.settings import AlignSettings
    from nas.distill.targets import StoredTargets
    from nas.fidelity.paired import PairedEvaluator
    from nas.run.context import RunContext
    from search_spaces.unet import StagedUNet


def brief_settings(run: RunContext, steps: int) -> AlignSettings:
    """As picks are finalized, but for `steps` steps: after as many steps both have the same weights."""
    return run.align_settings.model_copy(update={"steps": steps})


def stored_targets(run: RunContext) -> StoredTargets:
    """The teacher's predictions for the batches of :func:`brief_settings`, kept in the run's `work` folder.

    Made while the teacher still has its text encoder: prompts that are not stored with the latents are encoded here.
    """
    from nas.data import batches
    from nas.distill.targets import StoredTargets

    dataset = run.dataset
    if dataset.prompts is None:
        run.dataset = dataset = replace(dataset, prompts=run.teacher.encode_prompts(dataset.unique_captions).detach())
    size, seed = run.recipe.finalize.batch_size, run.recipe.seed
    teacher = replace(run.teacher, vae=None, text_encoder=None)  # the same U-Net; what is not needed can be freed

    def source(step: int) -> Any:
        return batches(dataset, teacher, size, seed, step)

    return StoredTargets(teacher, source, run.directory.work / "targets", [dataset.key, seed, size])


def rungs(steps: int) -> tuple[int, ...]:
    """Where a distillation of `steps` steps is measured: before it, after a quarter, after half, at its end."""
    return tuple(sorted({0, steps // 4, steps // 2, steps}))


class DistilledEvaluator:
    """Distils a network and measures it on the way.

    Args:
        run: its teacher, data and `finalize` settings.
        steps: of the distillation, at least 1.
    """

    def __init__(self, run: RunContext, steps: int) -> None:
        assert steps >= 1, steps
        self._run, self._settings = run, brief_settings(run, steps)
        self._targets = stored_targets(run)
        self._batches = run.batches(self._settings.batch_size)

    def __call__(self, name: str, student: StagedUNet) -> Iterator[PartialResult | Any]:
        """Partial results at the rungs, then the :class:`Fidelity` after all steps; `student` is not changed.

        Raises:
            DivergedError: loss or gradients are not finite.
            FidelityError: a measure is not finite.
        """
        from nas.distill.candidate import distill_candidates

        steps, evaluator = self._settings.steps, self._run.evaluator
        for step, copies in distill_candidates(
            self._run.teacher, {name: student}, self._batches, self._settings, rungs(steps), self._targets
        ):
            yield evaluator.evaluate(copies[name]) if step == steps else _partly(evaluator, copies[name], step)


def _partly(evaluator: PairedEvaluator, student: StagedUNet, step: int) -> PartialResult:
    """Errors over a quarter of the samples: what a decision on the way needs."""
    import numpy as np

    num = max(2, -(-evaluator.settings.num_samples // 4))
    errors = evaluator.sample_errors(evaluator.sample(student, evaluator.noise[:num]))
    metrics = {"latent_error": float(errors.mean()), "noise_error": evaluator.noise_error(student)}
    return PartialResult(step, metrics, float(errors.std(ddof=1) / np.sqrt(len(errors))))
