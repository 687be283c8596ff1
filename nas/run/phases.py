"""The phases of a run in order. Each goes on from what it finds and does nothing finished twice."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from nas.progress import Progress
from nas.run.context import RunContext
from nas.run.evaluate import make_evaluator
from nas.run.reuse import check_sources, num_reused, reuse_blocks, reuse_candidates
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from latency_predictors.npu.profile import NpuProfile
    from latency_predictors.profile import DeviceProfile
    from nas.distill.results import Block, BlockResult
    from nas.progress import Phase


def step_counter(phase: Phase) -> Callable[[int, int, str], None]:
    """Progress callback ``(done, total, note)`` of the trainings and measurements for a phase line.

    Whatever the first call already reports beyond one unit was done by an earlier process.
    """
    seen = -1

    def report(done: int, total: int, note: str) -> None:
        nonlocal seen
        phase.total = total
        if seen < 0:
            phase.skip(max(done - 1, 0))
            seen = max(done - 1, 0)
        phase.advance(max(done - seen, 0), **({"": note} if note else {}))
        seen = max(done, seen)

    return report


def load(run: RunContext, progress: Progress) -> None:
    """Load the teacher, check the sampler, the space and a given profile, count costs; nothing is written."""
    from nas.fidelity.features import make_features
    from nas.search.sampler import check_sampler

    check_sampler(run.recipe.search.sampler)
    with progress.phase("load", 2) as phase:
        _ = run.space
        _ = run.teacher
        phase.advance(teacher=run.recipe.teacher)
        _ = run.costs
        check_sources(run)
        make_features(run.recipe.fidelity.features, run.teacher)  # a path that is not there is told now
        if run.recipe.calibration.profile is not None:
            given_profile(run, run.recipe.calibration.profile)
        phase.advance(candidates=run.space.num_candidates)


def prepare(run: RunContext, progress: Progress) -> None:
    """Encode the training images, or read back what was encoded before."""
    from nas.run.dataset import cached_latents

    with progress.phase("prepare", run.recipe.data.num_images) as phase:
        seen = 0

        def report(done: int) -> None:
            nonlocal seen
            phase.advance(done - seen)
            seen = done

        # What is on disk counts as done at once; the run's own data set reads it.
        cached_latents(run.teacher, run.recipe, run.directory.work, report)
        dataset = run.dataset
        phase.advance(0, **({"unreadable files": len(dataset.skipped)} if dataset.skipped else {}))


def calibrate(run: RunContext, progress: Progress) -> None:
    """Measure every option on this machine, or take over a given profile of any kind; then check the budgets.

    Raises:
        UserError: a profile that does not fit, or a budget below what any candidate can reach.
    """
    directory, recipe = run.directory, run.recipe
    if not directory.profile.is_file():
        if recipe.calibration.profile is not None:
            with progress.phase("calibrate") as phase:
                given_profile(run, recipe.calibration.profile).save(directory.profile)
                how = "measured" if run.device.is_measured else "estimated"
                phase.advance(0, **{"": f"given: {run.device.title}, {how}"})
        else:
            measure_profile(run, directory.work / "calibration", progress).save(directory.profile)
    _write_space_facts(run)
    check_budgets(run)


def given_profile(run: RunContext, name_or_path: str) -> DeviceProfile | NpuProfile:
    """The profile that a recipe names, once it is seen to fit the run.

    Raises:
        UserError: it cannot be read, or is of another space, teacher or size.
    """
    from latency_predictors.profile import DeviceProfile
    from latency_predictors.profile_file import load_profile

    given = load_profile(name_or_path)
    if isinstance(given, DeviceProfile):  # an NPU profile takes whatever space its teacher takes
        given.check(run.space, run.teacher.key, run.teacher.latent_size)
    return given


def _write_space_facts(run: RunContext) -> None:
    """Ranges of latency and parameters over the whole space, for the report and the hypervolume's scale."""
    from nas.atomic import write_json
    from nas.run_data import space_facts
    from nas.search.settings import table_or_sample

    matrix = table_or_sample(run.space, run.recipe.seed)
    latency, params = run.latency.latency_ms(matrix), run.costs.params(matrix)
    write_json(run.directory.path / "space.json", space_facts(run.space.num_candidates, latency, params))


