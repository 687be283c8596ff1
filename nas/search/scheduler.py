"""The Ray Tune scheduler: candidates run in the order proposed, and end at a rung where the searcher says so."""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from nas.search.record import Rung
from nas.search.searcher import SweepSearcher


class StoppingScheduler(FIFOScheduler):
    """Asks the searcher, which knows front and curves. Tune's own early stoppers want a single metric."""

    def __init__(self, searcher: SweepSearcher) -> None:
        super().__init__()
        self._searcher = searcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Called for every rung; the last result of a trial ends it without asking."""
        rung = Rung.model_validate_json(result["rung"])
        stops = self._searcher.stops(trial.trial_id, rung)
        return str(TrialScheduler.STOP if stops else TrialScheduler.CONTINUE)

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its scheduler into a file that nobody reads.
        return {}
