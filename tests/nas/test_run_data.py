"""Reading a run directory: what it says comes back, what it lacks is named."""

import json
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from nas.run_data import PARTS, read_run, space_facts, words_of
from search_spaces.errors import UserError
from tests import synthetic_run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_run.make_run(tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def test_a_whole_run_lacks_nothing_and_says_what_was_written(whole: Path) -> None:
    run = read_run(whole)
    assert run.missing == {}
    assert len(run.done) + len(run.failed) == synthetic_run.NUM_CANDIDATES
    assert {c.order: c.reason for c in run.failed} == synthetic_run.FAILED
    for candidate in run.done:
        assert words_of(candidate.candidate_id) == dict(candidate.words)
        assert candidate.num_params == synthetic_run.num_params(dict(candidate.words))
        assert candidate.latency_ms == pytest.approx(synthetic_run.latency_ms(dict(candidate.words)))
    assert run.swap_table is not None and run.device is not None and run.teacher is not None
    assert run.swap_table.errors["D1"]["R@3"] == pytest.approx(0.002 + synthetic_run.swap_error("D1", "R@3"))
    assert [len(run.device.errors_pct(role)) for role in ("fit", "check")] == [8, 12]
    assert sorted(run.device.errors_pct("check")) == pytest.approx([float(i) for i in range(1, 13)])
    assert len(run.blocks) == 30
    assert run.space.num_candidates == 32_768
    assert run.images[0].model == "teacher" and len(run.captions) == 4
    assert sum(run.phases.values()) == pytest.approx(270.4) if run.phases else False


def test_the_csv_is_read_where_there_is_no_parquet(folder: Path) -> None:
    before = read_run(folder).candidates
    (folder / "candidates.parquet").unlink()
    after = read_run(folder).candidates
    assert [c.candidate_id for c in after] == [c.candidate_id for c in before]
    assert [c.latent_error for c in after] == pytest.approx([c.latent_error for c in before])
    assert [c.reason for c in after] == [c.reason for c in before]


@pytest.mark.parametrize("part", sorted(PARTS))
def test_a_missing_part_is_named_and_the_rest_is_read(folder: Path, part: str) -> None:
    name = PARTS[part][0]
    path = folder / name
    path.rename(folder / "elsewhere")
    if part == "candidates":
        (folder / "candidates.csv").unlink()
    run = read_run(folder)
    assert list(run.missing) == [part]
    assert name in run.missing[part] and "nanosd resume" in run.missing[part]


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("device_profile.json", "{", "device"),
        ("device_profile.json", '{"device": "x"}', "device"),
        ("swap_table.json", "[1, 2]", "swap_table"),
        ("blocks.json", '[{"stage": "E1"}]', "blocks"),
        ("picks.json", '{"prime": null}', "picks"),
        ("closing.json", '{"rows": [{}]}', "closing"),
        ("timings.json", '{"phases": {"search": "long"}}', "phases"),
        ("config.yaml", "a: [", "config"),
        ("candidates.parquet", "no parquet", "candidates"),
    ],
)
def test_a_damaged_part_is_named_in_one_line(folder: Path, name: str, content: str, part: str) -> None:
    (folder / name).write_text(content)
    run = read_run(folder)
    assert list(run.missing) == [part]
    assert name.split(".")[0] in run.missing[part] and "\n" not in run.missing[part]


def test_a_nan_becomes_no_value(folder: Path) -> None:
    data = json.loads((folder / "closing.json").read_text())
    data["rows"][1]["measured"]["median_ms"] = float("nan")
    (folder / "closing.json").write_text(json.dumps(data))
    assert read_run(folder).closing[1].measured_ms is None


def test_no_folder_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run directory at"):
        read_run(tmp_path / "none")


def test_space_facts_agree_with_counting_pairs() -> None:
    rng = np.random.default_rng(3)
    latency, params = rng.random(60), rng.integers(1_000, 2_000, 60)
    signs = [np.sign((latency[i] - latency[j]) * (params[i] - params[j])) for i, j in combinations(range(60), 2)]
    ties = sum(int(params[i] == params[j]) for i, j in combinations(range(60), 2))
    facts = space_facts(1_000, latency, params)
    # Tau-b: pairs tied in one of the two leave its side of the denominator.
    assert facts["params_latency_tau"] == pytest.approx(sum(signs) / np.sqrt(len(signs) * (len(signs) - ties)))
    assert facts["num_params"] == [params.min(), params.max()]
    assert facts["num_candidates"] == 1_000
    assert json.loads(json.dumps(facts)) == facts


def test_of_many_candidates_all_count_and_some_are_drawn(tmp_path: Path) -> None:
    import pandas

    from nas import plots
    from nas.plots import data
    from nas.report import write_report

    rows = synthetic_run.candidate_rows(np.random.default_rng(5), 3_000)
    for row in rows[100:400]:
        row |= {"outcome": "failed", "latent_error": float("nan"), "reason": "made up"}
    folder = synthetic_run.make_run(tmp_path / "run")
    pandas.DataFrame(rows).sample(frac=1, random_state=0).to_parquet(folder / "candidates.parquet")
    pick = next(row["id"] for row in rows if row["outcome"] == "done" and row["latent_error"] > 1)
    (folder / "picks.json").write_text(json.dumps({"prime": {"candidate": pick, "rule": "made up"}}))
    run = read_run(folder)
    done = [row for row in rows if row["outcome"] == "done"]
    assert run.evaluated.candidate_ids.tolist() == [row["id"] for row in done]
    assert run.evaluated.num_failed == len(rows) - len(done) and len(run.failed) == 200
    assert [c.order for c in run.candidates] == sorted(c.order for c in run.candidates)
    # By comparing every pair.
    values = np.array([[row["latent_error"], row["latency_ms"], row["num_params"]] for row in done])
    on_front = [not ((values <= v).all(axis=1) & (values < v).any(axis=1)).any() for v in values]
    found = data.front_data(run)
    assert {c.candidate_id for c in found.front} == {row["id"] for row, on in zip(done, on_front, strict=True) if on}
    assert (found.num_front, found.num_dominated) == (sum(on_front), len(done) - sum(on_front))
    assert 1_000 <= len(found.dominated) <= 1_003 and found.picks["prime"].candidate_id == pick
    # The clearest contradiction is of all.
    params, latency = values[:, 2], values[:, 1]
    scores = np.minimum(params[None] / params[:, None], latency[:, None] / latency[None])
    pair = data.contradiction(run)
    assert pair is not None and min(pair.params_ratio, pair.latency_ratio) == pytest.approx(scores.max())
    # The curve is thinned where it is flat: its steps and its end are those of the whole one.
    history = data.hypervolume_history(run)
    assert history.evaluations[-1] == len(done) and len(history.values) < 1_000
    assert list(history.values) == sorted(history.values)
    assert history.candidate_ids[-1] == done[-1]["id"]
    assert sum(len(trace.x) for trace in plots.params_vs_latency(run).data) == len(run.done)
    html = write_report(folder).read_text()
    assert f"all of the {sum(on_front):,} candidates on the front and 1,00" in html and len(html) < 12e6
    assert (
        f"over {len(done):,} candidates" in html and "302 were not evaluated to the end; the first 200 of them" in html
    )
