"""How well a VAE stands in for the teacher's: the teacher itself, and closed forms of what is done to it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nas.data.image_data import ImageData, to_images
from nas.fidelity.images import ssim
from nas.fidelity.vae_quality import vae_quality
from nas.photos import photo_crops
from nas.teacher import Teacher
from search_spaces.vae import StagedVAE, build_vae_stage


class Changed(torch.nn.Module):
    """A half with its output changed."""

    def __init__(self, inner, change):
        super().__init__()
        self.inner, self.change = inner, change

    def forward(self, x):
        return self.change(self.inner(x))


@pytest.fixture(scope="module")
def data(toy: Teacher) -> ImageData:
    pixels = torch.from_numpy(photo_crops(5, seed=3)[0])
    with torch.no_grad():
        posterior = toy.vae.encode(to_images(pixels)).latent_dist
    return ImageData(pixels, posterior.mean, posterior.std, ["a"] * 5, 4)


def vae_of(toy, encoder=None, decoder=None):
    halves = {s: build_vae_stage(toy.vae, s, "teacher", copy=False) for s in ("VE", "VD")}
    for stage, change in (("VE", encoder), ("VD", decoder)):
        if change is not None:
            halves[stage] = Changed(halves[stage], change)
    return StagedVAE.from_parts(toy.vae, dict.fromkeys(halves, "teacher"), halves)


def test_the_teacher_stands_in_for_itself(toy, data):
    found = vae_quality(toy.vae, vae_of(toy), data)
    assert found.num_images == 4 and found.ssim == pytest.approx(1) and found.latent_cosine == pytest.approx(1)
    assert found.psnr_db is None or found.psnr_db > 100
    assert max(found.latent_error, found.std_error, found.perceptual) < 1e-9
    assert found.psnr_to_images_db == pytest.approx(found.teacher_psnr_to_images_db)
    with torch.no_grad():
        decoded = (toy.vae.decode(data.mean[:4]).sample / 2 + 0.5).clamp(0, 1).double().numpy()
    images = data.pixels[:4].permute(0, 3, 1, 2).double().numpy() / 255
    assert found.teacher_psnr_to_images_db == pytest.approx(
        -10 * math.log10(np.mean((decoded - images) ** 2)), rel=1e-4
    )


def test_latents_of_half_the_scale(toy, data):
    def halved(moments):
        mean, log_variance = moments.chunk(2, dim=1)
        return torch.cat([mean / 2, log_variance + 2 * math.log(3)], dim=1)

    found = vae_quality(toy.vae, vae_of(toy, encoder=halved), data)
    mean, std = data.mean[:4].double(), data.std[:4].double()
    assert found.latent_cosine == pytest.approx(1) and found.latent_scale == pytest.approx(0.5)
    assert found.latent_error == pytest.approx(float(mean.square().mean() / 4 / mean.var()), rel=1e-4)
    assert found.std_error == pytest.approx(float((2 * std).square().mean() / mean.var()), rel=1e-3)
    assert found.psnr_db is not None and found.psnr_db < 30


def test_images_that_are_brighter(toy, data):
    found = vae_quality(toy.vae, vae_of(toy, decoder=lambda x: x + 0.1), data)
    with torch.no_grad():
        target = toy.vae.decode(data.mean[:4]).sample
    first, second = ((x / 2 + 0.5).clamp(0, 1) for x in (target + 0.1, target))
    assert found.psnr_db == pytest.approx(-10 * math.log10(float((first - second).square().mean())), rel=1e-4)
    assert found.psnr_db == pytest.approx(-20 * math.log10(0.05), abs=0.5)  # but for what is clipped
    assert found.ssim == pytest.approx(float(ssim(first, second).mean()), rel=1e-5) and found.latent_error < 1e-9
