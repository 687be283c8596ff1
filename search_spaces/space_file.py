"""Search spaces as files: presets by name, YAML files by path, every error with its line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from search_spaces.candidate import Candidate
from search_spaces.decisions import StageChoices, UNetDecisions, VaeDecisions, stage_table
from search_spaces.errors import UserError
from search_spaces.options import DEEP, Side, side_of
from search_spaces.space import MAX_NAME, SearchSpace
from search_spaces.vae_option import STEPS, VAE_STAGES
from search_spaces.yaml_lines import Document
from search_spaces.yaml_lines import Path as Loc

_CHOICES: TypeAdapter[Any] = TypeAdapter(StageChoices)
_RATIOS = "legal are shares of the teacher's, above 0 and up to 1"
_LEGAL = {
    "resnet_width": _RATIOS,
    "ff_width": _RATIOS,
    "heads": _RATIOS,
    "width": "legal are lists of whole numbers from 1 to 9999, one list a level",
    "depth": "legal are lists of whole numbers from 1 to 99, one list a level",
}
_FORMS: dict[str, type[BaseModel]] = {
    "decisions of a U-Net stage": UNetDecisions,
    "decisions of a VAE stage": VaeDecisions,
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
    path = Path(name_or_path)
    if not path.is_file():
        raise UserError(
            f"unknown search space {name_or_path!r}; legal are {', '.join(preset_names())} or the path of a YAML file"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"search space {name_or_path!r} cannot be read ({error}); give a YAML file in UTF-8") from None
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
        problems = [*(_of_form(form) if form else _of_sense(data))] or [((), error.errors()[0]["msg"])]
    if problems:
        raise first_of(document, problems)
    return document, space


def first_of(document: Document, problems: Sequence[tuple[Loc, str]]) -> UserError:
    """The problem that comes first in the file, with its line and how many more there are."""
    path, message = min(problems, key=lambda problem: document.line(problem[0]))
    more = f" (and {len(problems) - 1} more after this)" if len(problems) > 1 else ""
    return document.error(path, f"{message}{more}")


def _of_form(problems: Sequence[Any]) -> Iterator[tuple[Loc, str]]:
    for problem in problems:
        if any(other["loc"][: len(problem["loc"])] == problem["loc"] for other in problems if other is not problem):
            continue  # a list found too short only because its elements were refused
        form = next((part for part in problem["loc"] if part in _FORMS), None)
        model = _FORMS[str(form)] if form else SearchSpace
        path = [part for part in problem["loc"] if part not in (*_FORMS, "list of options")]
        named = [str(part) for part in path if isinstance(part, str)]
        key = ".".join(named[1:] if len(named) > 1 and named[0] == "options" else named)
        yield path, f"{key}: {_explained(problem, model)}"


def _explained(problem: Any, model: type[BaseModel]) -> str:
    given = repr(problem["input"])
    shown = given if len(given) <= 60 else f"{given[:57]}..."
    message = problem["msg"][:1].lower() + problem["msg"][1:]
    if problem["type"] == "extra_forbidden":
        keys = (field.alias or name for name, field in model.model_fields.items())
        return f"there is no such key; legal are {', '.join(keys)}"
    if problem["type"] == "missing":
        return "is missing; add it"
    if problem["type"] == "tuple_type":
        return f"{shown} is no list; write what may be chosen in brackets, such as [RARA, RA] or [1, 0.5]"
    if problem["type"] == "too_short":
        return "is empty; give at least one"
    if problem["loc"] == ("name",) and isinstance(problem["input"], str):
        return (
            f"{shown} is not legal; legal are up to {MAX_NAME} letters, digits, '_', '.' and '-', the first a letter "
            "or digit: files are named after it"
        )
    key = next((part for part in problem["loc"] if part in _LEGAL), None)
    return f"{shown} is not legal; {_LEGAL[key] if key else message.replace('input should be', 'legal is')}"


def _of_sense(data: Mapping[str, Any]) -> Iterator[tuple[Loc, str]]:
    problems = [*_of_stages(data["options"])]
    # Whether a candidate is in the space can be asked only of a space.
    yield from problems or _of_candidates(data)


def _of_stages(options: Mapping[str, Any]) -> Iterator[tuple[Loc, str]]:
    if not options:
        yield ("options",), "options: has no stages; give E1, deep, D1 and so on, as in the presets"
    for stage, given in options.items():
        choices = _CHOICES.validate_python(given)
        try:
            stage_table(stage, choices)
        except UserError as error:
            yield from _pinpointed(stage, choices, str(error))
    if options:
        yield from _of_order(tuple(options))


def _pinpointed(stage: str, choices: Any, message: str) -> Iterator[tuple[Loc, str]]:
    """The values of a stage that are wrong by themselves; the whole stage where each by itself is right."""
    found = False
    for key, values in [(None, choices)] if isinstance(choices, tuple) else choices:
        if key not in (None, "word"):
            continue
        for number, value in enumerate(values):
            one = (value,) if key is None else choices.model_copy(update={key: (value,)})
            try:
                stage_table(stage, one)
            except UserError as error:
                found = True
                yield (("options", stage, number) if key is None else ("options", stage, key, number)), str(error)
    if not found:
        yield ("options", stage), message


def _of_order(stages: tuple[str, ...]) -> Iterator[tuple[Loc, str]]:
    """Stages run E1, E2, ..., deep, ..., D2, D1 whatever the teacher; how many there are, the teacher says."""
    unet = [stage for stage in stages if stage not in (*VAE_STAGES, STEPS)]
    try:
        levels = max(sum(side_of(stage) is side for stage in unet) for side in (Side.ENCODER, Side.DECODER))
    except UserError:
        return  # an unknown stage, which has been reported
    numbers = range(1, levels + 1)
    legal = [*(f"E{i}" for i in numbers), DEEP, *(f"D{i}" for i in reversed(numbers))]
    if unet != legal:
        yield ("options",), f"options: stages are {' '.join(unet) or 'none'}; legal is {' '.join(legal)}, in that order"


def _of_candidates(data: Mapping[str, Any]) -> Iterator[tuple[Loc, str]]:
    space = SearchSpace.model_validate({**data, "candidates": {}})
    for name, text in data["candidates"].items():
        try:
            space.encode(Candidate.from_id(text, space.stages))
        except UserError as error:
            yield ("candidates", name), f"candidate {name}: {error}"
