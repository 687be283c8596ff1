"""The comparison of early stopping: measured and made-up curves, figures from known traces."""

import json
import math

import numpy as np
import pytest

from experiments.bench.early_stopping import coverage, figures, made_up, main, measured
from nas.search.simulation_rungs import StoppingTrace


@pytest.mark.parametrize("num", [8, 40])
def test_coverage_on_candidates_of_the_toy_space(num):
    """300 measured candidates before and after distillation: nobody told the model what their noise is like."""
    table, curves = measured(rungs=(0,))
    assert len(table) == 300 and curves.steps == (0,)
    found = coverage(table, curves, 0.05, num, repeats=300)["any"]
    assert found <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    assert coverage(table, curves, 0.4, num, repeats=300)["any"] > found


@pytest.mark.parametrize("kind", ["power", "crossing"])
def test_made_up_curves_end_at_the_table(kind):
    table, curves = made_up(kind, seed=1)
    assert len(table) == 1024 and curves.errors.shape == (1024, 4)
    gap = np.log10(curves.errors / table.values[:, :1])
    assert (np.diff(gap.mean(axis=0)) < 0).all() and gap.mean(axis=0)[-1] > 0  # falls towards the end
    # Of `crossing` the best do not start best.
    start = np.corrcoef(np.log10(curves.errors[:, 0]), np.log10(table.values[:, 0]))[0, 1]
    assert start > 0.95 if kind == "power" else start < 0.9


def test_figures_of_a_known_trace():
    table, _ = made_up("power")
    member, other = int(table.front[0]), int(np.setdiff1d(np.arange(1024), table.front)[0])
    trace = StoppingTrace(
        np.array([other, member]),
        np.array([False, True]),
        np.array([120.0, 5.0]),
        np.array([120.0, 125.0]),
        np.array([0.92, 0.92]),
    )
    found = figures([trace], [table], 120.0)
    assert found["spent_to"][0.9] == {"median": 1.0, "worst": 1.0} and found["spent_to"][0.95]["median"] is None
    assert (found["front_met"], found["front_lost"], found["stopped"], found["hv"][10]["worst"]) == (1, 1, 0.5, 0.92)


def test_the_command(capsys):
    main(["--curves", "raw", "--sampler", "random", "--seeds", "1", "--budget", "12", "--json"])
    policies = json.loads(capsys.readouterr().out)["curves"]["raw"]
    assert set(policies) == {"none", "dominance", "moasha"}
    assert policies["none"]["evaluations"] == 12 and policies["moasha"]["stopped"] > 0
