"""Paired comparison of a student with the teacher: same noise, same prompts, same timesteps.

Three measures, all 0 for the teacher itself:

noise_error   |eps_s - eps_t|^2 / Var(eps_t) on noised data latents at fixed timesteps.
latent_error  |z_s - z_t|^2 / Var(z_t) of final latents after a short DDIM sampling from the same noise
              with guidance; 1 is a student that always gives the mean, about 2 one whose images have
              nothing to do with the teacher's. This one ranks candidates.
tafid         Frechet distance between features of the student's and of the teacher's samples, pooled latents by
              default (NanoSD, arXiv 2601.09823: teacher-aligned), the student sampled from the teacher's noise.

Small samples: the Frechet distance is biased upwards by about d (d + 5) / (4 N) feature variances for
unrelated samples (d = 64 features at the default grid), so only values with the same N, prompts and
seed compare. `tafid_floor`, teacher against teacher from other noise at the same N, says how large
that bias is; a student below the floor is told apart from the teacher only because sampling is
paired, and its value is no estimate of the distance at infinite N.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from nas.atomic import read_tensors, write_tensors
from nas.fidelity.errors import FidelityError
from nas.fidelity.features import FeatureExtractor, make_features
from nas.fidelity.frechet import feature_distance
from nas.fidelity.settings import FidelitySettings
from nas.fidelity.uncertainty import Interval, jackknife, mean_interval
from nas.sampling import add_noise, alphas_cumprod, ddim_sample

if TYPE_CHECKING:
    from nas.data import LatentDataset
    from nas.fidelity.features import Floats
    from nas.teacher import Teacher

FORMAT_VERSION = 1


class Fidelity(BaseModel):
    """One candidate's distances to the teacher; `seconds` is the wall time of the evaluation.

    Attributes:
        noise_error_interval, latent_error_interval, tafid_interval: 95 % intervals over other noise and prompts,
            taFID's of its expectation at this number of samples; None where that is too small, and in older records.
        tafid_corrected: taFID with the bias of small samples taken off by the jackknife; None below two samples a
            dimension, where that does not hold. Around 0 it may be negative.
        tafid_floor: taFID of the teacher against itself with other noise, at the same number of samples.
        features: what taFID looked at, the extractor's name.
        noise_errors, latent_errors: each sample's share; their means are the measures. Empty in older records.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    noise_error: float
    latent_error: float
    tafid: float
    num_samples: int
    seconds: float
    noise_error_interval: Interval | None = None
    latent_error_interval: Interval | None = None
    tafid_interval: Interval | None = None
    tafid_corrected: float | None = None
    tafid_floor: float | None = None
    features: str = "latents"
    noise_errors: tuple[float, ...] = Field((), repr=False)
    latent_errors: tuple[float, ...] = Field((), repr=False)

    @property
    def intervals(self) -> dict[str, Interval]:
        """The intervals that there are, by measure."""
        found = {name: getattr(self, f"{name}_interval") for name in ("latent_error", "noise_error", "tafid")}
        return {name: interval for name, interval in found.items() if interval is not None}


class PartialFidelity(NamedTuple):
    """What is known of a candidate after a part of the samples."""

    noise_error: float
    latent_error: float
    standard_error: float
    """Of the latent error, as an estimate of that over all samples that could be drawn."""
    num_samples: int


class PairedInputs(NamedTuple):
    """What teacher and student are compared on, and the teacher's side of it.

    Sample i starts from `noise[i]` (C, h, w) with the prompt `contexts[i]` (tokens, dim) and ends, in the teacher, at
    `latents[i]`. Noised data latent i is `noisy[i]` at `timesteps[i]`, again with `contexts[i]`; the teacher's noise
    prediction there is `epsilon[i]`.
    """

    noise: Tensor
    contexts: Tensor
    null_context: Tensor
    latents: Tensor
    noisy: Tensor
    timesteps: Tensor
    epsilon: Tensor


