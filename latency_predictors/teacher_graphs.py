"""Graphs to measure: those of a teacher and a search space, and ONNX files that somebody has."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from latency_predictors.graphs import data_path, export_onnx
from latency_predictors.runners.base import Sample
from latency_predictors.subjects import Exportable, Subjects, option_subject
from search_spaces.errors import UserError
from search_spaces.vae_option import VAE_ENCODER, VAE_STAGES

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


#: From here on memory holds few networks at a time.
_LARGE_PARAMS = 100_000_000


class TeacherGraphs:
    """Graphs (see measuring.Graphs) of a teacher's subjects by name.

    "base", a stage option ("E1/RA"), half a VAE ("VD/teacher"; needs `vae`), the id of a U-Net, or an operator of
    `operators` (see operators.find_operators).
    """

    def __init__(
        self,
        subjects: Subjects,
        vae: AutoencoderKL | None = None,
        operators: Mapping[str, Callable[[], Exportable]] | None = None,
    ) -> None:
        self._subjects, self._vae, self._operators = subjects, vae, operators or {}

    @property
    def primers(self) -> Sequence[str]:
        """A whole U-Net of moderate size; before it one of its stages, where U-Nets are so large that groups are small.

        Every pass over a group runs the reference too: of SD 1.5's shapes a whole U-Net took two thirds of each.
        """
        primer, subjects = self._subjects.primer, self._subjects
        if sum(subjects.num_params(*chosen) for chosen in primer.options.items()) < _LARGE_PARAMS:
            return [primer.id]
        return [option_subject("E3", "RA"), primer.id]

    def write(self, name: str, path: Path) -> Sequence[Sample]:
        """Exports a subject; its example inputs."""
        module, inputs, input_names, output_names = self._build(name)
        export_onnx(module, inputs, path, input_names, output_names)
        return [{key: value.numpy() for key, value in zip(input_names, inputs, strict=True)}]

    def _build(self, name: str) -> Exportable:
        if name in self._operators:
            return self._operators[name]()
        stage, _, option = name.partition("/")
        if stage in VAE_STAGES:
            return self._build_half(stage, option)
        return self._subjects.build(name)

    def _build_half(self, stage: str, option: str) -> Exportable:
        from latency_predictors.subjects import ready
        from search_spaces.vae import build_vae_stage, num_vae_levels

        assert self._vae is not None, "half a VAE needs the teacher's"
        config, size = self._vae.config, self._subjects.latent_size
        pixels = size * 2 ** (num_vae_levels(self._vae) - 1)
        shape = (1, config.in_channels, pixels, pixels)
        if stage != VAE_ENCODER:
            shape = (1, config.latent_channels, size, size)
        module = ready(build_vae_stage(self._vae, stage, option, copy=next(self._vae.parameters()).is_meta))
        inputs = (torch.randn(shape, generator=torch.Generator().manual_seed(0)),)
        names = ("image", "moments") if stage == VAE_ENCODER else ("latent", "image")
        return module, inputs, names[:1], names[1:]


class FileGraphs:
    """ONNX files as they are (name -> path); inputs are standard normal, integers ones, from a fixed seed.

    Raises:
        UserError: a file that is not there.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        for path in files.values():
            if path.is_dir():
                raise UserError(f"ONNX file {path}: is a folder; give a file in it")
            if not path.is_file():
                raise UserError(f"ONNX file {path}: there is no such file; give one that is exported")
        self._files = dict(files)

    @property
    def primers(self) -> Sequence[str]:
        """The files, smallest first."""
        return sorted(self._files, key=lambda name: self._files[name].stat().st_size)

    def digest(self, name: str) -> str:
        """SHA-256 of the file and of the files that its weights are in.

        Raises:
            UserError: weights that are not there. A file that is no graph is hashed as it is.
        """
        import onnx
        from onnx.external_data_helper import ExternalDataInfo, uses_external_data

        source = self._files[name]
        try:
            weights = onnx.load(str(source), load_external_data=False).graph.initializer
            places = {ExternalDataInfo(weight).location for weight in weights if uses_external_data(weight)}
        except Exception:  # protobuf's own, for which there are no types
            places = set()
        sha = hashlib.sha256()
        for file in (source, *(source.parent / place for place in sorted(places))):
            if not file.is_file():
                raise UserError(f"ONNX file {source}: its weights {file} are not there; put them beside it")
            with file.open("rb") as opened:
                sha.update(hashlib.file_digest(opened, "sha256").digest())
        return sha.hexdigest()

    def write(self, name: str, path: Path) -> Sequence[Sample]:
        """Copies the file, with weights that lie beside it; inputs that fit."""
        import onnx
        import psutil

        source = self._files[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            model = onnx.load(str(source))
        except Exception as error:  # protobuf's errors, and those of weights that do not lie beside the file
            reason = " ".join(str(error).split())
            raise UserError(f"ONNX file {source} cannot be read: {reason}; export it again") from None
        shapes = {
            value.name: (value.type.tensor_type.elem_type, [d.dim_value or 1 for d in value.type.tensor_type.shape.dim])
            for value in model.graph.input
            if value.name not in {weight.name for weight in model.graph.initializer}
        }
        if model.ByteSize() < 2_000_000_000:
            onnx.save(model, str(path))
        else:
            location = data_path(path).name
            onnx.save(model, str(path), save_as_external_data=True, location=location)
        num_bytes = sum(8 * math.prod(shape) for _, shape in shapes.values())
        if num_bytes > (free := psutil.virtual_memory().available):
            raise UserError(
                f"ONNX file {source}: its inputs take {num_bytes / 1e9:,.0f} GB as they are drawn, and "
                f"{free / 1e9:,.0f} GB of memory are free here; export it with smaller inputs"
            )
        rng = np.random.default_rng(0)
        sample = {}
        for key, (kind, shape) in shapes.items():
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
            is_float = np.issubdtype(dtype, np.floating)
            sample[key] = (rng.standard_normal(shape) if is_float else np.ones(shape)).astype(dtype)
        return [sample]
