"""Recipes: what is accepted comes back unchanged, what is not gives one line that says what to do."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nas.config import Recipe, load_recipe, recipe_hash, save_recipe
from nas.errors import UserError
from nas.fields import section, walk

RECIPES = sorted((Path(__file__).parents[2] / "experiments" / "recipes").glob("*.yaml"))
KEYS = [key for key, field in walk(Recipe) if not section(field.annotation)]


def refusal(path: Path | None = None, *overrides: str) -> str:
    """Return the message that a recipe is refused with."""
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_no_file_and_an_empty_file_are_the_defaults(tmp_path: Path) -> None:
    assert (
        load_recipe(None)
        == load_recipe(written(tmp_path, ""))
        == load_recipe(written(tmp_path, "search:\n"))
        == Recipe()
    )


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_load_and_survive_saving(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    save_recipe(recipe, tmp_path / "config.yaml")
    assert load_recipe(tmp_path / "config.yaml") == recipe
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**31 - 1),
    rate=st.floats(1e-300, 1.0),
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    budget=st.none() | st.floats(1e-6, 1e9),
    formats=st.sampled_from([("onnx",), ("diffusers",), ("onnx", "diffusers")]),
)
def test_any_legal_recipe_survives_saving(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    rate: float,
    name: str,
    budget: float | None,
    formats: tuple[str, ...],
) -> None:
    recipe = Recipe.model_validate(
        {
            "seed": seed,
            "name": name,
            "distill": {"learning_rate": rate},
            "picks": {"max_latency_ms": budget},
            "export": {"formats": formats},
        }
    )
    path = tmp_path_factory.mktemp("recipe") / "config.yaml"
    save_recipe(recipe, path)
    assert load_recipe(path) == recipe


@given(st.integers(1, 10_000), st.floats(1e-6, 1.0))
def test_overrides_are_yaml_and_win_over_the_file(workers: int, rate: float) -> None:
    recipe = load_recipe(
        RECIPES[0], [f"search.workers={workers}", f"distill.learning_rate={rate!r}", "export.formats=[onnx]"]
    )
    assert (recipe.search.workers, recipe.distill.learning_rate, recipe.export.formats) == (workers, rate, ("onnx",))


def test_the_last_override_wins_and_null_is_none() -> None:
    recipe = load_recipe(None, ["picks.max_params=7", "picks.max_params=null", "seed=1", "seed=2"])
    assert recipe.picks.max_params is None
    assert recipe.seed == 2


def test_a_number_without_a_dot_before_its_exponent_is_a_number(tmp_path: Path) -> None:
    assert yaml.safe_load("1e-3") == "1e-3"  # the trap
    assert load_recipe(written(tmp_path, "distill:\n  learning_rate: 1e-3\n")).distill.learning_rate == 0.001


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("search.workerz=2", ["--set search.workerz=2", "search.workers?"]),
        ("num_candidates=3", ["did you mean search.num_candidates?"]),
        ("serch.workers=3", ["did you mean search.workers?"]),
        ("search.workers=two", ["search.workers", "'two'", "an integer >= 1"]),
        ("search.workers=true", ["search.workers", "true", "an integer >= 1"]),
        ("search.workers='2'", ["search.workers", "'2'", "an integer >= 1"]),
        ("search.sampler=cma", ["search.sampler", "'cma'", "one of random, nsga2, tpe, gp, qlognehvi, ehvi"]),
        ("fidelity.guidance=.nan", ["fidelity.guidance", "NaN", "a number >= 1"]),
        ("distill.clip=.inf", ["distill.clip", "Infinity", "a number > 0"]),
        ("export.formats=[tflite]", ["export.formats", "'tflite'", "diffusers, onnx"]),
        ("export.formats=[]", ["export.formats", "one or more"]),
        ("name=../x", ["name", "'../x'", "text that matches"]),
        ("search=3", ["search is a section", "search.workers"]),
        ("seed", ["no `=`", "section.key=value"]),
        ("seed=[1", ["seed=[1", "not readable as YAML"]),
        ("data.source=folder", ["data.folder", "give the folder"]),
        ("data.folder=x", ["data.folder", "'x'", "set data.source: folder"]),
    ],
)
def test_a_wrong_override_gets_one_line_that_says_what_is_legal(override: str, words: list[str]) -> None:
    message = refusal(None, override)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("serch:\n  workers: 1\n", ["serch", "did you mean search?"]),
        ("search: 3\n", ["search", "3", "a section of keys"]),
        ("- 1\n", ["a list", "keys with values"]),
        ("seed: 1\nseed: 2\n", ["line 2", "'seed'", "given twice"]),
        ("1: 3\n", ["line 1", "not text"]),
        ("seed: [\n", ["not readable as YAML"]),
        ("seed: !!python/name:os.system\n", ["not readable as YAML", "python/name"]),
        ("name: &a [*a]\n", ["Circular"]),
        ("distill:\n  steps:\n", ["distill.steps", "null", "an integer >= 1"]),
    ],
)
def test_a_wrong_file_gets_one_line_with_its_name(tmp_path: Path, text: str, words: list[str]) -> None:
    path = written(tmp_path, text)
    message = refusal(path)
    assert "\n" not in message
    assert [word for word in [str(path), *words] if word not in message] == []


def test_several_problems_get_one_line_each(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, "seed: -1\nsearch:\n  workers: 0\n  colour: red\n"))
    assert ["seed" in message, "search.workers" in message, "search.colour" in message] == [True] * 3
    assert len(message.splitlines()) == 3


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "none.yaml")
    assert "cannot be read" in refusal(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refusal(binary)


@given(st.sampled_from(KEYS), st.data())
def test_a_key_with_one_letter_wrong_is_found_again(key: str, data: st.DataObject) -> None:
    start = key.rfind(".") + 1
    at = data.draw(st.integers(start, len(key) - 1))
    typo = key[:at] + "q" + key[at + 1 :]
    others = [other for other in KEYS if other != key and len(other) == len(typo)]
    as_close = any(sum(a != b for a, b in zip(typo, other, strict=True)) <= 1 for other in others)
    if as_close or len(key) - start < 4:
        return
    message = refusal(None, f"{typo}=1")
    # cpus_per_trial and gpus_per_trial are both one letter from qpus_per_trial.
    alike = [k for k in KEYS if len(k) == len(typo) and sum(a != b for a, b in zip(k, typo, strict=True)) == 1]
    assert key in alike and any(f" {k}" in message for k in alike)


def test_the_hash_follows_every_field_that_changes_a_candidate() -> None:
    base = recipe_hash(Recipe())
    for same in ("name=other", "picks.max_params=9", "export.formats=[onnx]", "search.num_candidates=9"):
        assert recipe_hash(load_recipe(None, [same])) == base
    changed = {"calibration.num_check=11", "seed=1", "data.num_images=5", "search.sampler=gp", "finalize.steps=1"}
    hashes = {recipe_hash(load_recipe(None, [override])) for override in changed}
    assert len(hashes | {base}) == len(changed) + 1
    assert len(base) == 16


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Recipe().search.workers = 3  # type: ignore[misc]


def test_every_field_is_described() -> None:
    assert [key for key, field in walk(Recipe) if not field.description] == []


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "config.yaml"
    target.mkdir()  # nothing can be renamed onto a folder
    with pytest.raises(UserError, match="cannot write"):
        save_recipe(Recipe(), target)
    assert list(tmp_path.iterdir()) == [target]
