"""Settings of the fidelity measures; importable without torch."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

#: What `features` may be.
FEATURES_PATTERN = r"^(latents|vae-encoder|unet-encoder|inception:.+|clip:.+)$"
FEATURES_LEGAL = "latents, vae-encoder, unet-encoder, inception:FILE and clip:FOLDER"


class FidelitySettings(BaseModel):
    """How a candidate is compared with the teacher.

    `num_samples` images are sampled for latent_error and taFID, `num_noise_samples` noised data latents
    give noise_error. `guidance` 1 switches classifier-free guidance off and halves the sampling cost.
    `features` is what taFID looks at, see `nas.fidelity.features`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_samples: int = Field(128, ge=2)
    num_noise_samples: int = Field(128, ge=1)
    ddim_steps: int = Field(10, ge=1)
    guidance: float = Field(2.0, ge=1)
    pool_grid: int = Field(4, ge=1)
    batch_size: int = Field(64, ge=1)
    features: str = Field("latents", pattern=FEATURES_PATTERN)

    def of_the_teacher(self) -> dict[str, Any]:
        """What decides the teacher's side of a comparison: the features only look at it."""
        return self.model_dump(exclude={"features"})