class PairedEvaluator:
    """Measures U-Nets against one teacher on inputs fixed by a seed.

    Args:
        teacher: its U-Net, scheduler and text encoder.
        dataset: latents (N, C, h, w) and captions; prompts are drawn from the captions.
        settings: sample counts and sampler.
        seed: of noise, prompts and timesteps.
        cache: file for the teacher's side; read when it belongs to the same teacher, data, settings and
            seed, else written. Evaluators in other processes then start without a teacher pass.

    Raises:
        FidelityError: the teacher itself gives non-finite values.
        UserError: the cache cannot be written, or the features' weights cannot be read.
    """

    def __init__(
        self,
        teacher: Teacher,
        dataset: LatentDataset,
        settings: FidelitySettings,
        seed: int = 0,
        cache: Path | None = None,
    ) -> None:
        self.teacher, self.settings, self.seed = teacher, settings, seed
        # The teacher's side is the same whatever features look at it.
        parts = [FORMAT_VERSION, teacher.key, dataset.key, settings.of_the_teacher(), seed]
        cache_key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        self.extractor: FeatureExtractor = make_features(settings.features, teacher, settings.pool_grid)
        self.key = cache_key if settings.features == "latents" else f"{cache_key}-{self.extractor.key}"
        self.prompts, self._prompt_index, data_index = self._choose_prompts(list(dataset.captions))
        found = read_tensors(cache, cache_key) if cache is not None else None
        if found is None:
            tensors = self._teacher_side(dataset.latents[data_index].float())
            if cache is not None:
                write_tensors(cache, tensors, {"key": cache_key})
        else:
            tensors = found[1]
        self._fixed = tensors
        self.latent_variance = float(tensors["latents"].var())
        self.noise_variance = float(tensors["epsilon"].var())
        self.features = self.extractor.of_latents(tensors["latents"])
        self.other_features = self.extractor.of_latents(tensors["other_latents"])
        self.tafid_floor = feature_distance(self.features, self.other_features)

    @property
    def noise(self) -> Tensor:
        """Starting noise of the paired samples (num_samples, C, h, w)."""
        return self._fixed["noise"]

    @property
    def other_latents(self) -> Tensor:
        """The teacher's final latents (num_samples, C, h, w) from other noise with the same prompts."""
        return self._fixed["other_latents"]

    @property
    def paired_inputs(self) -> PairedInputs:
        """What both networks are compared on, and what the teacher made of it."""
        fixed = self._fixed
        return PairedInputs(
            noise=fixed["noise"],
            contexts=fixed["contexts"][self._prompt_index],
            null_context=fixed["null_context"],
            latents=fixed["latents"],
            noisy=fixed["noisy"],
            timesteps=fixed["timesteps"],
            epsilon=fixed["epsilon"],
        )

    def evaluate(self, unet: Any) -> Fidelity:
        """All three measures of a U-Net (diffusers' or staged, in eval mode).

        Raises:
            FidelityError: a measure is not finite; names it.
        """
        for found in self.rungs(unet):
            if isinstance(found, Fidelity):
                return found
        raise AssertionError("no samples")

    def rungs(self, unet: Any) -> Iterator[PartialFidelity | Fidelity]:
        """:meth:`evaluate` with stops on the way: after the first batch with a quarter, and with half of the samples.

        Batches, and with them the last value, are those of an evaluation without stops. What comes after a stop is
        only computed when it is asked for.

        Raises:
            FidelityError: as :meth:`evaluate`.
        """
        start = time.perf_counter()
        fixed = self._fixed
        noise_errors = self._shares("noise_error", self._predict(unet), fixed["epsilon"], self.noise_variance)
        total = self.settings.num_samples
        wanted = [total / 4, total / 2]
        parts: list[Tensor] = []
        number = 0
        for latents in self._sampled(unet, fixed["noise"], self._prompt_index):
            parts.append(latents)
            number += len(latents)
            if number < total and wanted and number >= wanted[0]:
                wanted = [each for each in wanted if each > number]
                errors = self.sample_errors(torch.cat(parts))
                yield PartialFidelity(
                    noise_error=float(noise_errors.mean()),
                    latent_error=float(errors.mean()),
                    standard_error=float(errors.std(ddof=1) / np.sqrt(number)),
                    num_samples=number,
                )
        latents = torch.cat(parts)
        latent_errors = self._shares("latent_error", latents, fixed["latents"], self.latent_variance)
        yield self._scored(noise_errors, latent_errors, self.extractor.of_latents(latents), start)

    def noise_error(self, unet: Any) -> float:
        """The first measure alone, at a twentieth of the cost of all.

        Raises:
            FidelityError: it is not finite.
        """
        shares = self._shares("noise_error", self._predict(unet), self._fixed["epsilon"], self.noise_variance)
        return float(shares.mean())

    def sample_errors(self, latents: Tensor) -> NDArray[np.float64]:
        """Each sample's own latent error (n,), of the student's first n final latents; their mean is the error.

        Raises:
            FidelityError: a latent is not finite.
        """
        target = self._fixed["latents"][: len(latents)]
        return np.asarray(self._shares("latent_error", latents, target, self.latent_variance).numpy())

    def _scored(self, noise_errors: Tensor, latent_errors: Tensor, features: Floats, start: float) -> Fidelity:
        """The record of the first n = len(features) samples, from each sample's share of the errors."""
        num, teacher = len(features), self.features
        spread = None
        if num >= 4:
            spread = jackknife(lambda rows: feature_distance(features[rows], teacher[rows]), num)
        return Fidelity(
            noise_error=float(noise_errors.mean()),
            latent_error=float(latent_errors.mean()),
            tafid=spread.value if spread else feature_distance(features, teacher[:num]),
            num_samples=num,
            noise_error_interval=mean_interval(noise_errors.numpy()),
            latent_error_interval=mean_interval(latent_errors.numpy()),
            tafid_interval=spread.interval(least=0.0) if spread else None,
            tafid_corrected=spread.corrected if spread and num >= max(2 * features.shape[1], 16) else None,
            tafid_floor=self.tafid_floor,
            features=self.extractor.name,
            noise_errors=tuple(noise_errors.tolist()),
            latent_errors=tuple(latent_errors.tolist()),
            seconds=time.perf_counter() - start,
        )

    def sample(self, unet: Any, noise: Tensor | None = None, prompts_of: Tensor | None = None) -> Tensor:
        """Final latents (N, C, h, w) of a U-Net from the paired noise, or from `noise`.

        `prompts_of` (N,) are the numbers of the paired samples whose prompts are taken; default is one after the other.
        """
        index = self._prompt_index if prompts_of is None else self._prompt_index[prompts_of]
        return torch.cat(list(self._sampled(unet, self._fixed["noise"] if noise is None else noise, index)))

    def _sampled(self, unet: Any, noise: Tensor, index: Tensor) -> Iterator[Tensor]:
        """Final latents batch by batch."""
        for rows in self._batches(len(noise)):
            yield ddim_sample(
                unet,
                self.teacher.scheduler.config,
                noise[rows],
                self._fixed["contexts"][index[rows]],
                self._fixed["null_context"],
                self.settings.ddim_steps,
                self.settings.guidance,
            )

    def _choose_prompts(self, captions: list[str]) -> tuple[list[str], Tensor, Tensor]:
        """Distinct prompts, the prompt of each sample, and the data row of each sample.

        Whole shuffles of the data before any row comes twice, so that small N covers it evenly.
        """
        generator = torch.Generator().manual_seed(self.seed)
        number = max(self.settings.num_samples, self.settings.num_noise_samples)
        rounds = -(-number // len(captions))
        rows = torch.cat([torch.randperm(len(captions), generator=generator) for _ in range(rounds)])[:number]
        prompts = sorted({captions[int(row)] for row in rows})
        return prompts, torch.tensor([prompts.index(captions[int(row)]) for row in rows]), rows

    def _teacher_side(self, data: Tensor) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self.seed + 1)
        settings, alphas = self.settings, alphas_cumprod(self.teacher.scheduler.config)
        shape, count, total = tuple(data.shape[1:]), settings.num_noise_samples, len(alphas)
        # Every part of the schedule has its share of the samples, in an order that prompts do not follow.
        steps = ((torch.arange(count) + 0.5) * total / count).long()[torch.randperm(count, generator=generator)]
        added = torch.randn(count, *shape, generator=generator)
        fixed = {
            "timesteps": steps,
            "noisy": add_noise(alphas, data[:count], added, steps),
            "noise": torch.randn(settings.num_samples, *shape, generator=generator),
            "contexts": self.teacher.encode_prompts(self.prompts).detach(),
            "null_context": self.teacher.encode_prompts([""]).detach(),
        }
        self._fixed = fixed
        other = torch.randn(settings.num_samples, *shape, generator=generator)
        fixed["epsilon"] = self._predict(self.teacher.unet)
        fixed["latents"] = self.sample(self.teacher.unet)
        fixed["other_latents"] = self.sample(self.teacher.unet, other)
        for name, measure in (("epsilon", "noise_error"), ("latents", "latent_error"), ("other_latents", "tafid")):
            if not bool(torch.isfinite(fixed[name]).all()):
                raise FidelityError(measure, "the teacher's own output; its weights or scheduler are broken")
        return fixed

    def _predict(self, unet: Any) -> Tensor:
        fixed = self._fixed
        with torch.inference_mode():
            parts = [
                unet(fixed["noisy"][rows], fixed["timesteps"][rows], self._context(rows), return_dict=False)[0]
                for rows in self._batches(len(fixed["noisy"]))
            ]
        return torch.cat(parts).clone()

    def _context(self, rows: slice) -> Tensor:
        return self._fixed["contexts"][self._prompt_index[rows]]

    def _batches(self, count: int) -> Iterator[slice]:
        size = self.settings.batch_size
        return (slice(start, min(start + size, count)) for start in range(0, count, size))

    @staticmethod
    def _shares(measure: str, student: Tensor, teacher: Tensor, variance: float) -> Tensor:
        """Each sample's mean squared error (N,) in units of the variance, float64."""
        # Checked before the square, in float64 after it: large finite values must not become infinite.
        if not bool(torch.isfinite(student).all()):
            bad = int((~torch.isfinite(student)).sum())
            raise FidelityError(measure, f"{bad} of {student.numel()} values that the student gives")
        return (student.double() - teacher.double()).square().flatten(1).mean(1) / max(variance, 1e-12)
