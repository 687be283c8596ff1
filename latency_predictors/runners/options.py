"""Options of runners, checked against the types that their constructors state, wherever they come from."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from typing import Annotated, Any, Concatenate, Literal, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

from pydantic import Field, PydanticSchemaGenerationError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from search_spaces.errors import UserError, shown

MAX_THREADS = 1024
"""More would only be a slip: onnxruntime starts as many as it is told, and hangs in starting a million."""

_YEAR_S = 365 * 24 * 3600

Threads = Annotated[
    int, Field(strict=True, ge=1, le=MAX_THREADS, description=f"a whole number of threads, 1 to {MAX_THREADS}")
]
Cores = Annotated[
    Sequence[Annotated[int, Field(strict=True, ge=0)]], Field(description="core numbers in brackets, such as [0,1]")
]
Flag = Annotated[bool, Field(strict=True, description="true or false")]
Seconds = Annotated[
    float, Field(strict=True, gt=0, le=_YEAR_S, allow_inf_nan=False, description="seconds, more than 0, a year at most")
]
Celsius = Annotated[
    float, Field(strict=True, ge=-100, le=200, allow_inf_nan=False, description="degrees Celsius, -100 to 200")
]
Texts = Annotated[Mapping[str, str], Field(description='texts by name, such as {"soc_model":"69"}')]
ThermalStatus = Annotated[int, Field(strict=True, ge=0, le=6, description="Android's thermal status, 0 to 6")]


P = ParamSpec("P")
S = TypeVar("S")


def checked(init: Callable[Concatenate[S, P], None]) -> Callable[Concatenate[S, P], None]:
    """A constructor whose arguments are checked against its own annotations; see :func:`legal_values`."""

    @wraps(init)
    def checking(self: S, *args: P.args, **kwargs: P.kwargs) -> None:
        given = inspect.signature(init).bind(self, *args, **kwargs)
        given.arguments.update(legal_values(init, {k: v for k, v in given.arguments.items() if v is not self}))
        init(*given.args, **given.kwargs)

    return checking


def legal_values(init: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values as the constructor takes them (models from mappings).

    Names of a Literal are left to the runner, which knows which of them it has; what is not annotated is not checked.

    Raises:
        UserError: a value of another type, or beyond its limits.
    """
    return {name: _legal(name, _adapters(init).get(name), value) for name, value in given.items()}


def from_text(init: Callable[..., Any], name: str, text: str) -> Any:
    """An option's value from the command line: the text where the option is text, else JSON if it is that."""
    found = _adapters(init).get(name)
    if found is not None and _takes(found[1], text):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _legal(name: str, known: tuple[Any, TypeAdapter[Any]] | None, value: Any) -> Any:
    if known is None:
        return value
    hint, adapter = known
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        if isinstance(value, str) and any(get_origin(part) is Literal for part in _parts(hint)):
            return value
        legal = _described(hint) or error.errors(include_url=False)[0]["msg"].removeprefix("Input should be ")
        value_shown = f"{value:g}" if isinstance(value, float) else shown(value)
        raise UserError(f"{name}: {value_shown} is not legal; give {legal}") from None


def _takes(adapter: TypeAdapter[Any], text: str) -> bool:
    try:
        adapter.validate_python(text, strict=True)
    except ValidationError:
        return False
    return True


@cache
def _adapters(init: Callable[..., Any]) -> dict[str, tuple[Any, TypeAdapter[Any]]]:
    """Annotation and adapter of each parameter that says its type."""
    try:
        hints = get_type_hints(init, include_extras=True)
    except NameError:  # annotations that only a type checker can resolve
        return {}
    found: dict[str, tuple[Any, TypeAdapter[Any]]] = {}
    for name in inspect.signature(init).parameters:
        if name in hints and hints[name] is not Any:
            try:
                found[name] = hints[name], TypeAdapter(hints[name])
            except PydanticSchemaGenerationError:  # a type of the runner's own
                continue
    return found


def _parts(hint: Any) -> list[Any]:
    return [hint, *(part for inner in get_args(hint) for part in _parts(inner))] if get_origin(hint) else [hint]


def _described(hint: Any) -> str | None:
    """What the annotation says is legal."""
    for part in _parts(hint):
        if isinstance(part, FieldInfo) and part.description:
            return part.description
    return None
