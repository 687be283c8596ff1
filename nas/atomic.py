"""Tensors and folders beside :mod:`search_spaces.atomic`, whose writers are here too."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from search_spaces.atomic import WriteError, replacing, write_bytes, write_json
from search_spaces.errors import UserError

if TYPE_CHECKING:
    import torch

__all__ = [
    "WriteError",
    "ensure_writable",
    "read_tensors",
    "stream_tensors",
    "write_bytes",
    "write_json",
    "write_tensors",
]

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


def stream_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Write tensors as safetensors one after the other, so that no more than one is copied in memory.

    Raises:
        WriteError: the place is full, read-only or no folder; the file that was there stays.
    """
    import torch
    from safetensors.torch import _TYPES  # names of dtypes as the format has them

    names = {dtype: name for name, dtype in _TYPES.items()}
    # Widest first, as the library orders them, so that every tensor is aligned.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(metadata or {})}
    end = 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path = Path(path)
    with replacing(path, 8 + len(text) + end) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            tensor = tensors[name].detach().cpu().contiguous()
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())
    return path


def read_tensors(path: Path, key: str) -> tuple[dict[str, str], dict[str, torch.Tensor]] | None:
    """Metadata and tensors of a safetensors file whose metadata has this `key`; None where there is none.

    For files that only save time: a damaged one is moved to `*.corrupt` with one warning, and None.

    Raises:
        UserError: the file exists and cannot be read.
    """
    import safetensors.torch

    path = Path(path)
    try:
        with path.open("rb") as file:
            file.read(1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; make it readable or delete it") from error
    try:
        # Mapped, not read: a file of another key costs nothing, and of a large one nothing is in memory twice.
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            metadata["key"]
            tensors = {name: file.get_tensor(name) for name in file.keys()} if metadata["key"] == key else {}  # noqa: SIM118
    except (ValueError, KeyError, TypeError, OSError, safetensors.SafetensorError):
        aside = path.with_name(path.name + ".corrupt")
        os.replace(path, aside)
        log.warning("%s is damaged; moved to %s, its work is done again", path, aside.name)
        return None
    return (metadata, tensors) if metadata["key"] == key else None


def ensure_writable(folder: Path) -> None:
    """Create `folder` and try to write in it, so that long work does not end at a closed door.

    Raises:
        UserError: it cannot be created or written.
    """
    probe = Path(folder) / f".probe.{os.getpid()}"
    write_bytes(probe, b"")
    probe.unlink(missing_ok=True)
