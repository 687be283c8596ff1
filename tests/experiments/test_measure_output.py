"""What `nanosd measure` prints at its end: nothing that matters is left out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.measure_output import MOST_ROWS, drift_in_words, show
from latency_predictors.manifest import Drift, Manifest
from latency_predictors.measurement import current_conditions
from tests.latency_predictors.made_up import measurement


def manifest(drift: Drift | None = None) -> Manifest:
    return Manifest(
        device="d", runtime="r", precision="float32", threads=1, versions={"r": "1"},
        conditions=current_conditions("1", False), settings={}, placement={"CPU": 7}, quantization=None, drift=drift,
        num_subjects=9, failed={}, started_at=None, finished_at="2026-01-01",
    )  # fmt: skip


@pytest.mark.parametrize("num_blocks", [3, MOST_ROWS, MOST_ROWS + 5])
def test_no_number_of_blocks_hides_a_whole_network(num_blocks: int, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = [f"E1/{'R' * i}" for i in range(1, num_blocks + 1)]
    networks = [f"RARA-R@{i}" for i in range(1, 11)]
    # As they are planned: blocks first.
    measured = {name: measurement(name, 1.0 + i) for i, name in enumerate([*blocks, *networks])}
    show(manifest(), measured, networks, Path("out"), json=False)
    printed = capsys.readouterr().out
    rows = [line.split()[0] for line in printed.splitlines() if line.strip().startswith(("E1/", "RARA-"))]
    assert rows == [*blocks[:MOST_ROWS], *networks]
    assert ("and 5 more blocks" in printed) == (num_blocks > MOST_ROWS)


def test_the_drift_is_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    small = Drift(drift_pct=1.25, noise_pct=0.75, num_passes=10, corrected=True)
    assert drift_in_words(small).startswith("1.2 % between the fastest and the slowest fifth of the session")
    assert "its own noise: 0.8 %" in drift_in_words(small) and "not divided out" not in drift_in_words(small)
    large = small.model_copy(update={"drift_pct": 9.0, "corrected": False})
    show(manifest(large), {"a": measurement("a", 1.0)}, ["a"], Path("out"), json=False)
    printed = capsys.readouterr()
    assert "9.0 % between the fastest" in printed.out and "that takes 8 subjects a pass" in printed.out
    assert large.warning is not None and large.warning in printed.err
