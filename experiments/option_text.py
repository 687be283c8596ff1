"""Options of a runner as the command line takes them."""

from collections.abc import Iterable, Mapping
from typing import Any

from search_spaces.errors import UserError


def key_values(runner: str, texts: Iterable[str]) -> dict[str, Any]:
    """KEY=VALUE of a runner by name: text where it takes text, JSON elsewhere.

    Raises:
        UserError: a text without a key or without "=", or an option that the runner does not have.
    """
    from latency_predictors.runners import option_from_text

    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"--option {text}: not KEY=VALUE, such as serial=emulator-5554")
        found[key] = option_from_text(runner, key, value)
    return found


def options_of(runner: str, stated: Mapping[str, Any], texts: Iterable[str]) -> dict[str, Any]:
    """Options of a runner from command options of their own (None: not given) and KEY=VALUE texts.

    Raises:
        UserError: as :func:`key_values`, and a key that is given both ways with different values.
    """
    given = {key: value for key, value in stated.items() if value is not None}
    found = key_values(runner, texts)
    for key in given.keys() & found.keys():
        if given[key] != found[key]:
            raise UserError(f"--option {key}={found[key]} contradicts --{key} {given[key]}; give one of them")
    return given | found
