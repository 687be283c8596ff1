"""What a worker process does with a candidate: assemble it from the block bank and compare it with the teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nas.search.evaluation import PartialResult
from search_spaces.candidate import Candidate


def make_evaluator(run_dir: str) -> Callable[[Candidate], Iterator[PartialResult | dict[str, float]]]:
    """Load teacher, blocks and the teacher's side of the comparison once; called in every worker process.

    Weights of teacher and blocks are shared by the workers of a machine (:mod:`nas.shared_weights`).

    Args:
        run_dir: the run; on a cluster a path that every node sees.

    Returns:
        A function from candidates to an iterator that ends with ``latent_error``, ``noise_error`` and ``tafid``. Before
        them come rungs after about a quarter and a half of the samples (whole batches), the errors with their means
        so far. It raises FidelityError for a candidate with a block whose training was stopped, and for measures that
        are not finite.

    Raises:
        UserError: a run whose blocks are not trained yet or damaged.
    """
    from nas.distill.results import read_results
    from nas.fidelity.errors import FidelityError
    from nas.fidelity.paired import Fidelity
    from nas.quiet import quiet
    from nas.run.context import RunContext
    from nas.run.distilled_evaluator import DistilledEvaluator
    from nas.shared_weights import share_unet
    from search_spaces.surgery import assemble

    quiet()
    context = RunContext.open(run_dir)
    evaluator, steps = context.evaluator, context.recipe.search.distill_steps
    distilled = DistilledEvaluator(context, steps) if steps else None
    if context.recipe.search.workers > 1:
        context.teacher = evaluator.teacher = share_unet(context.teacher, context.directory.work)
    blocks, unet = context.blocks, context.teacher.unet

    stopped = {(r.stage, r.option): r.reason for r in read_results(context.directory.blocks).values() if r.reason}

    def evaluate(candidate: Candidate) -> Iterator[PartialResult | dict[str, float]]:
        for block in candidate.options.items():
            if block in stopped:
                raise FidelityError("latent_error", f"block {' '.join(block)} was not trained: {stopped[block]}")
        student = assemble(unet, candidate, blocks, copy=False)
        for found in evaluator.rungs(student) if distilled is None else distilled(candidate.id, student):
            if isinstance(found, PartialResult):
                yield found
                continue
            metrics = {"latent_error": found.latent_error, "noise_error": found.noise_error}
            if isinstance(found, Fidelity):
                yield metrics | {"tafid": found.tafid}
            else:
                yield PartialResult(found.num_samples, metrics, found.standard_error)

    return evaluate
