"""The sweep over a search space: store, samplers, warm start, Ray Tune with an Optuna study.

Importing this package imports neither Ray nor Optuna; `run_sweep` does when it is called.
"""

from nas.search.settings import KnownCosts, SweepSettings
from nas.search.store import STORE_FOLDER, CandidateRecord, CandidateStore, export_tables, records_to_frame
from nas.search.sweep import SweepResult, run_sweep
from nas.search.warm_start import warm_start

__all__ = [
    "STORE_FOLDER",
    "CandidateRecord",
    "CandidateStore",
    "KnownCosts",
    "SweepResult",
    "SweepSettings",
    "export_tables",
    "records_to_frame",
    "run_sweep",
    "warm_start",
]
