"""The one error type that a user sees, and how it shows what the user gave."""

_MOST = 80


class UserError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: what, its value, what is legal, what to do. The command line prints it
    and exits with code 2; it never shows a traceback for it.
    """


def shown(value: object, most: int = _MOST) -> str:
    """A value for a message: its ``repr``, shortened to ``most`` characters."""
    return shortened(repr(value), most)


def shortened(text: str, most: int = _MOST) -> str:
    """A text of at most ``most`` characters, the middle left out where it is longer."""
    return text if len(text) <= most else f"{text[: most - 20]}...{text[-17:]}"
