"""Say in words what a configuration field takes: for error messages and for the written reference."""

import difflib
import json
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

_NAMES = {int: "an integer", float: "a number", str: "text", bool: "true or false"}
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def section(annotation: Any) -> type[BaseModel] | None:
    """Return the model class if the annotation is one (a section of the recipe), else None."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _bounds(metadata: list[Any]) -> str:
    signs = [(sign, getattr(item, name, None)) for item in metadata for name, sign in _SIGNS.items()]
    words = [f"{sign} {limit}" for sign, limit in signs if limit is not None]
    words += [f"that matches {item.pattern}" for item in metadata if getattr(item, "pattern", None)]
    words += ["that is not empty" for item in metadata if getattr(item, "min_length", None) == 1]
    words += [f"of at most {item.max_length} characters" for item in metadata if getattr(item, "max_length", None)]
    return " and ".join(words)


def legal(annotation: Any, metadata: list[Any] | None = None) -> str:
    """Say what values a field of this annotation takes, as `an integer >= 1` or `one of a, b`."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin in (typing.Union, types.UnionType):
        inner = [arg for arg in args if arg is not types.NoneType]
        words = " or ".join(legal(arg, metadata) for arg in inner)
        return f"{words}, or null" if len(inner) < len(args) else words
    if origin is tuple:
        return f"a list of one or more, each {legal(args[0])}" if metadata else f"a list, each {legal(args[0])}"
    if section(annotation):
        return "a section of keys"
    name = _NAMES.get(annotation, str(annotation))
    return f"{name} {_bounds(metadata or [])}".strip()


def walk(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield (dotted key, field) for every field, sections first named and then entered."""
    for name, field in model.model_fields.items():
        yield prefix + name, field
        inner = section(field.annotation)
        if inner:
            yield from walk(inner, f"{prefix}{name}.")


def closest(key: str, model: type[BaseModel]) -> str:
    """Return `did you mean x?` for the nearest dotted key of the model, or the list of legal keys beside it."""
    fields = dict(walk(model))
    keys = [name for name, field in fields.items() if not section(field.annotation)]
    parent, _, last = key.rpartition(".")
    beside = [name for name in fields if name.rpartition(".")[0] == parent]
    near = [name for name in fields if len(name) == len(key) and sum(map(str.__ne__, name, key)) == 1]
    near = near or difflib.get_close_matches(key, list(fields), n=1, cutoff=0.75)
    if not near:  # the right name in the wrong section, as `num_candidates` for `search.num_candidates`
        near = [name for name in keys if name.rpartition(".")[2] == last]
    if not near:
        lasts = difflib.get_close_matches(last, [name.rpartition(".")[2] for name in beside], n=1, cutoff=0.5)
        near = [name for name in beside if name.rpartition(".")[2] in lasts]
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"legal keys here: {', '.join(beside or [name for name in fields if '.' not in name])}"


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Turn a validation error into one line a problem: dotted key, value given, what is legal, what to do."""
    fields, lines = dict(walk(model)), []
    problems = error.errors(include_url=False)
    for problem in problems:
        if any(other["loc"][: len(problem["loc"])] == problem["loc"] for other in problems if other is not problem):
            continue  # a list found too short only because its elements were refused
        path = [str(part) for part in problem["loc"]]
        key, given = ".".join(path), problem["input"]
        if problem["type"] == "extra_forbidden":
            lines.append(f"{key}: there is no such key; {closest(key, model)}")
        elif problem["type"] == "value_error":
            lines.append(str(problem["ctx"]["error"]))  # our validators' messages name their keys
        else:
            while path and ".".join(path) not in fields:  # an index into a list
                path.pop()
            field = fields.get(".".join(path))
            words = legal(field.annotation, field.metadata) if field else "a mapping of keys"
            lines.append(f"{key or 'the recipe'}: {_shown(given)} is not legal here; give {words}")
    return list(dict.fromkeys(lines))


def _shown(value: Any) -> str:
    """Return the value as YAML would have it: null and true, not None and True; cut to one short line."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def reference(model: type[BaseModel]) -> str:
    """Return a Markdown table a section: key, legal values, default, meaning."""
    top = [(name, field) for name, field in model.model_fields.items() if not section(field.annotation)]
    parts = [("", "", top)]
    for name, field in model.model_fields.items():
        inner = section(field.annotation)
        if inner:
            rows = [(f"{name}.{key}", value) for key, value in inner.model_fields.items()]
            parts.append((name, field.description or "", rows))
    lines: list[str] = []
    for title, description, rows in parts:
        lines += [f"### `{title}`", "", description, ""] if title else []
        lines += ["| key | takes | default | meaning |", "| --- | --- | --- | --- |"]
        for key, field in rows:
            takes = legal(field.annotation, field.metadata).replace("|", "\\|")
            lines.append(f"| `{key}` | {takes} | {_default(field)} | {field.description} |")
        lines.append("")
    return "\n".join(lines)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "null"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"
