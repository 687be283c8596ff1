"""First half of the toy teacher's training: the autoencoder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn import functional

from nas.random_teacher import TOY_VAE


def psnr_db(images: torch.Tensor, reconstructed: torch.Tensor) -> tuple[float, float]:
    """PSNR in dB of (N, 3, H, W) images in [-1, 1]: (of the pooled squared error, mean over images)."""
    error = (images.clamp(-1, 1) - reconstructed.clamp(-1, 1)).square().div(4)
    per_image = error.flatten(1).mean(1)
    return float(-10 * error.mean().log10()), float((-10 * per_image.log10()).mean())


@torch.no_grad()
def reconstruct(vae: Any, images: torch.Tensor) -> torch.Tensor:
    """Decode the posterior mean of (N, 3, H, W) images in [-1, 1]."""
    return torch.cat([vae.decode(vae.encode(x).latent_dist.mean).sample for x in images.split(32)])


def _gradient(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction_loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """L1 + 4 MSE + 0.25 L1 of image gradients (edges, which the first two blur)."""
    dx, dy = _gradient(x - y)
    edges = dx.abs().mean() + dy.abs().mean()
    return (x - y).abs().mean() + 4 * functional.mse_loss(y, x) + 0.25 * edges


def train_vae(
    images: torch.Tensor,
    held_out: torch.Tensor,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    work_dir: Path,
    learning_rate: float = 2e-3,
    max_seconds: float = float("inf"),
) -> Any:
    """Train on (N, 3, 64, 64) uint8 images; keeps an average of the weights in work_dir/vae.safetensors.

    Convolutions run in bfloat16, weights stay float32. Stops at max_seconds with the learning rate
    following the share of time or steps used, whichever is further, so it always ends annealed.
    """
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    vae = AutoencoderKL(**TOY_VAE)
    average = AutoencoderKL(**TOY_VAE)
    average.load_state_dict(vae.state_dict())
    optimizer = torch.optim.AdamW(vae.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    generator = torch.Generator().manual_seed(seed)
    started = time.monotonic()
    running = 0.0
    step = 0
    while True:
        share = max(step / steps, (time.monotonic() - started) / max_seconds)
        if share >= 1:
            break
        warm = min(1.0, (step + 1) / 200)
        lr = learning_rate * warm * (0.5 * (1 + torch.cos(torch.tensor(share * 3.14159265)).item()) + 1e-3)
        optimizer.param_groups[0]["lr"] = lr
        index = torch.randint(len(images), (batch_size,), generator=generator)
        x = images[index].float().div(127.5).sub(1)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            noise = torch.randn(mean.shape, generator=generator)
            y = vae.decode(mean + noise * (0.5 * logvar).exp()).sample.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        loss = reconstruction_loss(x, y) + 1e-5 * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        decay = min(0.998, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(vae.parameters()), 1 - decay)
        running = 0.98 * running + 0.02 * loss.item() if step else loss.item()
        step += 1
        if step % 500 == 0:
            pooled, mean_db = psnr_db(held_out, reconstruct(average, held_out))
            seconds = time.monotonic() - started
            print(
                f"vae step {step} {seconds:.0f} s lr {lr:.2e} loss {running:.4f} "
                f"held-out PSNR {pooled:.2f} dB pooled, {mean_db:.2f} dB mean",
                flush=True,
            )
            save_vae(average, work_dir)
    print(f"vae done: {step} steps, {time.monotonic() - started:.0f} s", flush=True)
    save_vae(average, work_dir)
    result = {"steps": step, "seconds": time.monotonic() - started, "loss": running}
    (work_dir / "vae.json").write_text(json.dumps(result, indent=2) + "\n")
    return average.eval()


def save_vae(vae: Any, work_dir: Path) -> None:
    """Write work_dir/vae.safetensors through a temporary name."""
    path = work_dir / "vae.safetensors"
    save_file({k: v.contiguous() for k, v in vae.state_dict().items()}, path.with_suffix(".part"))
    path.with_suffix(".part").rename(path)
