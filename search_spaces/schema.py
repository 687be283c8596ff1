"""The JSON schema of search-space files: for editors, and for checks outside this package."""

from __future__ import annotations

from typing import Any

from search_spaces.options import ABSENT, DEEP, MAX_LAYERS, MAX_LEVELS, NONE
from search_spaces.space import SearchSpace
from search_spaces.vae_option import STEPS, TEACHER, VAE_STAGES

_WORD = f"(RA?){{1,{MAX_LAYERS}}}"
_SKIPS = r"(@[1-9](\+[1-9])*)?"
_INTERNALS = r"(_[wfh]([0-9]+(\.[0-9]+)?|\.[0-9]+)|_cross|_self|_sep)*"
_DEEP = rf"{_WORD}\.({ABSENT}|{_WORD})\.{_WORD}{_SKIPS}"
_LEVEL = "[1-9][0-9]{0,3}x[1-9][0-9]?"


def json_schema() -> dict[str, Any]:
    """Schema (draft 2020-12) of a search-space file.

    What it accepts has the right keys, types, ranges and forms of words; whether widths fit a teacher and skips
    exist is known with the teacher only (``nanosd space show FILE --teacher T``).
    """
    schema = SearchSpace.model_json_schema(by_alias=True, mode="validation")
    decisions = schema["$defs"]
    options: dict[str, Any] = {
        "description": "What may be chosen, by stage: E1, E2, ..., deep, ..., D2, D1; then VE, VD and steps.",
        "type": "object",
        "minProperties": 1,
        "additionalProperties": False,
        "patternProperties": {
            "^E[1-9]$": _choices("Encoder", _WORD + _INTERNALS),
            "^D[1-9]$": _choices("Decoder", _WORD + _SKIPS + _INTERNALS),
        },
        "properties": {
            DEEP: _choices("Deep", f"({NONE}|{_DEEP}{_INTERNALS})"),
            **{stage: _vae_choices() for stage in VAE_STAGES},
            STEPS: _list({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 1000}, _text("[1-9][0-9]{0,3}")]}),
        },
    }
    unet = decisions.pop("UNetDecisions")
    for name, word in (("Encoder", _WORD), ("Decoder", _WORD + _SKIPS), ("Deep", f"({NONE}|{_DEEP})")):
        words = {"description": unet["properties"]["word"]["description"], **_list(_text(word))}
        decisions[name] = {**unet, "properties": {**unet["properties"], "word": words}}
    schema["properties"]["options"] = options
    schema["properties"]["candidates"]["additionalProperties"] = False  # names of any other form
    schema["description"] = "A search space of NanoSD NAS: ordered decisions of every stage, as data."
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_without_titles(schema)}


def _text(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{pattern}$"}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "uniqueItems": True, "items": items}


def _choices(decisions: str, option: str) -> dict[str, Any]:
    return {"oneOf": [_list(_text(option)), {"$ref": f"#/$defs/{decisions}"}]}


def _vae_choices() -> dict[str, Any]:
    option = rf"({TEACHER}|{_LEVEL}(\.{_LEVEL}){{0,{MAX_LEVELS - 1}}})"
    return {"oneOf": [_list(_text(option)), {"$ref": "#/$defs/VaeDecisions"}]}


def _without_titles(schema: Any) -> Any:
    """The schema without pydantic's titles, which only repeat the keys."""
    if isinstance(schema, dict):
        return {k: _without_titles(v) for k, v in schema.items() if k != "title" or not isinstance(v, str)}
    return [_without_titles(each) for each in schema] if isinstance(schema, list) else schema
