"""Compiles and calls `kernels.cpp`: blocks of a small U-Net for 16 samples at a time on one core.

Tensors are float32 (channels, pixels, 16), contiguous; torch's allocator aligns them as the vectors need it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor

from experiments.nanosd_bench.shards import SAMPLES
from search_spaces.errors import UserError

_FLAGS = ("-O3", "-march=native", "-fPIC", "-shared")


@cache
def library(folder: Path) -> Any:
    """The compiled kernels, kept in `folder` under a name that says what they were compiled from and on.

    Raises:
        UserError: no C++ compiler, or one that does not take the file.
    """
    source = Path(str(files("experiments.nanosd_bench") / "kernels.cpp"))
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise UserError("no C++ compiler (g++ or clang++) is installed, which this bench needs; install one")
    digest = hashlib.sha256(source.read_bytes() + repr((compiler, _FLAGS)).encode()).hexdigest()[:12]
    path = folder.absolute() / f"kernels-{digest}.so"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}")
        done = subprocess.run([compiler, *_FLAGS, str(source), "-o", str(new)], capture_output=True, text=True)
        if done.returncode != 0:
            raise UserError(f"{compiler} cannot compile {source.name}: {done.stderr.strip().splitlines()[:1]}")
        new.replace(path)
    found = ctypes.CDLL(str(path))
    pointer, whole, real = ctypes.c_void_p, ctypes.c_int, ctypes.c_float
    found.residual.argtypes = [whole, pointer, pointer, whole, whole, whole, real, pointer, pointer]
    found.transformer_first.argtypes = [whole, pointer, pointer, whole, whole, whole, pointer]
    found.transformer_second.argtypes = [whole, *[pointer] * 3, whole, whole, whole, *[pointer] * 3]
    found.convolution.argtypes = [whole, whole, pointer, pointer, whole, whole, pointer, pointer]
    found.norm_silu.argtypes = [whole, pointer, pointer, whole, whole, real, pointer, pointer]
    for name in ("residual", "transformer_first", "transformer_second", "convolution", "norm_silu"):
        getattr(found, name).restype = None
    return found


def pack3(weight: Tensor, width: int) -> Tensor:
    """Weights (out, in, 3, 3) of a convolution whose output has this width, as the kernels read them."""
    tile = SAMPLES // width
    outputs, inputs = weight.shape[:2]
    return weight.reshape(outputs // tile, tile, inputs, 9).permute(0, 2, 3, 1).contiguous()


def pack1(weight: Tensor) -> Tensor:
    """Weights (out, in) or (out, in, 1, 1) of a linear layer or 1x1 convolution, as the kernels read them."""
    outputs, inputs = weight.shape[:2]
    return weight.reshape(outputs // 4, 4, inputs).permute(0, 2, 1).contiguous()


def per_sample(bias: Tensor) -> Tensor:
    """(channels,) or (samples, channels) as (channels, 16)."""
    return (bias[:, None].expand(-1, SAMPLES) if bias.ndim == 1 else bias.T).contiguous()


class Pointers:
    """Addresses of tensors (None: null) in a C array; keeps the tensors alive."""

    def __init__(self, tensors: Sequence[Tensor | None]) -> None:
        self._tensors = [None if t is None else t.detach().float().contiguous() for t in tensors]
        addresses = [None if t is None else t.data_ptr() for t in self._tensors]
        self._array = (ctypes.c_void_p * len(addresses))(*addresses)
        self.address = ctypes.addressof(self._array)


def to_lanes(x: Tensor) -> Tensor:
    """(16, C, h, w) to (C, h * w, 16)."""
    assert len(x) == SAMPLES
    return x.permute(1, 2, 3, 0).reshape(x.shape[1], -1, SAMPLES).contiguous()


def from_lanes(x: Tensor) -> Tensor:
    """(C, h * w, 16) to (16, C, h, w), h = w."""
    width = round(x.shape[1] ** 0.5)
    return x.permute(2, 0, 1).reshape(SAMPLES, x.shape[0], width, width)
