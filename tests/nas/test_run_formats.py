"""The files that the phases write are the files that `read_run` reads: each writer writes, the reader reads."""

import json
from pathlib import Path

import pytest

from nas.run_data import read_run
from tests import synthetic_run

WORDS = {"E1": "RARA", "E2": "RA", "E3": "R", "deep": "none", "D3": "RR", "D2": "RAR", "D1": "R@3"}
CANDIDATE = "-".join(WORDS.values())


def test_tables_of_the_store(tmp_path: Path) -> None:
    from nas.search import STORE_FOLDER, CandidateRecord, CandidateStore, export_tables

    store = CandidateStore(tmp_path / STORE_FOLDER)
    costs = {"latency_ms": 1.5, "num_params": 100, "num_macs": 200, "vector": (0,) * 7}
    scores = {"latent_error": 0.25, "noise_error": 0.125, "tafid": 3.0}
    store.append(
        CandidateRecord(
            candidate=CANDIDATE,
            options=WORDS,
            outcome="done",
            metrics=scores,
            prior=0.5,
            trial="a",
            seconds=2.0,
            **costs,
        )
    )
    other = WORDS | {"E1": "R"}
    failed = {
        "candidate": "-".join(other.values()),
        "options": other,
        "outcome": "failed",
        "reason": "latent_error is nan",
    }
    store.append(CandidateRecord(trial="b", **failed, **costs))
    export_tables(tmp_path)
    run = read_run(tmp_path)
    (done,), (bad,) = run.done, run.failed
    assert dict(done.words) == WORDS and done.candidate_id == CANDIDATE
    assert (done.latent_error, done.noise_error, done.tafid, done.prior) == (0.25, 0.125, 3.0, 0.5)
    assert (done.latency_ms, done.num_params, done.num_macs, done.seconds) == (1.5, 100, 200, 2.0)
    assert bad.reason == "latent_error is nan" and bad.latent_error is None
    (tmp_path / "candidates.parquet").unlink()
    assert read_run(tmp_path).candidates == run.candidates


def test_picks(tmp_path: Path) -> None:
    from nas.picks import Pick, save_picks

    pick = Pick(candidate=CANDIDATE, rule="knee", latent_error=0.1, latency_ms=1.0, num_params=10)
    save_picks({"prime": pick}, tmp_path / "picks.json")
    (found,) = read_run(tmp_path).picks
    assert (found.name, found.candidate_id, found.rule) == ("prime", CANDIDATE, "knee")


def test_blocks(tmp_path: Path) -> None:
    from nas.distill.blocks import BlockResult, save_results

    common = {"key": "k", "num_params": 1, "num_steps": 2}
    rows = [
        BlockResult(stage="D1", option="R@3", status="trained", first_loss=0.8, last_loss=0.1, **common),
        BlockResult(
            stage="E1", option="R", status="stopped", reason="loss is nan", first_loss=0.8, last_loss=None, **common
        ),
    ]
    save_results(tmp_path / "blocks.json", {(row.stage, row.option): row for row in rows})
    encoder, decoder = read_run(tmp_path).blocks
    assert (encoder.stage, encoder.last_loss, encoder.reason) == ("E1", None, "loss is nan")
    assert (decoder.option, decoder.first_loss, decoder.last_loss) == ("R@3", 0.8, 0.1)


def test_swap_table(tmp_path: Path) -> None:
    from nas.fidelity.swap import SwapTable

    errors = {"E1": {"RARA": 0.01, "R": None}, "deep": {"none": 0.01}}
    table = SwapTable(key="k", base=CANDIDATE, base_error=0.01, errors=errors, failed={"E1/R": "nan"})
    table.save(tmp_path / "swap_table.json")
    found = read_run(tmp_path).swap_table
    assert found is not None and found.errors == errors and found.base_error == 0.01


def test_device_profile(tmp_path: Path) -> None:
    from nas.plots.format import milliseconds
    from nas.report import render
    from search_spaces.space_file import load_space
    from tests.latency_predictors.made_up import synthetic

    profile = synthetic(load_space("toy"))[0]
    profile.save(tmp_path / "device_profile.json")
    device = read_run(tmp_path).device
    assert device is not None and (device.device, device.threads) == (profile.device, profile.threads)
    assert device.errors_pct("fit") == pytest.approx([abs(c.error_pct) for c in profile.fitted])
    assert device.errors_pct("check") == pytest.approx([abs(c.error_pct) for c in profile.validation])
    assert profile.conditions is not None and device.conditions["num_cores"] == profile.conditions.num_cores
    judged, found = profile.judgement, (device.p90_error_pct, device.spearman, device.coverage90)
    assert judged is not None and found == (judged.p90_error_pct, judged.spearman, judged.coverage90)
    assert device.fitted_from == profile.information == "blocks" and f"on {judged.num} unseen" in device.error
    checks = [p for p in device.points if p.role == "check"]
    assert [(p.low_ms, p.high_ms) for p in checks] == [(c.low_ms, c.high_ms) for c in profile.validation]
    html = render(read_run(tmp_path))
    assert "90 % intervals hold 100.0 % of the measurements" in html and "Spearman 1.000" in html
    for check in profile.validation:
        assert f"to {milliseconds(check.high_ms)}" in html


def test_recipe_and_seconds(tmp_path: Path) -> None:
    from nas.config import Recipe
    from nas.run.directory import RunDirectory

    directory = RunDirectory(tmp_path / "run")
    directory.create(Recipe(name="mine", seed=3))
    directory.add_seconds("search", 1.5)
    directory.add_seconds("search", 2.0)
    run = read_run(directory.path)
    assert run.config is not None and (run.config["name"], run.config["seed"]) == ("mine", 3)
    assert run.phases == {"search": 3.5}
    assert run.space.num_candidates == 32_768


def test_captions_and_images(tmp_path: Path) -> None:
    from nas.export import images

    for model in ("teacher", "prime"):
        synthetic_run.write_images(tmp_path / "images" / model, 0.5)
    prompts = ["one", "two", "three", "four"]
    content = images._captions(prompts, ["teacher", "prime"], images.ImageSettings())
    (tmp_path / "images" / images.CAPTIONS_FILE).write_text(json.dumps(content))
    run = read_run(tmp_path)
    assert run.captions == tuple(prompts)
    assert [(row.model, len(row.files)) for row in run.images] == [("teacher", 4), ("prime", 4)]
