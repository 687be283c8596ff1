"""The sweep over a search space: store, samplers, warm start, Ray Tune with an Optuna study.

Importing this package imports neither Ray nor Optuna; `run_sweep` does when it is called.
"""

from nas.search.evaluation import PartialResult
from nas.search.record import CandidateRecord, Rung
from nas.search.settings import KnownCosts, SweepSettings
from nas.search.store import STORE_FOLDER, CandidateStore
from nas.search.sweep import SweepResult, run_sweep
from nas.search.tables import export_tables, to_frame
from nas.search.warm_start import warm_start

__all__ = [
    "STORE_FOLDER",
    "CandidateRecord",
    "CandidateStore",
    "KnownCosts",
    "PartialResult",
    "Rung",
    "SweepResult",
    "SweepSettings",
    "export_tables",
    "run_sweep",
    "to_frame",
    "warm_start",
]
