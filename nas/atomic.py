"""Files that are either whole or absent: written under a temporary name, flushed, renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.errors import UserError

if TYPE_CHECKING:
    import torch


def write_bytes(path: Path, data: bytes) -> Path:
    """Write `data` to `path` so that a reader sees the old file or the new one, never a part.

    Raises:
        UserError: the place is full, read-only or no folder; one line, nothing finished is lost.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error} ({len(data)} bytes needed); make room there or "
            "choose another run directory, then resume: what was finished is kept"
        ) from error
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write `value` as indented JSON; NaN and infinity raise ValueError because JSON has neither."""
    return write_bytes(Path(path), (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Write tensors as safetensors and return the bytes written (for a checksum)."""
    import safetensors.torch

    # Serialised in memory: save_file reports a full disk as a SafetensorError without errno.
    data = safetensors.torch.save({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, metadata=dict(metadata or {}))
    write_bytes(path, data)
    return data


def read_metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file held in memory; ValueError where it is no such file."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise ValueError("no safetensors header")
    header = json.loads(data[8 : 8 + length])
    return dict(header.get("__metadata__", {}))
