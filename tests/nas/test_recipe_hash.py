"""Runs that earlier versions began stay open: the hash of a recipe does not follow fields that are added later."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field

from experiments.cli import app
from experiments.exits import run_app
from nas import recipe_hash as recipe_hashes
from nas.config import Recipe, load_recipe, recipe_hash
from nas.recipe import Calibration, Section
from nas.run.context import RunContext
from nas.run.directory import RunDirectory
from nas.search.store import CandidateRecord, CandidateStore
from search_spaces.errors import UserError

#: What could change while a run went on in the versions that hashed all else.
FREE_THEN = ("name", "picks.", "export.", "search.num_candidates", "search.workers", "search.max_failures")


def dumped(recipe: Recipe) -> dict[str, Any]:
    """The recipe as the versions that hashed all of it wrote it, without the fields that came later."""

    def had(key: str) -> bool:
        return key in recipe_hashes._ALWAYS or key.startswith(FREE_THEN)

    tree = {}
    for key, value in recipe.model_dump(mode="json").items():
        if not isinstance(value, dict):
            tree |= {key: value} if had(key) else {}
        elif kept := {name: inner for name, inner in value.items() if had(f"{key}.{name}")}:
            tree[key] = kept
    return tree


def full_dump_hash(tree: dict[str, Any]) -> str:
    """As the first versions had it: everything that their recipe had, but what may change while a run goes on."""
    search = {k: v for k, v in tree["search"].items() if k not in ("num_candidates", "workers", "max_failures")}
    kept = {k: v for k, v in tree.items() if k not in ("name", "picks", "export")} | {"search": search}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def first_hash(tree: dict[str, Any]) -> str:
    """As the very first ones had it: everything but the name."""
    kept = {k: v for k, v in tree.items() if k != "name"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def old_run(
    folder: Path,
    *overrides: str,
    unknown: tuple[str, ...] = (),
    hashed: Callable[[dict[str, Any]], str] = full_dump_hash,
) -> RunDirectory:
    """A run of a version that did not know these fields, as it left its folder."""
    tree = dumped(load_recipe(None, overrides))
    for key in unknown:
        section, _, name = key.partition(".")
        del tree[section][name]
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    facts = {"recipe_hash": hashed(tree), "teacher_key": "t"}
    (folder / "provenance.json").write_text(json.dumps(facts))
    return RunDirectory(folder)


VERSIONS = {
    "the last one of full dumps": (),
    "before calibration.precision": ("calibration.precision",),
    "before three more": ("calibration.precision", "distill.max_parallel", "fidelity.batch_size", "picks.max_error"),
}
OVERRIDES = ("seed=7", "finalize.learning_rate=1e-5", "search.num_candidates=9", "export.formats=[onnx]")


@pytest.mark.parametrize("unknown", VERSIONS.values(), ids=VERSIONS)
def test_a_run_of_an_earlier_version_is_gone_on_with(tmp_path: Path, unknown: tuple[str, ...]) -> None:
    directory = old_run(tmp_path / "run", *OVERRIDES, unknown=unknown)
    recipe = load_recipe(None, OVERRIDES)
    assert directory.recipe() == recipe
    first = directory.first_hash()
    assert RunContext.open(directory.path).recipe_hash == first, "what it has evaluated is kept under that hash"
    directory.create(recipe)
    more = load_recipe(None, [*OVERRIDES, "search.num_candidates=50", "picks.max_params=1000"])
    directory.create(more)
    again = RunDirectory(directory.path)
    assert again.recipe() == more and again.recipe_hash(more) == first
    saved = yaml.safe_load(again.config.read_text())
    assert [key for key in unknown if key != "picks.max_error" and key.split(".")[1] in saved[key.split(".")[0]]] == []


@pytest.mark.parametrize("unknown", VERSIONS.values(), ids=VERSIONS)
def test_another_recipe_is_still_refused(tmp_path: Path, unknown: tuple[str, ...]) -> None:
    directory = old_run(tmp_path / "run", "seed=7", unknown=unknown)
    for other, words in (
        ("seed=8", "seed: 7 -> 8"),
        ("calibration.precision=w8a8", 'calibration.precision: "float32" -> "w8a8"'),
    ):
        with pytest.raises(UserError) as caught:
            directory.create(load_recipe(None, ["seed=7", other]))
        said = str(caught.value)
        assert f"was made with another recipe ({words})" in said and "nanosd resume" in said and "\n" not in said
    many = load_recipe(None, ["seed=8", *(f"finalize.{k}" for k in ("steps=1", "batch_size=1", "learning_rate=1e-5"))])
    with pytest.raises(UserError, match=r"\(seed: 7 -> 8, .*steps.*, .*batch_size.* and 1 more\)"):
        directory.create(many)


@pytest.mark.parametrize("unknown", VERSIONS.values(), ids=VERSIONS)
@pytest.mark.parametrize(
    "change", ["seed: 7\n->seed: 8\n", "seed: 7\n->", "  threads: 1\n->  threads: 1\n  precision: w8a8\n"]
)
def test_an_edited_recipe_is_refused(tmp_path: Path, unknown: tuple[str, ...], change: str) -> None:
    directory = old_run(tmp_path / "run", "seed=7", unknown=unknown)
    old, new = change.split("->")
    text = directory.config.read_text().replace(
        "  precision: float32\n", "" if "precision" in new else "  precision: float32\n"
    )
    assert old in text
    directory.config.write_text(text.replace(old, new))
    with pytest.raises(
        UserError, match=r"config\.yaml is not the recipe that the run was started with \(hash [0-9a-f]{16}\)"
    ):
        directory.recipe()


def test_a_run_of_the_very_first_version_is_read_and_keeps_its_budgets(tmp_path: Path) -> None:
    directory = old_run(tmp_path / "run", *OVERRIDES, unknown=VERSIONS["before three more"], hashed=first_hash)
    recipe = load_recipe(None, OVERRIDES)
    assert directory.recipe() == recipe
    directory.create(recipe)
    with pytest.raises(UserError, match=r"keep their budgets and number of candidates; leave them .*nanosd resume"):
        directory.create(load_recipe(None, [*OVERRIDES, "search.num_candidates=50"]))
    assert directory.recipe() == recipe
    text = directory.config.read_text()
    directory.config.write_text(text.replace("seed: 7", "seed: 8"))
    with pytest.raises(UserError, match="is not the recipe"):
        directory.recipe()


def test_the_hash_of_runs_until_now_is_unchanged() -> None:
    for overrides in ((), OVERRIDES, ("calibration.precision=w8a8",), ("data.source=folder", "data.folder=/x")):
        recipe = load_recipe(None, overrides)
        assert recipe_hash(recipe) == full_dump_hash(dumped(recipe))


class LaterCalibration(Calibration):
    """With a field more."""

    cool_down: int = Field(3)


class Later(Section):
    """A section more."""

    strength: float = Field(0.5)


class LaterRecipe(Recipe):
    """The recipe of a version to come."""

    calibration: LaterCalibration = LaterCalibration()
    later: Later = Later()
    flag: bool = False


def test_a_field_that_is_added_later_changes_the_hash_only_where_it_is_used() -> None:
    known = dumped(load_recipe(None, OVERRIDES))
    assert recipe_hash(LaterRecipe.model_validate_json(json.dumps(known))) == full_dump_hash(known)
    used: list[dict[str, Any]] = [
        {"calibration": known["calibration"] | {"cool_down": 4}},
        {"later": {"strength": 0.6}},
        {"flag": True},
    ]
    hashes = {recipe_hash(LaterRecipe.model_validate_json(json.dumps(known | fields))) for fields in used}
    assert len(hashes | {full_dump_hash(known)}) == 4


def test_status_and_sweep_of_an_earlier_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = old_run(tmp_path / "run", unknown=("calibration.precision",))
    record = CandidateRecord(
        candidate="x",
        options={},
        vector=(0,),
        outcome="done",
        latency_ms=1.0,
        num_params=1,
        metrics={"latent_error": 0.1},
        trial="x",
        recipe_hash=directory.first_hash() or "",
    )
    store = CandidateStore(directory.store)
    store.append(record)
    assert run_app(app, ["status", str(directory.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["candidates_done"] == 1
    from nas.search.settings import SweepSettings
    from nas.search.sweep import _check_recipe

    settings = SweepSettings(seed=0, recipe_hash=RunContext.open(directory.path).recipe_hash, num_candidates=2)
    _check_recipe(store, settings)


def test_a_run_keeps_its_sampler_though_the_default_is_another(tmp_path: Path) -> None:
    directory = old_run(tmp_path / "run", "search.sampler=tpe")
    first = directory.first_hash()
    assert load_recipe(None, ()).search.sampler != "tpe"
    assert directory.recipe().search.sampler == "tpe" and RunContext.open(directory.path).recipe_hash == first
    with pytest.raises(UserError, match=r'\(search\.sampler: "tpe" -> "ehvi"\).*nanosd resume'):
        directory.create(load_recipe(None, ()))
