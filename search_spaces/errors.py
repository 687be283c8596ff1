"""The one error type that a user sees."""


class UserError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: what, its value, what is legal, what to do. The command line prints it
    and exits with code 2; it never shows a traceback for it.
    """
