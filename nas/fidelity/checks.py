"""The dearer checks of a finished model: what its images look like beside the teacher's, for picks only.

Everything is paired: teacher and student start from the same noise with the same prompts. `unrelated` is the same
measures of the teacher against itself from other noise with the same prompts: where a student with nothing to do with
its teacher's images would stand.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from nas.fidelity.check_record import Checks, Likeness, NoisePoint
from nas.fidelity.features import VaeEncoder
from nas.fidelity.images import image_distances
from nas.fidelity.manifold import embedding_cosine, interpolation_smoothness, sampled_paths
from nas.fidelity.small_samples import frechet_at_infinity, kernel_distance
from nas.fidelity.uncertainty import mean_interval

if TYPE_CHECKING:
    from torch import Tensor

    from nas.fidelity.paired import Fidelity, PairedEvaluator

NUM_IMAGES = 32
NUM_BINS = 8
NUM_PATHS = 4
NUM_POINTS = 9


class Checker:
    """Checks models against one evaluator's teacher; the teacher's images and paths are made once."""

    def __init__(self, evaluator: PairedEvaluator, num_images: int = NUM_IMAGES) -> None:
        self._evaluator = evaluator
        self._num_images = min(num_images, evaluator.settings.num_samples)
        teacher, inputs = evaluator.teacher, evaluator.paired_inputs
        self._embedding = VaeEncoder(teacher)
        self._images = teacher.decode_latents(inputs.latents[: self._num_images])
        self._embedded = self._embedding.of_images(self._images)
        self._unrelated = self._likeness(evaluator.other_latents[: self._num_images])
        apart = (evaluator.other_latents.double() - inputs.latents.double()).square().mean()
        self._unrelated_error = float(apart) / max(evaluator.latent_variance, 1e-12)
        self._path_noise = inputs.noise[: 2 * min(NUM_PATHS, len(inputs.noise) // 2)]
        self._teacher_paths = self._paths(teacher.unet)

    def check(self, unet: Any, fidelity: Fidelity) -> Checks:
        """Compare a U-Net with the teacher; `fidelity` is what the evaluator found of it.

        Raises:
            FidelityError: features that are not finite.
        """
        start = time.perf_counter()
        evaluator = self._evaluator
        latents = evaluator.sample(unet)
        features = evaluator.extractor.of_latents(latents)
        kernel = kernel_distance(features, evaluator.features)
        limit = frechet_at_infinity(features, evaluator.features)
        smooth = interpolation_smoothness(self._paths(unet), self._teacher_paths)
        return Checks(
            intervals=fidelity.intervals,
            features=fidelity.features,
            num_samples=fidelity.num_samples,
            num_images=self._num_images,
            noise_curve=noise_curve(evaluator.paired_inputs.timesteps.numpy(), fidelity.noise_errors),
            images=self._likeness(latents[: self._num_images]),
            unrelated=self._unrelated,
            kernel_distance=kernel.value,
            kernel_interval=kernel.interval,
            tafid_infinity=limit.value if limit is not None else None,
            unrelated_latent_error=self._unrelated_error,
            path_length_ratio=smooth.path_length_ratio,
            largest_jump_ratio=smooth.largest_jump_ratio,
            evaluation_seconds=fidelity.seconds,
            seconds=time.perf_counter() - start,
        )

    def _likeness(self, latents: Tensor) -> Likeness:
        images = self._evaluator.teacher.decode_latents(latents)
        found = image_distances(self._evaluator.teacher.vae, images, self._images)
        cosine = embedding_cosine(self._embedding.of_images(images), self._embedded)
        return Likeness(**found._asdict(), embedding_cosine=cosine)

    def _paths(self, unet: Any) -> npt.NDArray[np.float64]:
        # A path keeps the prompt of the noise that it starts from.
        starts = torch.arange(0, len(self._path_noise), 2).repeat_interleave(NUM_POINTS)
        return sampled_paths(lambda noise: self._evaluator.sample(unet, noise, starts), self._path_noise, NUM_POINTS)


def noise_curve(timesteps: npt.ArrayLike, errors: npt.ArrayLike, num_bins: int = NUM_BINS) -> tuple[NoisePoint, ...]:
    """Noise error by timestep: samples (N,) in the order of timesteps, cut into parts of equal numbers.

    Errors are shares of the variance over all timesteps, so that the mean of the parts, weighted by their numbers, is
    the noise error itself.
    """
    t, e = np.asarray(timesteps, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    points = []
    for rows in np.array_split(np.argsort(t, kind="stable"), min(num_bins, len(t))):
        low, high = mean_interval(e[rows]) or (None, None)
        points.append(NoisePoint(timestep=float(t[rows].mean()), error=float(e[rows].mean()), low=low, high=high))
    return tuple(points)
