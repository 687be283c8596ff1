"""What a sweep's stopper is told, and what becomes of its decisions, in terms of records."""

from __future__ import annotations

from collections.abc import Sequence

from nas.search.evaluation import now
from nas.search.learning_curves import points_of
from nas.search.record import CandidateRecord, Rung
from nas.search.settings import Floats
from nas.search.stopping import Stopper, StoppingSettings


class RungDecisions:
    """Learns from booked records and decides about candidates at their rungs.

    Args:
        settings: of the stopper.
        error: the metric that is minimised.
    """

    def __init__(self, settings: StoppingSettings, error: str) -> None:
        self._stopper, self._error = Stopper(settings), error

    def book(self, record: CandidateRecord) -> None:
        """Take in how an evaluation ended."""
        points = points_of([(rung.steps, rung.metrics) for rung in record.rungs], self._error)
        if record.outcome == "done":
            self._stopper.finished(record.candidate, points, _costs(record), record.metrics[self._error])
        elif record.outcome == "stopped":
            for point in points:
                self._stopper.reached(record.candidate, point, _costs(record))

    def stopped(self, planned: CandidateRecord, rungs: Sequence[Rung], front: Floats) -> CandidateRecord | None:
        """The record of a candidate that ends at the last of its rungs; None where it goes on.

        Args:
            planned: its record without results.
            rungs: at least one.
            front: (n, 3) error, latency and parameters of the measured candidates that no other dominates.
        """
        points = points_of([(rung.steps, rung.metrics) for rung in rungs], self._error)
        verdict = self._stopper.decide(planned.candidate, points, _costs(planned), front)
        if not verdict.stop:
            return None
        return planned.model_copy(
            update={
                "outcome": "stopped",
                "reason": verdict.reason,
                "rungs": tuple(rungs),
                "predicted_error": verdict.forecast.median,
                "predicted_low": verdict.forecast.low,
                "predicted_high": verdict.forecast.high,
                "seconds": rungs[-1].seconds,
                "finished_at": now(),
            }
        )


def _costs(record: CandidateRecord) -> tuple[float, float]:
    return record.latency_ms, float(record.num_params)
