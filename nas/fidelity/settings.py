"""Settings of the fidelity measures; importable without torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class FidelitySettings(BaseModel):
    """How a candidate is compared with the teacher.

    `num_samples` images are sampled for latent_error and taFID, `num_noise_samples` noised data latents
    give noise_error. `guidance` 1 switches classifier-free guidance off and halves the sampling cost.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_samples: int = Field(128, ge=2)
    num_noise_samples: int = Field(128, ge=1)
    ddim_steps: int = Field(10, ge=1)
    guidance: float = Field(2.0, ge=1)
    pool_grid: int = Field(4, ge=1)
    batch_size: int = Field(64, ge=1)
