"""What a worker process does with a candidate: assemble it from the block bank and compare it with the teacher."""

from __future__ import annotations

from collections.abc import Callable

from search_spaces.candidate import Candidate


def make_evaluator(run_dir: str) -> Callable[[Candidate], dict[str, float]]:
    """Load teacher, blocks and the teacher's side of the comparison once; called in every worker process.

    Args:
        run_dir: the run; on a cluster a path that every node sees.

    Returns:
        A function from candidates to ``latent_error``, ``noise_error`` and ``tafid``.

    Raises:
        UserError: a run whose blocks are not trained yet or damaged.
    """
    from nas.quiet import quiet
    from nas.run.context import RunContext
    from search_spaces.surgery import assemble

    quiet()
    context = RunContext.open(run_dir)
    evaluator, blocks, unet = context.evaluator, context.blocks, context.teacher.unet

    def evaluate(candidate: Candidate) -> dict[str, float]:
        fidelity = evaluator.evaluate(assemble(unet, candidate, blocks, copy=False))
        return {
            "latent_error": fidelity.latent_error,
            "noise_error": fidelity.noise_error,
            "tafid": fidelity.tafid,
        }

    return evaluate