def measure_profile(run: RunContext, work_dir: Any, progress: Progress) -> Any:
    """A device profile of this machine for the run's teacher and space; measurements go on in `work_dir`."""
    from latency_predictors.calibration import calibrate as measure
    from nas.atomic import ensure_writable
    from nas.folder_lock import folder_lock
    from search_spaces.conditioning import text_width

    teacher = run.teacher
    ensure_writable(work_dir)
    with folder_lock(work_dir, f"calibration in {work_dir}"), progress.phase("calibrate") as phase:
        profile = measure(
            teacher.unet,
            run.space,
            latent_size=teacher.latent_size,
            num_tokens=teacher.num_tokens,
            context_dim=text_width(teacher.unet.config),
            work_dir=work_dir,
            settings=_calibration_settings(run),
            teacher_key=teacher.key,
            on_progress=step_counter(phase),
        )
        judged = profile.judgement
        assert judged is not None  # at least one unseen U-Net is measured
        phase.advance(0, **{"": f"median error {judged.median_error_pct:.1f} % on {judged.num} unseen U-Nets"})
    return profile


def _calibration_settings(run: RunContext) -> Any:
    from latency_predictors.calibration import CalibrationSettings

    settings = run.recipe.calibration
    num_options = sum(len(names) for names in run.space.options.values())
    subjects = num_options + settings.num_fit + settings.num_check
    fields = settings.model_dump(exclude={"profile", "max_seconds"})
    return CalibrationSettings(**fields, max_seconds=settings.max_seconds / subjects)


def check_budgets(run: RunContext) -> None:
    """Raise before anything is trained when no candidate of the space can meet the budgets.

    Raises:
        UserError: naming the reachable range.
    """
    from nas.search.settings import table_or_sample

    budgets = run.recipe.picks
    if budgets.max_latency_ms is None and budgets.max_params is None:
        return
    matrix = table_or_sample(run.space, run.recipe.seed)
    latency, params = run.latency.latency_ms(matrix), run.costs.params(matrix)
    within = (latency <= (budgets.max_latency_ms or float("inf"))) & (params <= (budgets.max_params or float("inf")))
    if not within.any():
        raise UserError(
            f"no candidate of {run.space.name!r} meets the budgets (latency {budgets.max_latency_ms} ms, parameters "
            f"{budgets.max_params}); this space reaches {latency.min():.3g} to {latency.max():.3g} ms and "
            f"{params.min():,} to {params.max():,} parameters; raise picks.max_latency_ms or picks.max_params"
        )


def distill(
    run: RunContext, progress: Progress, blocks: Sequence[Block] | None = None, address: str | None = None
) -> dict[Block, BlockResult]:
    """Train every surrogate block, or these `blocks`, that the bank does not hold; what became of each.

    `blocks.json` is written once all blocks of the space are there.
    """
    from nas.distill.blocks import distill_blocks, missing_blocks, save_results, surrogate_blocks
    from nas.run.distill_workers import distill_in_workers

    settings, every = run.distill_settings, surrogate_blocks(run.teacher.unet, run.space)
    wanted = every if blocks is None else blocks
    with progress.phase("distill", settings.steps) as phase:
        if copied := reuse_blocks(run):
            phase.advance(0, **{"blocks reused": copied})
        results, missing = missing_blocks(run.teacher, wanted, run.space, settings, run.bank, run.dataset.key)
        if missing and run.recipe.distill.workers > 1:
            results |= distill_in_workers(run, wanted, address, step_counter(phase))
        elif missing:
            results |= distill_blocks(
                run.teacher,
                run.space,
                run.batches(settings.batch_size),
                settings,
                run.bank,
                run.directory.work,
                run.dataset.key,
                on_progress=step_counter(phase),
                blocks=missing,
            )
        else:
            phase.skip(settings.steps - phase.done, blocks=f"all {len(results)} in the bank")
    results = {block: results[block] for block in wanted}
    whole, absent = results, len(wanted) != len(every)
    if absent:
        rest = [block for block in every if block not in results]
        others, rest = missing_blocks(run.teacher, rest, run.space, settings, run.bank, run.dataset.key)
        whole, absent = results | others, bool(rest)
    if not absent:
        # Blocks found in the bank have the losses of their training, which the bank keeps.
        save_results(run.directory.blocks, {block: whole[block] for block in every})
    return results


