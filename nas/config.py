"""The recipe: everything that decides what a run does, read from YAML into one frozen, fully checked tree of fields."""

import json
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from nas.atomic import write_bytes
from nas.errors import UserError
from nas.fields import closest, explain, section, walk
from nas.recipe import Recipe as Recipe
from nas.recipe_hash import recipe_hash as recipe_hash
from nas.recipe_hash import with_free_fields


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader that reads 1e-3 as a number and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is not text", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


# YAML 1.1, as PyYAML reads it, takes 1e-3 (no dot) for text; people write learning rates so.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_recipe(path: str | Path | None, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a YAML file (None: the defaults) and apply `a.b=c` overrides, whose values are YAML.

    Raises UserError, one line a problem: dotted key, value, what is legal, the nearest key.
    """
    tree = {} if path is None else read_fields(path)
    for text in overrides:
        _override(tree, text)
    try:
        # Through JSON, because there a list may become a tuple while text may not become a number.
        return Recipe.model_validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        origin = f"recipe {path}" if path and not overrides else "recipe"
        raise UserError("\n".join(f"{origin}: {line}" for line in explain(error, Recipe))) from None
    except ValueError as error:  # an alias that contains itself
        raise UserError(f"recipe {path}: cannot be used ({error}); write it without YAML aliases") from None


def save_recipe(recipe: Recipe, path: str | Path, like: Mapping[str, Any] | None = None) -> None:
    """Write the resolved recipe as YAML, every field spelt out, atomically.

    `like` is what the file of a run names (:func:`read_fields`): what its version did not hash stays unnamed.

    Raises UserError where the folder is full or cannot be written.
    """
    tree = recipe.model_dump(mode="json") if like is None else with_free_fields(recipe, like)
    write_bytes(Path(path), yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode())


def read_fields(path: str | Path) -> dict[str, Any]:
    """What a recipe file names, as a tree of fields that are not checked yet.

    Raises UserError for a file that cannot be read as such.
    """
    path = Path(path)
    try:
        tree = _parse(path.read_text(encoding="utf-8"), f"recipe {path}")
    except OSError as error:
        raise UserError(f"recipe {path}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    except UnicodeDecodeError:
        raise UserError(f"recipe {path}: is not UTF-8 text; give the path of a YAML file") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(
            f"recipe {path}: holds a {type(tree).__name__}, not keys with values; see docs/writing-a-recipe.md"
        )
    # A section with all its lines commented out reads as null and means its defaults.
    empty = {key for key, field in Recipe.model_fields.items() if section(field.annotation) and tree.get(key) is None}
    return {key: value for key, value in tree.items() if key not in empty}


def _parse(text: str, origin: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark and not origin.startswith("--set") else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{origin}{where}: not readable as YAML: {problem}") from None
    except RecursionError:
        raise UserError(f"{origin}: is nested too deeply; see docs/writing-a-recipe.md") from None


def _override(tree: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UserError(f"--set {text}: has no key or no `=`; write --set section.key=value")
    fields = dict(walk(Recipe))
    if key not in fields:
        raise UserError(f"--set {text}: there is no key {key}; {closest(key, Recipe)}")
    if section(fields[key].annotation):
        inner = ", ".join(name for name in fields if name.startswith(f"{key}."))
        raise UserError(f"--set {text}: {key} is a section; set one of {inner}")
    *parents, last = key.split(".")
    node = tree
    for part in parents:
        inner_node = node.get(part)
        if inner_node is None:
            inner_node = node[part] = {}
        if not isinstance(inner_node, dict):
            return  # the file filled the section with something else, and validation says so
        node = inner_node
    node[last] = _parse(value, f"--set {text}")
