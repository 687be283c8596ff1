"""Options of a runner as the command line takes them."""

import json
from collections.abc import Iterable
from typing import Any

from search_spaces.errors import UserError


def key_values(texts: Iterable[str]) -> dict[str, Any]:
    """KEY=VALUE, the value as JSON where it is JSON, as text otherwise.

    Raises:
        UserError: a text without a key or without "=".
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"--option {text}: not KEY=VALUE, such as serial=emulator-5554")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found
