"""Who dominates whom among finished networks: brute force over pairs, and moocore on hand-scaled values."""

import math
from pathlib import Path

import moocore
import numpy as np
import pytest

from nas.baselines import Entry, judged, read_baselines, spread_rows, strongest_rival
from nas.pareto import ERROR_FLOOR, REFERENCE
from search_spaces.errors import UserError


def entries(rng: np.random.Generator, num: int = 12) -> list[Entry]:
    """Few levels of each objective, so that ties occur."""
    return [
        Entry(
            name=f"n{i}",
            kind="baseline" if i % 3 == 0 else "searched",
            candidate="c",
            rule="",
            training="",
            num_block_steps=1,
            num_output_steps=1,
            num_params=int(rng.integers(1, 4)),
            num_macs=1,
            predicted_ms=float(rng.integers(1, 4)),
            measured_ms=float(rng.integers(1, 4)),
            measured_iqr_ms=0,
            before={"latent_error": 1},
            after={"latent_error": float(rng.integers(1, 4)) / 10},
            aligned=True,
        )
        for i in range(num)
    ]


@pytest.mark.parametrize("latency", ["measured", "predicted"])
def test_dominance_and_hypervolume(latency: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        record = judged("k", latency, "d", 9.0, entries(rng))
        rows = {e.name: (e.after["latent_error"], getattr(e, f"{latency}_ms"), e.num_params) for e in record.entries}
        for e in record.baselines:
            beaten_by = {
                other.name
                for other in record.searched
                if rows[other.name] != rows[e.name]
                and all(a <= b for a, b in zip(rows[other.name], rows[e.name], strict=True))
            }
            assert set(e.dominated_by) == beaten_by
            errors = [rows[name][0] for name in e.dominated_by]
            assert errors == sorted(errors), "the most faithful first"
        assert record.dominates_all == all(e.dominated_by for e in record.baselines)
        assert not any(e.dominated_by for e in record.searched)
        values = np.array(list(rows.values()))
        # The rule of nas.pareto, written out: error in decades from the floor, costs from the cheapest to the dearest.
        unit = values.copy()
        unit[:, 0] = np.log10(values[:, 0] / ERROR_FLOOR) / math.log10(values[:, 0].max() / ERROR_FLOOR)
        low, span = values[:, 1:].min(0), np.ptp(values[:, 1:], axis=0)
        unit[:, 1:] = np.where(span > 0, (values[:, 1:] - low) / np.where(span > 0, span, 1), 0)
        by_hand = np.array([e.is_baseline for e in record.entries])
        for mask, found in (
            (~by_hand, record.hypervolume_searched),
            (np.ones(len(values), bool), record.hypervolume_with),
            (by_hand, record.hypervolume_baselines),
        ):
            assert found == pytest.approx(moocore.hypervolume(unit[mask], ref=[REFERENCE] * 3) / REFERENCE**3)
        if record.dominates_all:
            assert record.hypervolume_with == pytest.approx(record.hypervolume_searched)


def test_the_rival_costs_no_more_and_is_the_most_faithful_of_these() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        costs, errors = rng.integers(0, 5, (9, 3)).astype(float), rng.random(9)
        row = strongest_rival(costs, errors, costs[4], other_than=4)
        allowed = [i for i in range(9) if i != 4 and all(costs[i] <= costs[4])]
        assert row == (min(allowed, key=lambda i: errors[i]) if allowed else None)


def test_some_of_the_front_from_the_most_faithful_to_the_limit() -> None:
    front = [(0.1 * i, 10.0 - i, 1.0) for i in range(1, 9)]
    values = np.array([*front, (0.9, 9.9, 2.0)])
    assert spread_rows(values, 3, 0.55) == [0, 2, 4]
    assert spread_rows(values, 99, 0.55) == [0, 1, 2, 3, 4]
    assert spread_rows(values, 2, 0.01) == [0, 7], "the whole front where nothing is so faithful"
    assert spread_rows(values, 0, 0.5) == []


def test_a_record_is_read_back_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "baselines.json"
    assert read_baselines(path) is None
    record = judged("k", "measured", "d", 9.0, entries(np.random.default_rng(2)))
    path.write_text(record.model_dump_json())
    assert read_baselines(path) == record
    path.write_text("{}")
    with pytest.raises(UserError, match=r"baselines\.json: key is not valid .*delete it"):
        read_baselines(path)
