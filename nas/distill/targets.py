"""The teacher's side of output-level distillation, computed once and kept on the disk.

Batches are addressed by step, so that the n-th noise prediction of the teacher is the same for every student: however
many are distilled, in however many processes and one after the other, each teacher pass is made once.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nas.atomic import read_tensors, write_tensors
from nas.distill.results import BatchSource
from nas.sampling import add_noise, alphas_cumprod

if TYPE_CHECKING:
    from nas.teacher import Teacher


class StoredTargets:
    """Noise predictions of the teacher for the training batches of any step.

    Args:
        teacher: that predicts.
        batches: source of training batches.
        folder: where files of `steps_per_file` steps are kept; a step takes as many bytes as its batch of
            latents has in float32 (2 MiB at batch 32 of 4 x 64 x 64).
        key: names everything that the batches follow from (data, seed, batch size); the teacher's key is added.
        steps_per_file: that many teacher passes are made at a time.
    """

    def __init__(
        self, teacher: Teacher, batches: BatchSource, folder: Path, key: list[int | str], steps_per_file: int = 25
    ) -> None:
        self._teacher, self._batches, self._folder = teacher, batches, Path(folder)
        self._steps_per_file = steps_per_file
        self._key = json.dumps([1, steps_per_file, teacher.key, *key])
        self._alphas = alphas_cumprod(teacher.scheduler.config)
        self._loaded: tuple[int, Tensor] | None = None
        self.seconds_now = 0.0
        """That this process has spent on teacher passes."""
        self._seconds: dict[int, float] = {}

    @property
    def cost(self) -> tuple[int, float]:
        """Teacher passes behind the files that were needed so far, and their seconds, whoever made them."""
        return self._steps_per_file * len(self._seconds), sum(self._seconds.values())

    def __call__(self, step: int) -> Tensor:
        """The teacher's prediction (B, C, h, w) on the noised latents of step `step`, counted from 0.

        Raises:
            WriteError: the folder is full or cannot be written.
            UserError: a file in it cannot be read.
        """
        number, row = divmod(step, self._steps_per_file)
        if self._loaded is None or self._loaded[0] != number:
            self._loaded = (number, self._file(number))
        return self._loaded[1][row]

    def _file(self, number: int) -> Tensor:
        from filelock import FileLock

        path = self._folder / f"targets-{number:05d}.safetensors"
        found = read_tensors(path, self._key)
        if found is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f".{path.name}.lock")):  # of several workers one makes it, the others wait
                found = read_tensors(path, self._key)
                if found is None:
                    began = time.perf_counter()
                    tensors = {"targets": self._predicted(number * self._steps_per_file)}
                    seconds = time.perf_counter() - began
                    self.seconds_now += seconds
                    found = {"key": self._key, "seconds": f"{seconds:.4f}"}, tensors
                    write_tensors(path, tensors, found[0])
        self._seconds[number] = float(found[0]["seconds"])
        return found[1]["targets"]

    def _predicted(self, start: int) -> Tensor:
        source, targets = self._batches(start), []
        with torch.no_grad():
            for _ in range(self._steps_per_file):
                batch = next(source)
                noisy = add_noise(self._alphas, batch.latents, batch.noise, batch.timesteps)
                targets.append(self._teacher.unet(noisy, batch.timesteps, batch.context, return_dict=False)[0].float())
        return torch.stack(targets)
