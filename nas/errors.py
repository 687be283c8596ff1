"""The error that a user sees, under the name that this package's callers import it by."""

from search_spaces.errors import UserError

__all__ = ["UserError"]
