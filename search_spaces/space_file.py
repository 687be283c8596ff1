"""Search spaces as files: presets by name, YAML files by path, every error with its line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from search_spaces.candidate import Candidate
from search_spaces.decisions import (
    UNET_FORM,
    VAE_FORM,
    StageChoices,
    UNetDecisions,
    VaeDecisions,
    form_of,
    stage_table,
)
from search_spaces.errors import UserError, shortened, shown
from search_spaces.options import DEEP, Side, side_of
from search_spaces.space import MAX_NAME, SearchSpace
from search_spaces.stage_option import MIN_RATIO, check_ratio
from search_spaces.vae_option import STEPS, VAE_STAGES
from search_spaces.yaml_lines import Document
from search_spaces.yaml_lines import Path as Loc

_CHOICES: TypeAdapter[Any] = TypeAdapter(StageChoices)
_RATIOS = f"legal are shares of the teacher's from {MIN_RATIO:g} to 1, of at most six digits"
_LEGAL = {
    "resnet_width": _RATIOS,
    "ff_width": _RATIOS,
    "heads": _RATIOS,
    "width": "legal are lists of whole numbers from 1 to 9999, one list a level",
    "depth": "legal are lists of whole numbers from 1 to 99, one list a level",
    STEPS: "legal are whole numbers from 1 to 1000",
}
_FORMS: dict[str, type[BaseModel]] = {
    UNET_FORM: UNetDecisions,
    VAE_FORM: VaeDecisions,
}
_TYPES = {
    "string_type": "legal is text, in quotes if need be",
    "string_too_short": "legal is text of at least one letter",
    "too_short": "legal is text of at least one letter",
    "dict_type": "legal is a mapping",
}


def preset_names() -> tuple[str, ...]:
    """Names of the search spaces that come with the package."""
    folder = resources.files("search_spaces") / "presets"
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")))


def load_space(name_or_path: str) -> SearchSpace:
    """A preset by name, or a search space from a YAML file.

    Raises:
        UserError: neither a preset nor a file, or a file that is wrong: its first problem with file and line, and
            how many more there are.
    """
    return parse_space(*read_space(name_or_path))


def read_space(name_or_path: str) -> tuple[str, str]:
    """Name for messages, and text, of a preset's or another YAML file.

    Raises:
        UserError: neither a preset nor a file in UTF-8.
    """
    if name_or_path in preset_names():
        text = (resources.files("search_spaces") / "presets" / f"{name_or_path}.yaml").read_text(encoding="utf-8")
        return f"{name_or_path}.yaml", text
    path, is_file = Path(name_or_path), False
    with suppress(OSError):  # too long a name for a file, or a folder that is closed
        is_file = path.is_file()
    if not is_file:
        raise UserError(
            f"unknown search space {shown(name_or_path)}; legal are {', '.join(preset_names())} or the path of "
            "a YAML file"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"search space {shown(name_or_path)} cannot be read ({error}); give a YAML file in UTF-8"
        ) from None
    return name_or_path, text


def parse_space(where: str, text: str) -> SearchSpace:
    """A search space from the text of a YAML file.

    Args:
        where: name of the file for messages.

    Raises:
        UserError: as :func:`load_space`.
    """
    return parse_document(where, text)[1]


def parse_document(where: str, text: str) -> tuple[Document, SearchSpace]:
    """As :func:`parse_space`, with the document, which knows its lines."""
    document = Document.parse(where, text)
    if not isinstance(document.data, Mapping):
        raise UserError(f"{where}:1: must be a YAML mapping with name and options, as in the presets")
    problems: list[tuple[Loc, str]] = []
    try:
        space = SearchSpace.model_validate(document.data)
        problems = [*_of_order(space.stages)]
    except ValidationError as error:
        # A file of the right form that makes no sense is one error of the whole, which has no place in the file yet.
        data, form = document.data, [each for each in error.errors(include_url=False) if each["loc"]]
        problems = [*(_of_form(data.get("options"), form) if form else _of_sense(data))] or [
            ((), error.errors()[0]["msg"])
        ]
    if problems:
        raise first_of(document, problems)
    return document, space


def first_of(document: Document, problems: Sequence[tuple[Loc, str]]) -> UserError:
    """The problem that comes first in the file, with its line and how many more there are."""
    path, message = min(problems, key=lambda problem: document.line(problem[0]))
    more = f" (and {len(problems) - 1} more after this)" if len(problems) > 1 else ""
    return document.error(path, f"{message}{more}")


def _of_form(options: Any, problems: Sequence[Any]) -> Iterator[tuple[Loc, str]]:
    redone = [*_of_stage_forms(options)] if isinstance(options, Mapping) else []
    stages = {loc for loc, *_ in redone}
    every = [problem for problem in problems if problem["loc"][:2] not in stages]
    yield from ((loc, message) for loc, message, _ in redone if message)
    every += [problem for _, _, problem in redone if problem]
    longer = {p["loc"][:n] for p in every for n in range(len(p["loc"]))}
    unknown = {p["loc"][:-1] for p in every if p["type"] == "extra_forbidden"}
    for problem in every:
        if problem["loc"] in longer:
            continue  # a list found too short only because its elements were refused
        if problem["type"] == "missing" and problem["loc"][:-1] in unknown:
            continue  # most likely it is there, misspelt
        form = next((part for part in problem["loc"] if part in _FORMS), None)
        model = _FORMS[str(form)] if form else SearchSpace
        path = [part for part in problem["loc"] if part not in (*_FORMS, "list of options", "[key]")]
        # A key that is itself wrong is shown by what is said of it.
        named = [str(part) for part in (path[:-1] if problem["loc"][-1] == "[key]" else path) if isinstance(part, str)]
        key = ".".join(named[1:] if len(named) > 1 and named[0] == "options" else named)
        yield path, f"{shortened(key)}: {_explained(problem, model)}"


def _of_stage_forms(options: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], str, Any]]:
    """Problems of stages given as mappings that the form read into them cannot name: stage, message, pydantic's own.

    A mapping's form is read off its keys, so one without keys, or with misspelt ones, may be taken for that of
    another kind of stage.
    """
    for stage, given in options.items():
        loc = ("options", stage)
        if not isinstance(given, Mapping):
            continue
        if stage == STEPS:
            yield loc, f"{stage}: {_written(given)} is no list; write step counts in brackets, such as [1, 2]", None
            continue
        try:
            if stage not in VAE_STAGES:
                side_of(stage)
        except UserError as error:
            yield loc, str(error), None
            continue
        form = VAE_FORM if stage in VAE_STAGES else UNET_FORM
        if form_of(given) == form:
            continue
        try:
            _CHOICES.validate_python(given)  # of the other kind in full: said better by the stage's table
        except ValidationError:
            try:
                _FORMS[form].model_validate(given)
            except ValidationError as error:
                for each in error.errors(include_url=False):
                    yield loc, "", {**each, "loc": (*loc, form, *each["loc"])}


def _written(value: Any) -> str:
    """A value as YAML, for a message."""
    if isinstance(value, str):
        return shown(value)
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf)
    return shortened(text.removesuffix("...\n").strip())


def _explained(problem: Any, model: type[BaseModel]) -> str:
    given, kind, loc = problem["input"], problem["type"], problem["loc"]
    if kind == "extra_forbidden":
        keys = (field.alias or name for name, field in model.model_fields.items())
        return f"there is no such key; legal are {', '.join(keys)}"
    if kind == "missing":
        return "is missing; add it"
    value = _written(given)
    if kind == "tuple_type":
        return f"{value} is no list; write what may be chosen in brackets, such as [RARA, RA] or [1, 0.5]"
    if kind == "too_short" and not isinstance(given, str):
        return "is empty; give at least one"
    if isinstance(given, str) and (loc == ("name",) or loc[-1] == "[key]"):
        why = ": files are named after it" if loc == ("name",) else ""
        return (
            f"{value} is not legal; legal are up to {MAX_NAME} letters, digits, '_', '.' and '-', the first a letter "
            f"or digit{why}"
        )
    key = next((part for part in loc if part in _LEGAL and loc[0] == "options"), None)
    if key is not None:
        if _LEGAL[key] is _RATIOS and isinstance(given, str):
            with suppress(ValueError):
                return f"{value} is text to YAML; write {check_ratio('', float(given)):g}, without quotes or exponent"
        return f"{value} is not legal; {_LEGAL[key]}"
    message = problem["msg"][:1].lower() + problem["msg"][1:]
    return f"{value} is not legal; {_TYPES.get(kind) or message.replace('input should be', 'legal is')}"


def _of_sense(data: Mapping[str, Any]) -> Iterator[tuple[Loc, str]]:
    problems = [*_of_stages(data["options"])]
    # Whether a candidate is in the space can be asked only of a space.
    yield from problems or _of_candidates(data)


def _of_stages(options: Mapping[str, Any]) -> Iterator[tuple[Loc, str]]:
    if not options:
        yield ("options",), "options: has no stages; give E1, deep, D1 and so on, as in the presets"
    problems: list[tuple[Loc, str]] = []
    for stage, given in options.items():
        choices = _CHOICES.validate_python(given)
        try:
            stage_table(stage, choices)
        except UserError as error:
            problems += _pinpointed(stage, choices, str(error))
    # Stages that are missing may be among those that are misspelt.
    yield from problems or (_of_order(tuple(options)) if options else ())


def _pinpointed(stage: str, choices: Any, message: str) -> Iterator[tuple[Loc, str]]:
    """The values of a stage that are wrong by themselves; the whole stage where each by itself is right."""
    found = False
    pairs = [] if isinstance(choices, tuple) else [*choices]
    for key, values in pairs or [(None, choices)]:
        if key not in (None, "word"):
            continue
        for number, value in enumerate(values):
            one = (value,) if key is None else UNetDecisions(word=(value,))
            try:
                stage_table(stage, one)
            except UserError as error:
                found = True
                yield (("options", stage, number) if key is None else ("options", stage, key, number)), str(error)
    if not found:
        key = next((key for key, _ in pairs if message.startswith(f"{stage}.{key}")), None)
        yield ("options", stage) if key is None else ("options", stage, key), message


def _of_order(stages: tuple[str, ...]) -> Iterator[tuple[Loc, str]]:
    """Stages run E1, E2, ..., deep, ..., D2, D1 whatever the teacher; how many there are, the teacher says."""
    unet = [stage for stage in stages if stage not in (*VAE_STAGES, STEPS)]
    try:
        levels = max(sum(side_of(stage) is side for stage in unet) for side in (Side.ENCODER, Side.DECODER))
    except UserError:
        return  # an unknown stage, which has been reported
    numbers = range(1, levels + 1)
    legal = [*(f"E{i}" for i in numbers), DEEP, *(f"D{i}" for i in reversed(numbers))]
    if not levels:
        yield ("options",), f"options: stages are {' '.join(stages)}; a U-Net has E1, {DEEP} and D1 at least"
    elif unet != legal:
        yield ("options",), f"options: stages are {' '.join(unet)}; legal is {' '.join(legal)}, in that order"


def _of_candidates(data: Mapping[str, Any]) -> Iterator[tuple[Loc, str]]:
    space = SearchSpace.model_validate({**data, "candidates": {}})
    for name, text in data["candidates"].items():
        try:
            space.encode(Candidate.from_id(text, space.stages))
        except UserError as error:
            yield ("candidates", name), f"candidate {name}: {error}"
