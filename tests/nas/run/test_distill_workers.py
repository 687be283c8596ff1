"""`nanosd distill` in parts, in workers and then searched: each block is trained once, and the same however."""

from __future__ import annotations

import itertools
import json

import pytest

from nas.config import load_recipe
from nas.progress import Progress
from nas.run import distill, distill_plan
from nas.run.distill_workers import share_out
from search_spaces.errors import UserError

SMALL = ["data.num_images=16", "distill.steps=4", "distill.batch_size=4", "distill.checkpoint_every=2"]


def bank(folder):
    return {path.name: path.read_bytes() for path in (folder / "bank").glob("*.safetensors")}


def test_blocks_are_shared_out_evenly_and_in_order():
    blocks = [("E", str(i)) for i in range(7)]
    costs = dict(zip(blocks, (9.0, 1.0, 5.0, 3.0, 3.0, 2.0, 7.0), strict=True))
    groups = share_out(blocks, costs, 3)
    assert sorted(itertools.chain(*groups)) == blocks and all(group == sorted(group) for group in groups)
    best = min(  # brute force over all ways
        max(sum(costs[b] for b, g in zip(blocks, way, strict=True) if g == k) for k in range(3))
        for way in itertools.product(range(3), repeat=7)
    )
    assert max(sum(costs[b] for b in group) for group in groups) <= 4 / 3 * best
    assert share_out(blocks[:2], costs, 5) == [[blocks[0]], [blocks[1]]] and share_out(blocks, costs, 1) == [blocks]


def test_parts_make_the_whole(tmp_path):
    recipe = load_recipe(None, [*SMALL, "distill.steps=1", "distill.batch_size=1"])
    plan = distill_plan(recipe, tmp_path / "run", "D1/*")
    assert (plan["blocks"], plan["blocks_in_bank"]) == (7, 0) and not (tmp_path / "run").exists()
    silent = Progress(silent=True)
    part = distill(recipe, tmp_path / "run", "D1/*,E1/*", None, silent)
    assert len(part) == 10 and {r.status for r in part.values()} == {"trained"}
    assert not (tmp_path / "run" / "blocks.json").exists()
    assert distill_plan(recipe, tmp_path / "run", "D1/*,D2/*")["blocks_in_bank"] == 7
    whole = distill(recipe, tmp_path / "run", None, None, silent)
    assert sum(r.status == "bank" for r in whole.values()) == 10 and len(whole) == 31
    assert len(json.loads((tmp_path / "run" / "blocks.json").read_text())) == 31
    with pytest.raises(UserError, match="names no surrogate block"):
        distill(recipe, tmp_path / "other", "D9/R", None, silent)
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_workers_give_the_same_weights_as_one_process(tmp_path):
    recipe = load_recipe(None, SMALL)
    silent = Progress(silent=True)
    one = distill(recipe, tmp_path / "one", "E1/*,D3/RAR,D1/R@3", None, silent)
    split = load_recipe(None, [*SMALL, "distill.workers=2", "distill.cpus_per_worker=0.5"])
    two = distill(split, tmp_path / "two", "E1/*,D3/RAR,D1/R@3", None, silent)
    assert two == one and bank(tmp_path / "two") == bank(tmp_path / "one")
    again = distill(split, tmp_path / "two", "E1/*,D3/RAR,D1/R@3", None, silent)
    assert {r.status for r in again.values()} == {"bank"}
