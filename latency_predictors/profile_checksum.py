"""The checksum in a profile's file: what was edited by hand, or damaged, is told from what was fitted."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from search_spaces.errors import UserError

#: Field of a file with the SHA-256 of everything else in it; no field of a profile.
CHECKSUM = "sha256"


def with_checksum(content: dict[str, Any]) -> dict[str, Any]:
    """A profile's content as its file has it."""
    return content | {CHECKSUM: _checksum(content)}


def without_checksum(content: Any) -> Any:
    """A file's content without its checksum."""
    return {k: v for k, v in content.items() if k != CHECKSUM} if isinstance(content, dict) else content


def check_checksum(content: Any, what: str, mend: str) -> None:
    """UserError unless a file's checksum is that of its content; files from before there was one pass."""
    if isinstance(content, dict) and CHECKSUM in content and content[CHECKSUM] != _checksum(content):
        raise UserError(f"{what}: sha256 is not that of its content: edited by hand or damaged; {mend}")


def _checksum(content: dict[str, Any]) -> str:
    """However the file is laid out: of canonical JSON, with sorted keys and no white space."""
    text = json.dumps(without_checksum(content), sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()
