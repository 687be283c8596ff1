"""Modules to ONNX files: for measuring, and for the export of finished variants."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 17


def export_onnx(
    module: nn.Module,
    inputs: Sequence[Tensor],
    path: Path,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
) -> Path:
    """Writes `module(*inputs)` (in eval mode) as an ONNX file and returns its path.

    Parameters
    ----------
    inputs: example tensors; their shapes are the graph's, except for `dynamic_axes`
        (name -> {axis: symbol}).
    path: the file; the weights of a graph above protobuf's 2 GB go to `path` + ".data" beside it.

    The TorchScript exporter is used: it takes about a tenth of the time of the dynamo one on these
    graphs, and nothing in a U-Net needs more than tracing. Nothing is printed. Both files appear
    under their names only when complete.
    """
    import torch

    assert not module.training, "a graph to measure or ship is exported in eval mode"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as scratch:
        target = Path(scratch) / path.name
        with quiet_exporter(), torch.no_grad():
            torch.onnx.export(
                module,
                tuple(inputs),
                str(target),
                input_names=list(input_names),
                output_names=list(output_names),
                dynamic_axes={k: dict(v) for k, v in (dynamic_axes or {}).items()},
                opset_version=OPSET,
                dynamo=False,
            )
        # Above 2 GB the exporter leaves one file per tensor: gather them into one.
        if any(other != target for other in Path(scratch).iterdir()):
            target = _gather(target, Path(scratch) / "gathered", path.name)
            os.replace(data_path(target), data_path(path))
        os.replace(target, path)
    return path


def data_path(path: Path) -> Path:
    """Where the weights of a graph above 2 GB lie."""
    return path.with_name(path.name + ".data")


def graph_bytes(path: Path) -> int:
    """Size of an exported graph with its weights; 0 if there is none."""
    return sum(file.stat().st_size for file in (path, data_path(path)) if file.is_file())


def remove_onnx(path: Path) -> None:
    """Deletes an exported graph and, if there is one, its weights file."""
    path.unlink(missing_ok=True)
    data_path(path).unlink(missing_ok=True)


def _gather(scattered: Path, folder: Path, name: str) -> Path:
    import onnx

    model = onnx.load(str(scattered))
    for other in scattered.parent.iterdir():
        if other.is_file():
            other.unlink()  # the disk need not hold the weights twice
    folder.mkdir()
    gathered = folder / name
    onnx.save_model(
        model,
        str(gathered),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=data_path(gathered).name,
        size_threshold=1024,
    )
    return gathered


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silences the exporter's tracer and deprecation warnings: the traced shapes are the measured ones."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
