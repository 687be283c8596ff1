"""Inputs of a graph as a file: how they get to a process that quantises it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_predictors.runners.base import Sample

_COUNT = "num_samples"


def write_samples(path: Path, samples: Sequence[Sample]) -> Path:
    """Writes samples (each name -> array) as one safetensors file, in order."""
    from safetensors.numpy import save

    # Not ascontiguousarray, which makes a vector of a single number.
    tensors = {f"{i}/{name}": np.asarray(value, order="C") for i, s in enumerate(samples) for name, value in s.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    # Not save_file, which does not say that a disk is full in the way that the system does.
    temporary.write_bytes(save(tensors, metadata={_COUNT: str(len(samples))}))
    temporary.replace(path)
    return path


def read_samples(path: Path) -> list[dict[str, NDArray[Any]]]:
    """The samples of :func:`write_samples`, in order; one without inputs is empty."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        samples: list[dict[str, NDArray[Any]]] = [{} for _ in range(int(file.metadata()[_COUNT]))]
        for key in file.keys():  # noqa: SIM118 - not a mapping
            index, _, name = key.partition("/")
            samples[int(index)][name] = file.get_tensor(key)
    return samples
