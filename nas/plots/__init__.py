"""Figures of a run: each function takes `nas.run_data.RunData` and returns a plotly Figure.

Their data come from `nas.plots.data`; a figure whose part of the run is missing raises ValueError.
"""

from nas.plots.baselines import MARKS as FINISHED_MARKS
from nas.plots.baselines import finished_pair
from nas.plots.checks import noise_error_by_timestep
from nas.plots.fidelity import distill_losses, prior_vs_measured, swap_table
from nas.plots.fronts import PAIRS, front_3d, front_pair, front_pairs, hypervolume_history
from nas.plots.latency import params_vs_latency, phase_times, predicted_vs_measured

__all__ = [
    "FINISHED_MARKS",
    "PAIRS",
    "distill_losses",
    "finished_pair",
    "front_3d",
    "front_pair",
    "front_pairs",
    "hypervolume_history",
    "noise_error_by_timestep",
    "params_vs_latency",
    "phase_times",
    "predicted_vs_measured",
    "prior_vs_measured",
    "swap_table",
]
