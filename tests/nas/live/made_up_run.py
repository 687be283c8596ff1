"""A run's folder as its driver and workers leave it, made by their own classes, without Ray and without a teacher."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from nas.config import load_recipe, save_recipe
from nas.run.directory import RunDirectory
from nas.search import CandidateRecord, CandidateStore, KnownCosts, SweepSettings
from search_spaces.space import SearchSpace

SPACE = SearchSpace(
    name="made-up", options={"E1": ("RARA", "RA", "RR", "R"), "deep": ("none",), "D1": ("RARARA", "RARA", "RRA", "RR")}
)
COSTS = KnownCosts(
    latency_ms=lambda m: 30.0 - m @ np.arange(1, m.shape[1] + 1)[::-1],
    num_params=lambda m: 1000 - 7 * m @ np.arange(1, m.shape[1] + 1),
)
BOUNDS = ((15.0, 30.0), (916.0, 1000.0))


def error_of(vector: Any) -> float:
    """What the made-up evaluation measures."""
    return float(0.01 + 0.02 * np.sum(np.asarray(vector) ** 2))


class MadeUpRun:
    """Grows as a sweep does: `propose`, then `end`."""

    def __init__(self, folder: Path, num_candidates: int = 12, sampler: str = "ehvi", name: str = "made-up") -> None:
        from nas.search.pool import Pool
        from nas.search.sampler import make_sampler
        from nas.search.study import open_study

        folder.mkdir(parents=True)
        self.directory = RunDirectory(folder)
        overrides = [f"search.num_candidates={num_candidates}", f"search.sampler={sampler}", f"name={json.dumps(name)}"]
        save_recipe(load_recipe(None, overrides), self.directory.config)
        facts = {"latency_ms": BOUNDS[0], "num_params": BOUNDS[1]}
        (folder / "space.json").write_text(json.dumps(facts))
        self.store = CandidateStore(self.directory.store)
        self.settings = SweepSettings(num_candidates=num_candidates, sampler=sampler)  # type: ignore[arg-type]
        self.pool = Pool(SPACE, COSTS, self.settings)
        known = COSTS.known_objectives(self.pool.cost_bounds)
        self.study = open_study(folder, COSTS, make_sampler(self.settings.sampler, SPACE, 0, self.pool, known))

    def propose(self) -> tuple[int, CandidateRecord]:
        """Ask the sampler: number of the trial, and the record of its candidate before the evaluation."""
        from nas.search.decisions import distributions, vector_of
        from nas.search.study import start_attrs

        trial = self.study.ask(distributions(SPACE))
        vector = vector_of(SPACE, trial.params)
        self.pool.take(vector)
        latency, params = COSTS.matrix(vector[None])[0]
        candidate = SPACE.decode(vector)
        planned = CandidateRecord(
            candidate=candidate.id,
            options=candidate.options,
            vector=tuple(int(i) for i in vector),
            outcome="failed",
            latency_ms=float(latency),
            num_params=int(params),
            prior=error_of(vector),
            trial=uuid.uuid4().hex[:16],
        )
        for key, value in start_attrs(SPACE, planned).items():
            trial.set_user_attr(key, value)
        return trial.number, planned

    def end(self, number: int, planned: CandidateRecord, reason: str | None = None) -> CandidateRecord:
        """The worker stores what it measured, or why it failed; the driver tells the study."""
        from nas.search.study import finish

        record = planned.model_copy(
            update={
                "outcome": "failed" if reason else "done",
                "reason": reason,
                "metrics": {} if reason else {"latent_error": error_of(planned.vector)},
                "worker": "here:1",
                "seconds": 2.0,
                "finished_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            }
        )
        self.store.append(record)
        finish(self.study, number, record, COSTS)
        return record

    def stop(self, number: int, planned: CandidateRecord) -> None:
        """The driver stops it at a rung."""
        from nas.search.study import finish

        forecast = {"predicted_error": 0.5, "predicted_low": 0.4, "predicted_high": 0.6}
        record = planned.model_copy(update={"outcome": "stopped", "reason": "dominated", **forecast, "seconds": 1.0})
        self.store.append(record)
        finish(self.study, number, record, COSTS)

    def evaluate(self, num: int) -> list[CandidateRecord]:
        """So many one after the other."""
        return [self.end(*self.propose()) for _ in range(num)]
