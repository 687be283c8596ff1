"""What became of each distilled half of a VAE."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class VaeResult(BaseModel):
    """What became of one option of the VAE's encoder (`VE`) or decoder (`VD`).

    `start_loss` and `end_loss` are the losses on the held-out images before and after the training, see
    `nas.distill.vae_losses`; `losses` are about 50 means over its course. `status` `stopped` means a loss or gradient
    that is not finite: `reason` says so, and the option is not in the bank.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    option: str
    key: str
    status: Literal["trained", "bank", "stopped"]
    reason: str | None = None
    num_params: int
    num_steps: int
    start_loss: float | None
    end_loss: float | None
    losses: tuple[float, ...] = ()