def prior(run: RunContext, progress: Progress) -> Any:
    """The table of single-swap errors: every option alone in the all-teacher network."""
    from nas.fidelity.errors import FidelityError
    from nas.fidelity.swap import swap_table

    with progress.phase("prior") as phase:
        try:
            return swap_table(
                run.teacher,
                run.space,
                run.blocks,
                run.evaluator,
                path=run.directory.swap_table,
                on_progress=step_counter(phase),
            )
        except FidelityError as error:
            raise UserError(
                f"the network that all candidates are compared in cannot be measured: {error}; check the teacher, "
                "or distil with a smaller distill.learning_rate"
            ) from None


def search(run: RunContext, table: Any, address: str | None, progress: Progress) -> None:
    """The sweep, until the recipe's number of candidates is evaluated; then the tables."""
    from nas.search.settings import SweepSettings
    from nas.search.sweep import run_sweep
    from nas.search.tables import export_tables

    def predicted(matrix: Any) -> Any:
        return table.prior(run.space.stage_rows(matrix))

    if run.recipe.reuse:
        with progress.phase("reuse") as phase:
            for taken in reuse_candidates(run, predicted):
                phase.advance(taken.candidates, **{"": f"of {taken.finished:,} finished ones of {taken.run}"})
    # What is done to a candidate is the evaluator's.
    budgets, sweep = run.recipe.picks, run.recipe.search.model_dump(exclude={"distill_steps"})
    # Candidates to evaluate are new ones.
    sweep["num_candidates"] += num_reused(run.store)
    settings = SweepSettings(
        seed=run.recipe.seed,
        recipe_hash=run.recipe_hash,
        max_latency_ms=budgets.max_latency_ms,
        max_params=budgets.max_params,
        **sweep,
    )
    with progress.phase("search", settings.num_candidates) as phase:
        first = True

        def report(
            done: int, failed: int, infeasible: int, stopped: int, front_size: int, hypervolume: float, total: int
        ) -> None:
            nonlocal first
            counts: dict[str, Any] = {"failed": failed, "infeasible": infeasible, "front": front_size}
            if settings.early_stopping != "none":
                counts["stopped"] = stopped
            done += stopped
            if first:
                phase.skip(done, **counts, hypervolume=hypervolume)
            else:
                phase.advance(max(done - phase.done, 0), **counts, hypervolume=hypervolume)
            first = False

        run_sweep(
            run.space,
            functools.partial(make_evaluator, str(run.directory.path.resolve())),
            run.known_costs,
            settings,
            run.directory.path,
            prior=predicted,
            on_progress=report,
            address=address,
        )
    export_tables(run.directory.path)


def pick(run: RunContext, progress: Progress) -> dict[str, Any]:
    """Choose the picks from the front and write picks.json."""
    from nas.picks import choose_rows, save_picks

    with progress.phase("pick") as phase:
        budgets = run.recipe.picks
        store = run.store
        rows, values = store.objectives()
        picks = choose_rows(
            values,
            lambda row: store.at(rows[row : row + 1])[0],
            budgets.max_latency_ms,
            budgets.max_params,
            budgets.max_error,
        )
        save_picks(picks, run.directory.picks)
        phase.advance(len(picks))
    return picks
