"""Deterministic DDIM sampling and the forward noising, in latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from search_spaces.errors import UserError

_PREDICTIONS = ("epsilon", "v_prediction")


def ddim_scheduler(scheduler_config: Mapping[str, Any]) -> Any:
    """A DDIMScheduler with the betas and the timestep rule of any SD-format scheduler's config.

    Clipping of the predicted clean sample is off: it is meant for pixels in [-1, 1], and a config of
    another scheduler class, such as PNDM's, does not always say so.

    Raises:
        UserError: a prediction type other than noise or velocity.
    """
    from diffusers import DDIMScheduler

    prediction = scheduler_config.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise UserError(
            f"scheduler prediction_type {prediction!r} is not supported; legal are {', '.join(_PREDICTIONS)}"
        )
    keep = {k: v for k, v in scheduler_config.items() if not k.startswith("_")}
    return DDIMScheduler.from_config({**keep, "clip_sample": False, "thresholding": False})


def alphas_cumprod(scheduler_config: Mapping[str, Any]) -> Tensor:
    """Signal power a_t at every training timestep, float32 (num_train_timesteps,)."""
    return ddim_scheduler(scheduler_config).alphas_cumprod.float()


def add_noise(alphas: Tensor, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) eps (DDPM, Ho et al. 2020, equation 4).

    Shapes: alphas (T,), latents and noise (N, C, h, w), timesteps (N,) integers.
    """
    a = alphas.to(latents.device)[timesteps].view(-1, 1, 1, 1)
    return a.sqrt() * latents + (1 - a).sqrt() * noise


class DdimSteps:
    """The steps of a deterministic DDIM sampling (eta 0; Song et al. 2021, equation 12).

    Attributes:
        timesteps: from noise to clean.

    Raises:
        UserError: a number of steps outside the schedule, or an unsupported prediction type.
    """

    def __init__(self, scheduler_config: Mapping[str, Any], num_steps: int) -> None:
        scheduler = ddim_scheduler(scheduler_config)
        total = scheduler.config.num_train_timesteps
        if not 1 <= num_steps <= total:
            raise UserError(f"number of DDIM steps {num_steps} is out of range; legal are 1 to {total}")
        scheduler.set_timesteps(num_steps)
        self.timesteps: list[int] = scheduler.timesteps.tolist()
        self._alphas = scheduler.alphas_cumprod.float()
        self._final = scheduler.final_alpha_cumprod.float()
        self._stride = total // num_steps
        self._velocity = scheduler.config.prediction_type == "v_prediction"

    def step(self, x: Tensor, output: Tensor, t: int) -> Tensor:
        """Latents after the step at `t`, of latents `x` and the network's output there, both (N, C, h, w)."""
        a = self._alphas[t]
        previous = t - self._stride
        a_previous = self._alphas[previous] if previous >= 0 else self._final
        if self._velocity:
            clean = a.sqrt() * x - (1 - a).sqrt() * output
            eps = a.sqrt() * output + (1 - a).sqrt() * x
        else:
            clean = (x - (1 - a).sqrt() * output) / a.sqrt()
            eps = output
        return a_previous.sqrt() * clean + (1 - a_previous).sqrt() * eps


@torch.no_grad()
def ddim_sample(
    unet: Any,
    scheduler_config: Mapping[str, Any],
    noise: Tensor,
    context: Tensor,
    null_context: Tensor,
    num_steps: int,
    guidance: float = 1.0,
) -> Tensor:
    """Sample latents with DDIM, eta 0 (Song et al. 2021, equation 12): the same noise gives the same result.

    Args:
        unet: callable like a diffusers U-Net: ``unet(x, t, encoder_hidden_states=c).sample``.
        scheduler_config: config of the teacher's scheduler.
        noise: starting latents (N, C, h, w), unit variance.
        context: prompt embeddings (N, tokens, dim).
        null_context: embedding of the empty prompt, (1, tokens, dim) or (N, tokens, dim).
        num_steps: number of denoising steps.
        guidance: classifier-free guidance scale; 1 runs the U-Net once a step.

    Returns:
        Scaled latents (N, C, h, w), as :meth:`nas.teacher.Teacher.decode_latents` takes them.

    Raises:
        UserError: a number of steps outside the schedule, or an unsupported prediction type.
    """
    steps = DdimSteps(scheduler_config, num_steps)
    guided = guidance != 1.0
    if guided:
        context = torch.cat([null_context.expand(len(noise), -1, -1), context])
    x = noise
    for t in steps.timesteps:
        inputs = torch.cat([x, x]) if guided else x
        output = unet(inputs, t, encoder_hidden_states=context).sample
        if guided:
            without, with_prompt = output.chunk(2)
            output = without + guidance * (with_prompt - without)
        x = steps.step(x, output, t)
    return x
