"""A run takes over what another one found where, and only where, the networks are the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from nas.block_bank import BlockBank
from nas.config import load_recipe, recipe_hash
from nas.run.context import RunContext
from nas.run.directory import RunDirectory
from nas.run.reuse import REUSED_FILE, TakenOver, check_sources, num_reused, reuse_blocks, take_over
from nas.search import CandidateRecord, CandidateStore, KnownCosts, Rung
from search_spaces.errors import UserError
from search_spaces.space import SearchSpace

STAGES = {"E2": ["RARA"], "E3": ["RARA"], "deep": ["none"], "D3": ["RARARA"], "D2": ["RARARA"]}
OLD = SearchSpace(name="old", options={"E1": ["RARA", "RA", "R"], **STAGES, "D1": ["RARARA", "RR"]})
NEW = SearchSpace(name="new", options={"E1": ["R", "RARA", "RA", "RR"], **STAGES, "D1": ["RR", "RARARA"]})
# Teacher's own words have no key; D1's RR was trained otherwise for the new run.
OLD_KEYS = {("E1", "RA"): "a", ("E1", "R"): "b", ("D1", "RR"): "c"}
NEW_KEYS = {("E1", "RA"): "a", ("E1", "R"): "b", ("E1", "RR"): "d", ("D1", "RR"): "other"}


def costs(factor: float) -> KnownCosts:
    return KnownCosts(
        latency_ms=lambda m: factor * (1 + m @ np.arange(m.shape[1])),
        num_params=lambda m: 1000 - m.sum(axis=1),
        num_macs=lambda m: 5000 - m.sum(axis=1),
    )


def fill(store: CandidateStore) -> list[CandidateRecord]:
    """All six candidates of the old space; one failed."""
    records = []
    for i, vector in enumerate(OLD.enumerate()):
        candidate = OLD.decode(vector)
        failed = i == 2
        records.append(
            CandidateRecord(
                candidate=candidate.id,
                options=candidate.options,
                vector=tuple(int(v) for v in vector),
                outcome="failed" if failed else "done",
                reason="made up" if failed else None,
                latency_ms=float(costs(1).latency_ms(vector[None])[0]),
                num_params=int(costs(1).num_params(vector[None])[0]),
                metrics={} if failed else {"latent_error": 0.1 * (i + 1)},
                rungs=() if failed else (Rung(steps=50, metrics={"latent_error": 0.5}),),
                trial=f"t{i}",
                recipe_hash="old",
                seconds=2.0,
            )
        )
    store.extend(records)
    return records


def test_candidates_of_the_same_blocks_are_taken_over_with_the_new_costs(tmp_path: Path) -> None:
    source, target = CandidateStore(tmp_path / "old", seal_records=4), CandidateStore(tmp_path / "new")
    records = fill(source)

    def take() -> TakenOver:
        expected = lambda m: 0.01 * (1 + m[:, 0])  # noqa: E731
        return take_over(source, OLD_KEYS, target, NEW_KEYS, NEW, costs(3), expected, "new", "run-old")

    assert take() == take() == TakenOver("run-old", candidates=1, finished=5)
    # The teacher's own network has no block whose key could say that teacher and data are the same; the one with RA
    # failed there; those with D1's RR are other networks now.
    (found,) = target.records()
    (was,) = [r for r in records if r.options["E1"] == "R" and r.options["D1"] == "RARARA"]
    vector = NEW.encode(NEW.decode(np.array(found.vector)))
    assert NEW.decode(vector).id == found.candidate == was.candidate
    assert (found.metrics, found.rungs, found.trial, found.seconds) == (was.metrics, was.rungs, was.trial, 2.0)
    assert found.latency_ms == costs(3).latency_ms(vector[None])[0] != was.latency_ms
    assert (found.num_params, found.num_macs) == (1000 - vector.sum(), 5000 - vector.sum())
    assert found.prior == pytest.approx(0.01 * (1 + vector[0]))
    assert (found.recipe_hash, found.reused_from) == ("new", "run-old") and num_reused(target) == 1


def test_a_block_whose_training_stopped_is_not_reused(tmp_path: Path) -> None:
    source, target = CandidateStore(tmp_path / "old"), CandidateStore(tmp_path / "new")
    fill(source)
    stopped = {("E1", "RA"): None, ("E1", "R"): "b", ("D1", "RR"): "c"}
    found = take_over(source, stopped, target, stopped, NEW, costs(1), lambda m: np.full(len(m), np.inf), "new", "x")
    taken = [tuple(r.options[s] for s in ("E1", "D1")) for r in target.records()]
    assert found.candidates == len(taken) == 3 and all(words[0] != "RA" for words in taken)
    assert [r.prior for r in target.records()] == [None] * 3


def run_of(folder: Path, *overrides: str) -> RunContext:
    run = RunContext(load_recipe(None, list(overrides)), RunDirectory(folder))
    run.directory.create(run.recipe)
    return run


def test_a_run_that_measured_otherwise_is_refused_in_one_line(tmp_path: Path) -> None:
    run_of(tmp_path / "old", "fidelity.num_samples=64")
    run = run_of(tmp_path / "new", f"reuse=[{tmp_path / 'old'}]")
    with pytest.raises(
        UserError, match=r"has fidelity\.num_samples = 64, this one 128, so that .*leave that run out"
    ) as e:
        check_sources(run)
    assert "\n" not in str(e.value)
    other = run_of(tmp_path / "other", "distill.checkpoint_every=7", "search.sampler=random", "space=bk-sdm")
    (tmp_path / "other" / "provenance.json").write_text(
        json.dumps({"teacher_key": "feed", "recipe_hash": recipe_hash(other.recipe)})
    )
    with pytest.raises(UserError, match=r"other was made with another teacher \(key feed, here "):
        check_sources(run_of(tmp_path / "new2", f"reuse=[{tmp_path / 'other'}]"))
    with pytest.raises(UserError, match="is this run itself"):
        check_sources(run_of(tmp_path / "self", f"reuse=[{tmp_path / 'self'}]"))
    with pytest.raises(UserError, match=r"no config\.yaml there"):
        check_sources(run_of(tmp_path / "new3", f"reuse=[{tmp_path / 'none'}]"))


def test_a_run_that_is_gone_after_it_was_taken_over_is_not_needed(tmp_path: Path) -> None:
    run = run_of(tmp_path / "new", f"reuse=[{tmp_path / 'gone'}]")
    (tmp_path / "new" / REUSED_FILE).write_text(
        json.dumps([{"run": str(tmp_path / "gone"), "candidates": 3, "finished": 4}])
    )
    check_sources(run)


def test_what_is_reused_does_not_change_the_recipe_hash() -> None:
    assert recipe_hash(load_recipe(None, ["reuse=[a, b]"])) == recipe_hash(load_recipe(None))


def test_blocks_are_copied_from_the_other_bank(tmp_path: Path) -> None:
    from nas.distill.blocks import block_key, surrogate_blocks
    from search_spaces.surgery import build_stage

    options = ["data.num_images=2", "distill.steps=1"]
    space = tmp_path / "two.yaml"
    space.write_text(
        SearchSpace(name="two", options={"E1": ["RARA", "R"], **STAGES, "D1": ["RARARA"]}).model_dump_json(
            by_alias=True
        )
    )
    run_of(tmp_path / "old", *options)
    run = run_of(tmp_path / "new", *options, f"space={space}", f"reuse=[{tmp_path / 'old'}]")
    bank, keys = BlockBank(RunDirectory(tmp_path / "old").bank), {}
    for block in surrogate_blocks(run.teacher.unet, run.space):
        keys[block] = block_key(run.space, block, run.teacher.key, run.dataset.key, run.distill_settings)
        if block[0] == "E1":
            bank.put(keys[block], build_stage(run.teacher.unet, *block), {"made": "up"})
    assert reuse_blocks(run) == 1 and reuse_blocks(run) == 0
    (copied,) = [block for block, key in keys.items() if run.bank.has(key)]
    assert copied == ("E1", "R")
    shutil.rmtree(bank.folder)
    assert run.bank.get(keys[copied], build_stage(run.teacher.unet, *copied)) == {"made": "up"}
