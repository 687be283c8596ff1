"""Written networks made the same wherever they lie: no paths of this machine, tensors where BLAS wants them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

_MACHINE_KEYS = ("_name_or_path", "name_or_path")


def drop_machine_paths(folder: Path) -> None:
    """Take out where the teacher lay on this machine, which libraries write into their configs."""
    for path in [*folder.glob("*.json"), *folder.glob("*/*.json")]:
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict) and any(key in data for key in _MACHINE_KEYS):
            kept = {key: value for key, value in data.items() if key not in _MACHINE_KEYS}
            path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def align_tensors(path: Path) -> None:
    """Lengthen a safetensors header with spaces until the tensors start at a multiple of 64 bytes.

    diffusers maps the file into memory. Weights that start off a multiple of 16 take other BLAS kernels, and a
    U-Net read back is then equal to 6e-7 only; aligned, it is equal bit for bit.
    """
    with path.open("rb") as source:
        length = int.from_bytes(source.read(8), "little")
        padding = -(8 + length) % 64
        if not padding:
            return
        temporary = path.with_name(f"{path.name}.aligned")
        with temporary.open("wb") as target:
            target.write((length + padding).to_bytes(8, "little"))
            target.write(source.read(length) + b" " * padding)
            shutil.copyfileobj(source, target, 1 << 24)
    temporary.replace(path)
