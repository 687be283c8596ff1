"""What a search costs against training from scratch: what is trained, from what, and how far."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from experiments.bench import search_cost
from nas.run.context import RunContext
from search_spaces.candidate import Candidate
from search_spaces.surgery import assemble

GIVEN = Namespace(candidates=2, max_steps=2, minutes=5.0, tuning_steps=1, every=1)


def test_candidates_spread_over_the_useful_part_of_the_front(trained_run: RunContext) -> None:
    # All six are on the front (errors grow, costs fall); five of them have errors up to 0.5.
    records = {r.candidate: r.metrics["latent_error"] for r in trained_run.store.latest()}
    assert [records[name] for name, _ in search_cost.choose(trained_run, 5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert [error for _, error in search_cost.choose(trained_run, 1)] == pytest.approx([0.3])
    assert len(search_cost.choose(trained_run, 99)) == 5


def test_nothing_of_the_teacher_is_left_in_what_is_trained_from_scratch(trained_run: RunContext) -> None:
    name = search_cost.choose(trained_run, 1)[0][0]
    before = {n: v.clone() for n, v in trained_run.teacher.unet.state_dict().items()}
    inherited = assemble(trained_run.teacher.unet, Candidate.from_id(name, trained_run.space.stages)).state_dict()
    scratch = search_cost.from_scratch(trained_run, name, 0).state_dict()
    assert {n: v.shape for n, v in scratch.items()} == {n: v.shape for n, v in inherited.items()}
    assert not any(torch.equal(scratch[n], v) for n, v in inherited.items())
    assert all(torch.equal(v, before[n]) for n, v in trained_run.teacher.unet.state_dict().items())
    again = search_cost.from_scratch(trained_run, name, 0).state_dict()
    assert all(torch.equal(v, again[n]) for n, v in scratch.items())


def test_the_table_says_what_was_not_reached_and_goes_on(trained_run: RunContext, tmp_path: Path) -> None:
    out = tmp_path / "cost.json"
    found = search_cost.measure(trained_run, GIVEN, out)
    assert [(t["steps"], t["reached"]) for t in found["from_scratch"]] == [(2, False)] * 2
    assert json.loads(out.read_text()) == json.loads(json.dumps(found))
    search, total = found["search"], found["total"]
    assert (search["evaluations"], search["all evaluations"]) == (6, 12.0)
    seconds = sum(t["cpu_seconds"] for t in found["from_scratch"])
    assert total["is_lower_bound"] and total["from_scratch_seconds"] == pytest.approx(6 * seconds / 2, abs=0.1)
    assert "at least" in search_cost.text(found)
    # The first stays as it was: only the second is trained again.
    cut = found | {"from_scratch": [t | {"cpu_seconds": 7.0} for t in found["from_scratch"][:1]]}
    out.write_text(json.dumps(cut))
    again = search_cost.measure(trained_run, GIVEN, out)["from_scratch"]
    assert again[0]["cpu_seconds"] == 7.0 and again[1]["curve"] == found["from_scratch"][1]["curve"]
    # An error that the first look is below is reached there.
    name, error = search_cost.choose(trained_run, 1)[0]
    reached = search_cost.train(trained_run, name, 1e9 * error, 1e-3, 5, 60.0, 1)
    assert reached["reached"] and reached["steps"] == 1
