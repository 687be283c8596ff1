from __future__ import annotations

import csv
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_predictors.importers import read_all, read_measurements
from latency_predictors.importers.checks import off_unit
from search_spaces.errors import UserError
from tests.latency_predictors.importers.samples import SAMPLES


@given(
    latencies=st.lists(st.floats(1.0, 9.0), min_size=3, max_size=30),
    data=st.data(),
    factor=st.sampled_from([1e3, 1e-3, 1e6, 1e-6]),
)
def test_exactly_the_rows_in_another_unit_are_found(latencies: list[float], data: st.DataObject, factor: float) -> None:
    """Latencies within a factor of nine, less than half of them in another unit."""
    num = data.draw(st.integers(0, (len(latencies) - 1) // 2))
    wrong = data.draw(st.permutations(range(len(latencies))))[:num]
    changed = [ms * factor if i in wrong else ms for i, ms in enumerate(latencies)]
    found = off_unit(changed)
    assert set(found) == set(wrong)
    rest = [ms for i, ms in enumerate(latencies) if i not in wrong]
    for index, ratio in found.items():
        assert ratio == pytest.approx(changed[index] / np.median(rest))


def test_stray_values_without_a_gap_are_found() -> None:
    """A bridge of stray values between two units hides the gap, not the distance from the bulk."""
    bulk = list(np.random.default_rng(0).lognormal(2.5, 0.3, 200))
    stray = list(np.geomspace(1e-3, 2.0, 12))
    found = off_unit(stray + bulk)
    assert set(found) == {i for i, ms in enumerate(stray) if ms < np.median(stray + bulk) / 100}


def test_half_of_the_rows_in_another_unit_are_found() -> None:
    assert set(off_unit([1.0, 2.0, 1500.0, 2500.0])) == {2, 3}


def test_a_wide_range_without_a_gap_is_no_error() -> None:
    assert off_unit(list(np.logspace(-2, 4, 40))) == {}
    assert off_unit(list(np.random.default_rng(0).lognormal(0, 1.5, 1000))) == {}


def test_too_few_rows_say_nothing() -> None:
    assert off_unit([]) == off_unit([1.0]) == off_unit([1.0, 1000.0]) == {}


def test_several_files_are_read_together(tmp_path: Path) -> None:
    paths = [sample.write(tmp_path) for sample in SAMPLES.values()]
    measurements, lines = read_all(paths)
    assert len(measurements) == sum(sample.num_measurements for sample in SAMPLES.values())
    assert [line.split(" ")[0] for line in lines if "measurements" in line] == [s.file for s in SAMPLES.values()]


def test_a_file_given_twice_is_refused_and_a_shared_subject_said(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("subject,latency_ms\nunet,5\n")
    (tmp_path / "b.csv").write_text("subject,latency_ms\nvae,9\nunet,5\n")
    (tmp_path / "c.csv").write_text("subject,latency_ms\nunet,5\n")
    measurements, lines = read_all([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert [m.subject for m in measurements] == ["unet", "vae", "unet"]
    assert lines[-1] == "b.csv, row 3: 'unet' is in a.csv too (kept)"
    with pytest.raises(UserError, match="is the same as"):
        read_all([tmp_path / "a.csv", tmp_path / "c.csv"])


def shared_data(name: str) -> Path:
    folder = os.environ.get("NANOSD_DATA")
    if not folder:
        pytest.skip("NANOSD_DATA names no folder with the public measurements")
    return Path(folder) / name


def test_corrupt_values_of_a_public_device_are_refused(tmp_path: Path) -> None:
    """NAS-Bench-201's pixel3 has values near 0.01 ms among 1 to 37 ms; no other device of it has any."""
    with shared_data("nasbench201_latency_ms.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for device in rows[0]:
        if device not in ("arch", "pixel3"):
            assert not off_unit([float(row[device]) for row in rows])
    path = tmp_path / "pixel3.csv"
    path.write_text("subject,latency_ms\n" + "".join(f"net{i},{row['pixel3']}\n" for i, row in enumerate(rows)))
    result = read_measurements(path)
    assert len(result.measurements) + result.num_refused == len(rows)
    refused = {flag.row for flag in result.flags}
    assert refused > {i + 2 for i, row in enumerate(rows) if float(row["pixel3"]) < 0.02}
    assert max(float(rows[row - 2]["pixel3"]) for row in refused) < 0.15


def test_a_whole_model_zoo_is_not_called_wrong() -> None:
    """One component on the same unit of all devices: of 6,425 public rows none differs by its unit."""
    kinds = defaultdict(list)
    with shared_data("aihub_npu_latency.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            kinds[row["model"], row["component"], row["precision"], row["unit"]].append(float(row["ms"]))
    assert sum(map(len, kinds.values())) > 6000
    assert not [kind for kind, latencies in kinds.items() if off_unit(latencies)]
