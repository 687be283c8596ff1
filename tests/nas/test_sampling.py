"""DDIM sampling. Truth: diffusers' own scheduler, and closed forms."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from torch import Tensor

from nas.random_teacher import SCHEDULER
from nas.sampling import add_noise, alphas_cumprod, ddim_sample
from search_spaces.errors import UserError


def network(x: Tensor, t: Any, encoder_hidden_states: Tensor) -> SimpleNamespace:
    """A smooth stand-in function of all three inputs."""
    shift = encoder_hidden_states.mean((1, 2)).view(-1, 1, 1, 1)
    return SimpleNamespace(sample=torch.tanh(0.7 * x + shift) + 0.001 * float(t))


@pytest.mark.parametrize("steps", [1, 7, 10, 50])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize(
    "change", [{}, {"prediction_type": "v_prediction"}, {"set_alpha_to_one": True, "steps_offset": 0}]
)
def test_equals_the_schedulers_own_loop(steps: int, guidance: float, change: dict[str, Any]) -> None:
    config = {**SCHEDULER, **change}
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((3, 4, 8, 8), generator=generator)
    context, null = torch.randn((3, 5, 6), generator=generator), torch.randn((1, 5, 6), generator=generator)
    scheduler = DDIMScheduler(**config)
    scheduler.set_timesteps(steps)
    x = noise
    for t in scheduler.timesteps:
        out = network(x, t, context).sample
        if guidance != 1:
            empty = network(x, t, null.expand(3, -1, -1)).sample
            out = empty + guidance * (out - empty)
        x = scheduler.step(out, t, x, eta=0.0).prev_sample
    ours = ddim_sample(network, config, noise, context, null, steps, guidance)
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-5)


def test_takes_the_config_of_another_scheduler_without_clipping() -> None:
    config = dict(PNDMScheduler(**{k: v for k, v in SCHEDULER.items() if k != "clip_sample"}).config)
    noise = 10 * torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    context = torch.zeros(1, 2, 3)
    expected = ddim_sample(network, SCHEDULER, noise, context, context, 5)
    assert torch.equal(ddim_sample(network, config, noise, context, context, 5), expected)


def test_a_perfect_denoiser_finds_the_clean_latents() -> None:
    """If the network knows the clean sample, DDIM must end close to it, whatever the noise."""
    clean = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    alphas = alphas_cumprod(SCHEDULER)

    def oracle(x: Tensor, t: int, encoder_hidden_states: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=(x - alphas[t].sqrt() * clean) / (1 - alphas[t]).sqrt())

    noise = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(2))
    context = torch.zeros(2, 1, 1)
    result = ddim_sample(oracle, {**SCHEDULER, "set_alpha_to_one": True}, noise, context, context, 20)
    torch.testing.assert_close(result, clean, rtol=1e-3, atol=1e-3)


def test_forward_noising() -> None:
    alphas = alphas_cumprod(SCHEDULER)
    latents, noise = torch.randn(2, 5, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    t = torch.tensor([0, 1, 250, 500, 999])
    noisy = add_noise(alphas, latents, noise, t)
    scheduler = DDIMScheduler(**SCHEDULER)
    torch.testing.assert_close(noisy, scheduler.add_noise(latents, noise, t))


@pytest.mark.parametrize("steps", [0, 1001])
def test_steps_out_of_range(steps: int) -> None:
    x = torch.zeros(1, 4, 8, 8)
    with pytest.raises(UserError, match="legal are 1 to 1000"):
        ddim_sample(network, SCHEDULER, x, x[0], x[0], steps)


def test_unknown_prediction_type() -> None:
    with pytest.raises(UserError, match="prediction_type 'sample'"):
        alphas_cumprod({**SCHEDULER, "prediction_type": "sample"})
