"""Weights that all processes of a machine share: files that each of them maps, instead of copies in its memory.

Tensors of a safetensors file are mapped when they are loaded: the operating system has their pages once, however many
processes use them, and only a page that is written to becomes a process's own. Diffusers maps a float32 teacher that
way already; one in half precision is converted, and conversion makes copies.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.teacher import Teacher


def share_weights(module: Any, path: Path) -> bool:
    """Replace a module's weights by those of a file with the same content, which is written where there is none.

    Args:
        module: an nn.Module; its parameters keep their `requires_grad`.
        path: named after the content: what is there is taken for it where names and shapes are the same.

    Returns:
        Whether the weights are mapped now; False where the file cannot be written (they stay as they are).
    """
    import safetensors.torch
    from filelock import FileLock
    from safetensors import SafetensorError

    own = module.state_dict()
    part = path.with_name(f"{path.name}.tmp")
    try:
        with FileLock(path.with_name(f"{path.name}.lock")):  # of several gigabytes, one process writes
            if not path.is_file():
                safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in own.items()}, part)
                os.replace(part, path)
        mapped = safetensors.torch.load_file(path)
    except (OSError, SafetensorError):  # the latter is also what save_file makes of a full disk
        with contextlib.suppress(OSError):
            part.unlink()
        return False
    if {n: (t.shape, t.dtype) for n, t in mapped.items()} != {n: (t.shape, t.dtype) for n, t in own.items()}:
        return False
    module.load_state_dict(mapped, assign=True)
    del own
    _give_back_memory()
    return True


def share_unet(teacher: Teacher, folder: Path) -> Teacher:
    """The teacher for a worker that only evaluates: its U-Net shared with other processes, VAE and text encoder freed.

    Args:
        teacher: its U-Net's weights are replaced in place.
        folder: that all workers see, for a float32 copy of weights that are stored otherwise (`KEY-unet.safetensors`).
    """
    if not _all_float32(teacher.folder / "unet"):
        share_weights(teacher.unet, folder / f"{teacher.key}-unet.safetensors")
    return replace(teacher, vae=None, text_encoder=None)


def _give_back_memory() -> None:
    """Return what was freed to the operating system; glibc keeps most of it otherwise."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _all_float32(folder: Path) -> bool:
    for path in folder.glob("*.safetensors"):
        with contextlib.suppress(OSError, ValueError), open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            if any(entry["dtype"] != "F32" for name, entry in header.items() if name != "__metadata__"):
                return False
    return True
