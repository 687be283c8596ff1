"""The sweep: Ray Tune runs the evaluations, an Optuna study proposes the candidates, the store remembers."""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.search.settings import Indices, KnownCosts, SweepSettings, draw_within
from nas.search.store import STORE_FOLDER, CandidateRecord, CandidateStore
from nas.search.warm_start import warm_start
from search_spaces.errors import UserError
from search_spaces.space import SearchSpace

if TYPE_CHECKING:
    from nas.search.pool import Pool
    from nas.search.searcher import SweepSearcher
    from nas.search.worker import EvaluateFactory


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended."""

    done: int
    """Finished candidates of the run, those of earlier sweeps included; `failed`, `infeasible` likewise."""
    failed: int
    infeasible: int
    stopped: int
    """Ended at a rung; they count against `num_candidates`, and never for the front."""
    front_size: int
    hypervolume: float
    exhausted: bool
    """Whether it ended because no candidate was left to propose."""
    seconds: float
    """Of this sweep, start and end of Ray included."""


def run_sweep(
    space: SearchSpace,
    evaluate_factory: EvaluateFactory,
    objectives: KnownCosts,
    settings: SweepSettings,
    run_dir: Path | str,
    prior: Callable[[Indices], Any] | None = None,
    on_progress: Callable[..., None] | None = None,
    address: str | None = None,
) -> SweepResult:
    """Evaluate candidates until `settings.num_candidates` of the run are finished; go on where an earlier sweep ended.

    Finished candidates live in `run_dir/store`, where the worker process writes each one before it reports it, and this
    process each one that it stops. The study in `run_dir/study.log` is brought up to the store first; candidates whose
    evaluation was interrupted come first, then the predicted front (:func:`warm_start`), then the sampler's proposals.
    No done or stopped candidate is evaluated again, and no failed one unless `retry_failed`. A candidate fails when its
    evaluation raises or gives a metric that is not finite; when its process dies it is tried once more.

    Args:
        space: what is searched.
        evaluate_factory: called once in each worker process (it is sent there by Ray: use a function of a module, or
            a `functools.partial` of one with plain arguments); returns `evaluate(candidate)`, which gives
            metrics, or an iterator over rungs that ends with metrics (:data:`nas.search.evaluation.Evaluate`).
        objectives: known costs and the name of the error metric.
        settings: see :class:`SweepSettings`.
        run_dir: the run; one driver at a time.
        prior: predicted error (N,) of index matrices (N, stages), for the warm start and the records.
        on_progress: called at the start and after each result with `done`, `failed`, `infeasible`, `stopped`,
            `front_size`, `hypervolume`, `total`.
        address: of a Ray cluster (`auto`, `host:port`, `ray://...`); None starts Ray here.

    Raises:
        UserError: limits that no candidate meets, records of another recipe, too many failures, an evaluator that
            cannot be made, a folder that cannot be written. What is finished stays.
        KeyboardInterrupt: Ctrl-C; what is finished stays.
    """
    folder = Path(run_dir).resolve()
    _make_folder(folder)
    with _one_driver(folder):
        return _sweep(space, evaluate_factory, objectives, settings, folder, prior, on_progress, address)


def _sweep(
    space: SearchSpace,
    evaluate_factory: EvaluateFactory,
    objectives: KnownCosts,
    settings: SweepSettings,
    folder: Path,
    prior: Callable[[Indices], Any] | None,
    on_progress: Callable[..., None] | None,
    address: str | None,
) -> SweepResult:
    from nas.search import study as studies
    from nas.search.pool import Pool
    from nas.search.sampler import make_sampler
    from nas.search.searcher import SweepSearcher

    start = time.monotonic()
    store = CandidateStore(folder / STORE_FOLDER)
    _make_folder(store.folder)
    _check_recipe(store, settings)
    pool = Pool(space, objectives, settings)
    from nas.search.presence import clear_workers
    from nas.search.ray_session import clear_leftovers

    clear_leftovers(store.folder)  # before the store is read for good: a leftover worker may still write
    clear_workers(store.folder)
    num_known = _close_known(store, space, pool, settings)
    # Not the same proposals again after a restart.
    known = objectives.known_objectives(pool.cost_bounds, prior, draw_within(space, objectives, settings))
    seed = settings.seed + num_known
    sampler = make_sampler(settings.sampler, space, seed, pool, known, settings.retry_failed)
    study = studies.open_study(folder, objectives, sampler)
    again = studies.replay(study, space, store, objectives)
    searcher = SweepSearcher(space, objectives, settings, store, pool, study, sampler, prior, on_progress)
    sampler.queue.extend(again)
    if prior is not None and settings.num_warm_start:
        sampler.queue.extend(_warm_points(searcher, prior))
    searcher.report()
    if searcher.num_finished < settings.num_candidates and not pool.exhausted:
        try:
            _drive(searcher, evaluate_factory, address)
        finally:
            clear_workers(store.folder)
    problem = searcher.callback_error or searcher.stop_reason
    if problem is not None:
        raise problem
    counts = searcher.counts()
    return SweepResult(
        done=counts["done"],
        failed=counts["failed"],
        infeasible=counts["infeasible"],
        stopped=counts["stopped"],
        front_size=searcher.front.size,
        hypervolume=searcher.front.hypervolume,
        exhausted=searcher.num_finished < settings.num_candidates,
        seconds=time.monotonic() - start,
    )


@contextmanager
def _one_driver(folder: Path) -> Iterator[None]:
    """Hold the run's folder; the operating system lets go however the process ends, and no file is left.

    A second driver would end the workers of the first as leftovers.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"run {folder}: another process is driving its sweep; wait for it, stop it, or use another run"
            ) from None
        except OSError:
            pass  # a file system without locks on folders
        yield
    finally:
        os.close(handle)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}; choose a folder that can be written") from None


