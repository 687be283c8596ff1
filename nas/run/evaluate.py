"""What a worker process does with a candidate: assemble it from the block bank and compare it with the teacher."""

from __future__ import annotations

from collections.abc import Callable

from search_spaces.candidate import Candidate


def make_evaluator(run_dir: str) -> Callable[[Candidate], dict[str, float]]:
    """Load teacher, blocks and the teacher's side of the comparison once; called in every worker process.

    Weights of teacher and blocks are shared by the workers of a machine (:mod:`nas.shared_weights`).

    Args:
        run_dir: the run; on a cluster a path that every node sees.

    Returns:
        A function from candidates to ``latent_error``, ``noise_error`` and ``tafid``; it raises FidelityError for
        a candidate with a block whose training was stopped, and for measures that are not finite.

    Raises:
        UserError: a run whose blocks are not trained yet or damaged.
    """
    from nas.distill.results import read_results
    from nas.fidelity.errors import FidelityError
    from nas.quiet import quiet
    from nas.run.context import RunContext
    from nas.shared_weights import share_unet
    from search_spaces.surgery import assemble

    quiet()
    context = RunContext.open(run_dir)
    evaluator = context.evaluator
    if context.recipe.search.workers > 1:
        context.teacher = evaluator.teacher = share_unet(context.teacher, context.directory.work)
    blocks, unet = context.blocks, context.teacher.unet

    stopped = {(r.stage, r.option): r.reason for r in read_results(context.directory.blocks).values() if r.reason}

    def evaluate(candidate: Candidate) -> dict[str, float]:
        for block in candidate.options.items():
            if block in stopped:
                raise FidelityError("latent_error", f"block {' '.join(block)} was not trained: {stopped[block]}")
        fidelity = evaluator.evaluate(assemble(unet, candidate, blocks, copy=False))
        return {
            "latent_error": fidelity.latent_error,
            "noise_error": fidelity.noise_error,
            "tafid": fidelity.tafid,
        }

    return evaluate
