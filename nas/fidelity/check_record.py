"""What the checks of a finished model found; importable without torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Interval = tuple[float, float]


class NoisePoint(BaseModel):
    """Mean noise error of the timesteps around `timestep`, with its 95 % interval."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    timestep: float
    error: float
    low: float | None
    high: float | None


class Likeness(BaseModel):
    """How alike two sets of paired images are; `psnr_db` is None where they are equal."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    psnr_db: float | None
    ssim: float
    perceptual: float
    embedding_cosine: float


class Checks(BaseModel):
    """What `nas.fidelity.checks` finds of one model.

    Attributes:
        intervals: 95 % intervals of latent_error, noise_error and tafid.
        noise_curve: noise error by timestep.
        images: the student's images against the teacher's.
        unrelated: the teacher's against its own from other noise.
        unrelated_latent_error: latent error of the teacher against itself from other noise.
        kernel_distance, kernel_interval: KID over taFID's features, without bias at this number of samples.
        tafid_infinity: taFID extrapolated to infinitely many samples; None where there are fewer than 2 a dimension.
        path_length_ratio, largest_jump_ratio: interpolation between noises, the teacher is 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    intervals: dict[str, Interval]
    features: str
    num_samples: int
    num_images: int
    noise_curve: tuple[NoisePoint, ...]
    images: Likeness
    unrelated: Likeness
    kernel_distance: float
    kernel_interval: Interval
    tafid_infinity: float | None
    unrelated_latent_error: float | None = None
    path_length_ratio: float
    largest_jump_ratio: float
    evaluation_seconds: float
    seconds: float
