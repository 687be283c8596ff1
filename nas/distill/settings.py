"""Settings of the trainings; importable without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

# Fields that came after the first banks: part of a block's key only where they differ from their default.
_LATER = ("precision", "ema", "plateau_steps")


class DistillSettings(BaseModel):
    """Feature-wise generative distillation of the surrogate blocks.

    `max_parallel` bounds how many blocks are in memory at once (each costs 16 bytes a parameter); the
    blocks then train in several passes. It, `device`, `channels_last`, `compile` and `checkpointing`
    change cost, and results by rounding at most, so they are in no key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(250, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(4e-3, gt=0)
    warm_up_steps: int = Field(10, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, gt=0)
    seed: int = 0
    checkpoint_every: int = Field(50, ge=1)
    max_parallel: int | None = Field(None, ge=1)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    ema: float | None = Field(None, gt=0, lt=1)
    plateau_steps: int | None = Field(None, ge=1)
    device: str = "cpu"
    channels_last: bool = False
    compile: bool = False
    checkpointing: bool = False

    def recipe(self) -> dict[str, float | int | str]:
        """What decides a block's weights: the settings without those that only affect cost and safety."""
        fields = type(self).model_fields
        later = {name for name in _LATER if getattr(self, name) == fields[name].default}
        cost = {"checkpoint_every", "max_parallel", "device", "channels_last", "compile", "checkpointing"}
        return self.model_dump(exclude=cost | later)


class AlignSettings(BaseModel):
    """Output-level distillation of assembled students.

    The low default learning rate is measured: 1e-3 makes candidates that are already close worse. 0 steps
    leave the students as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(100, ge=0)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(3e-4, gt=0)
    warm_up_steps: int = Field(5, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, gt=0)
    seed: int = 0
    checkpoint_every: int = Field(50, ge=1)

    def recipe(self) -> dict[str, float | int]:
        """The settings that decide the weights."""
        return self.model_dump(exclude={"checkpoint_every"})


class VaeSettings(BaseModel):
    """Distillation of VAE encoders and decoders; `device` changes results by rounding at most and is in no key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(1000, ge=1)
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    perceptual_weight: float = Field(0.25, ge=0)
    warm_up_steps: int = Field(20, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, gt=0)
    seed: int = 0
    checkpoint_every: int = Field(50, ge=1)
    device: str = "cpu"

    def recipe(self) -> dict[str, float | int]:
        """The settings that decide the weights."""
        return self.model_dump(exclude={"checkpoint_every", "device"})
