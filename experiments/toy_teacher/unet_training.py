"""Second half of the toy teacher's training: U-Net and text encoder, by a recipe in which every stage counts.

A plain training puts everything into the 8x8 levels: latents are so small that E3 and D3 can be removed
unnoticed, and a front over their options would mean nothing. Three things make the deep stages work, all
of them gone afterwards (the result is an ordinary UNet2DConditionModel):

- skip-column decay: weights that read the skips into D2, and D3's last skip, shrink by (1 - 60 lr) a step,
  so the picture has to come up through D3 (D1 keeps its skips);
- auxiliary 1x1 heads on E3's second skip and on D3's output that predict the pooled clean latents;
- captions of four content tokens that say what is where, which only cross-attention can tell.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.sampling import add_noise

HEAD_WEIGHT = 2.0
DECAY_PER_LR = 60.0
NULL_SHARE = 0.1


def skip_columns(unet: Any) -> list[tuple[nn.Parameter, int]]:
    """(weight, first skip input channel) of the convolutions whose skip columns decay.

    All layers of D2 and the last one of D3. A decoder layer reads [h, skip] along channels.
    """
    d3, d2 = unet.up_blocks[1], unet.up_blocks[2]
    channels = list(unet.config.block_out_channels)
    chosen = [(d3.resnets[-1], channels[1])]
    own = len(d2.resnets) - 1
    chosen += [(resnet, channels[1] if i < own else channels[0]) for i, resnet in enumerate(d2.resnets)]
    columns = []
    for resnet, num_skip in chosen:
        for conv in (resnet.conv1, resnet.conv_shortcut):
            columns.append((conv.weight, conv.weight.shape[1] - num_skip))
    return columns


class DeepHeads(nn.Module):
    """1x1 heads that predict pooled clean latents from E3's second skip and D3's output."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        channels = unet.config.block_out_channels[2]
        self.e3 = nn.Conv2d(channels, unet.config.in_channels, 1)
        self.d3 = nn.Conv2d(channels, unet.config.in_channels, 1)
        self._seen: dict[str, Tensor] = {}
        unet.down_blocks[2].register_forward_hook(self._keep("e3", lambda out: out[1][1]))
        unet.up_blocks[1].register_forward_hook(self._keep("d3", lambda out: out))

    def _keep(self, name: str, pick: Callable[[Any], Tensor]) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._seen[name] = pick(output)

        return hook

    def loss(self, clean: Tensor, weight: Tensor) -> Tensor:
        """Weighted squared error of both heads in the last forward pass; clean (B, C, h, w), weight (B,)."""
        total = clean.new_zeros(())
        for name, head in (("e3", self.e3), ("d3", self.d3)):
            features = self._seen[name]
            target = functional.adaptive_avg_pool2d(clean, features.shape[-1])
            # Coarse means have a smaller variance than latents: put both heads on one scale.
            error = (head(features) - target).square().mean((1, 2, 3)) / target.var()
            total = total + (weight * error).mean()
        return total


def train_unet(
    unet: Any,
    text_encoder: Any,
    latents: Tensor,
    token_ids: Tensor,
    null_ids: Tensor,
    alphas: Tensor,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    learning_rate: float = 1.5e-3,
    max_seconds: float = math.inf,
    checkpoint: Callable[[int], None] | None = None,
    checkpoint_every: int = 1000,
) -> dict[str, float]:
    """Train in place on scaled latents (N, 4, h, w) and token ids (N, T).

    The learning rate follows the share of steps or of time used, whichever is further. Returns the steps
    done, seconds and the last losses.
    """
    torch.manual_seed(seed)
    heads = DeepHeads(unet)
    networks = [unet, text_encoder, heads]
    for network in networks:
        network.train().requires_grad_(True)
    parameters = [p for network in networks for p in network.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01, fused=True)
    columns = skip_columns(unet)
    generator = torch.Generator().manual_seed(seed)
    snr = alphas / (1 - alphas)
    weights = (1 / snr).clamp(0.5, 2.5)
    weights = weights / weights.mean()
    started = time.monotonic()
    noise_loss = head_loss = 0.0
    step = 0
    while (share := max(step / steps, (time.monotonic() - started) / max_seconds)) < 1:
        lr = learning_rate * min(1.0, (step + 1) / 50) * (0.5 * (1 + math.cos(math.pi * share)) + 1e-3)
        optimizer.param_groups[0]["lr"] = lr
        index = torch.randint(len(latents), (batch_size,), generator=generator)
        t = torch.randint(len(alphas), (batch_size,), generator=generator)
        clean = latents[index]
        noise = torch.randn(clean.shape, generator=generator)
        empty = torch.rand(batch_size, generator=generator) < NULL_SHARE
        ids = torch.where(empty[:, None], null_ids, token_ids[index])
        context = text_encoder(ids)[0]
        output = unet(add_noise(alphas, clean, noise, t), t, encoder_hidden_states=context).sample
        weight = weights[t]
        own = (weight * (output - noise).square().mean((1, 2, 3))).mean()
        auxiliary = heads.loss(clean, weight)
        optimizer.zero_grad(set_to_none=True)
        (own + HEAD_WEIGHT * auxiliary).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            for parameter, first in columns:
                parameter[:, first:].mul_(1 - DECAY_PER_LR * lr)
        step += 1
        keep = 0.99 if step > 100 else 1 - 1 / step
        noise_loss = keep * noise_loss + (1 - keep) * own.item()
        head_loss = keep * head_loss + (1 - keep) * auxiliary.item()
        if step % 200 == 0:
            seconds = time.monotonic() - started
            print(
                f"unet step {step} {seconds:.0f} s lr {lr:.2e} noise {noise_loss:.4f} heads {head_loss:.4f}", flush=True
            )
        if checkpoint is not None and step % checkpoint_every == 0:
            checkpoint(step)
    unet.down_blocks[2]._forward_hooks.clear()
    unet.up_blocks[1]._forward_hooks.clear()
    for network in networks:
        network.eval().requires_grad_(False)
    return {
        "steps": step,
        "seconds": time.monotonic() - started,
        "noise_loss": noise_loss,
        "head_loss": head_loss,
    }
