"""Options of a runner as the command line takes them."""

from collections.abc import Iterable
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
