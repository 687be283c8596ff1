"""Tensors and folders beside :mod:`search_spaces.atomic`, whose writers are here too."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from search_spaces.atomic import WriteError, write_bytes, write_json
from search_spaces.errors import UserError

if TYPE_CHECKING:
    import torch

__all__ = ["WriteError", "ensure_writable", "read_tensors", "write_bytes", "write_json", "write_tensors"]

log = logging.getLogger("nanosd")


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Write tensors as safetensors and return the bytes written (for a checksum)."""
    import safetensors.torch

    # Serialised in memory: save_file reports a full disk as a SafetensorError without errno.
    data = safetensors.torch.save(
        {name: tensor.detach().contiguous() for name, tensor in tensors.items()}, metadata=dict(metadata or {})
    )
    write_bytes(path, data)
    return data


def read_tensors(path: Path, key: str) -> tuple[dict[str, str], dict[str, torch.Tensor]] | None:
    """Metadata and tensors of a safetensors file whose metadata has this `key`; None where there is none.

    For files that only save time: a damaged one is moved to `*.corrupt` with one warning, and None.

    Raises:
        UserError: the file exists and cannot be read.
    """
    import safetensors.torch

    path = Path(path)
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; make it readable or delete it") from error
    try:
        length = int.from_bytes(data[:8], "little")
        metadata = dict(json.loads(data[8 : 8 + length])["__metadata__"])
        tensors = safetensors.torch.load(data)
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError):
        aside = path.with_name(path.name + ".corrupt")
        os.replace(path, aside)
        log.warning("%s is damaged; moved to %s, its work is done again", path, aside.name)
        return None
    return (metadata, tensors) if metadata.get("key") == key else None


def ensure_writable(folder: Path) -> None:
    """Create `folder` and try to write in it, so that long work does not end at a closed door.

    Raises:
        UserError: it cannot be created or written.
    """
    probe = Path(folder) / f".probe.{os.getpid()}"
    write_bytes(probe, b"")
    probe.unlink(missing_ok=True)