def _check_recipe(store: CandidateStore, settings: SweepSettings) -> None:
    table = store.table(store.latest_rows(), ("outcome", "recipe_hash"))
    pairs = zip(table["outcome"].to_pylist(), table["recipe_hash"].to_pylist(), strict=True)
    finished = ("done", "stopped")
    others = {recipe_hash for outcome, recipe_hash in pairs if outcome in finished} - {settings.recipe_hash}
    if others:
        raise UserError(
            f"{store.path} holds candidates evaluated with recipe {sorted(others)[0]!r}, not {settings.recipe_hash!r}; "
            "their errors cannot be compared, start a run of another name"
        )


def _close_known(store: CandidateStore, space: SearchSpace, pool: Pool, settings: SweepSettings) -> int:
    """Take what the store has from the pool; the number of candidates that it has."""
    table = store.table(store.latest_rows(), ("vector", "outcome"))
    vectors = np.array(table["vector"].to_pylist(), np.int64).reshape(-1, len(space.sizes))
    again = np.array([settings.retry_failed and outcome == "failed" for outcome in table["outcome"].to_pylist()], bool)
    pool.take_all(vectors[~again])
    return len(vectors)


def _warm_points(searcher: SweepSearcher, prior: Callable[[Indices], Any]) -> list[Indices]:
    """Open candidates of the predicted front; those beyond the limits are booked as infeasible."""
    costs, settings = searcher.costs, searcher.settings
    points = warm_start(
        searcher.space,
        prior,
        costs.latency_ms,
        costs.num_params,
        min(settings.num_warm_start, settings.num_candidates),
        searcher.pool.feasible,
        settings.seed,
    )
    good = []
    for vector, feasible in zip(points, searcher.pool.feasible(points), strict=True):
        if feasible:
            good.append(vector)
            continue
        record = searcher.planned(vector)
        if record.candidate not in searcher.outcomes:
            reason = _limit_reason(record, settings)
            record = record.model_copy(update={"outcome": "infeasible", "reason": reason})
            searcher.store.append(record)
            searcher.count(record)
    return good


def _limit_reason(record: CandidateRecord, settings: SweepSettings) -> str:
    reasons = []
    if settings.max_latency_ms is not None and record.latency_ms > settings.max_latency_ms:
        reasons.append(
            f"predicted latency {record.latency_ms:.4g} ms is over max_latency_ms = {settings.max_latency_ms:g}"
        )
    if settings.max_params is not None and record.num_params > settings.max_params:
        reasons.append(f"{record.num_params:,} parameters are over max_params = {settings.max_params:,}")
    return "; ".join(reasons)


def _drive(searcher: SweepSearcher, factory: EvaluateFactory, address: str | None) -> None:
    """Run Ray Tune until the searcher has finished."""
    from nas.search.ray_session import ray_session, room

    folder, settings = searcher.store.folder, searcher.settings
    cpus, gpus = settings.cpus_per_trial, settings.gpus_per_trial
    # No process without a candidate, nor a share of the memory for it.
    wanted = min(settings.workers, settings.num_candidates - searcher.num_finished)
    with ray_session(folder, math.ceil(wanted * cpus), address) as tune_folder:
        from ray import tune

        from nas.search.control import Control
        from nas.search.scheduler import StoppingScheduler
        from nas.search.worker import Evaluator, Job

        _fit(searcher, wanted, room(cpus, gpus), address)
        control = tune_folder.parent / "control" if address is None else tune_folder / "control"
        searcher.control = Control(control)
        stopping = settings.early_stopping != "none"
        threads = max(1, int(cpus))
        job = Job(searcher.space, factory, folder, searcher.costs.error, control, threads, stopping)
        resources = {"cpu": cpus} | ({"gpu": gpus} if gpus else {})
        trainable = tune.with_resources(tune.with_parameters(Evaluator, job=job), resources)
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=StoppingScheduler(searcher) if stopping else None,
                num_samples=-1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(tune_folder),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            ),
        )
        try:
            tuner.fit()
        except Exception as error:
            # Only what Ray itself raises when one of its processes has died; anything else is a fault of ours.
            if not type(error).__module__.startswith("ray."):
                raise
            raise UserError(
                f"Ray stopped in the middle of the sweep ({type(error).__name__}); what is finished is kept, "
                "go on with: nanosd resume"
            ) from error
        finally:
            searcher.interrupt()


def _fit(searcher: SweepSearcher, wanted: int, room: tuple[int, int], address: str | None) -> None:
    """No more workers than there is room for; on this machine that is refused, on a cluster it is as it is."""
    settings, (in_all, on_a_node) = searcher.settings, room
    searcher.workers = min(wanted, in_all)
    searcher.per_node = min(wanted, on_a_node)
    if searcher.workers == wanted or (address is not None and in_all):
        return
    asked = f"search.cpus_per_trial {settings.cpus_per_trial:g} and search.gpus_per_trial {settings.gpus_per_trial:g}"
    where = "this machine" if address is None else f"the Ray cluster at {address}"
    raise UserError(
        f"{where} has room for {in_all} workers of {asked}, search.workers is {settings.workers}; "
        f"{'take fewer workers or ' if in_all else ''}give each less"
    )
