"""The alignment of whole students: its loss by the formula, resumption, the teacher at distance 0 from itself."""

from __future__ import annotations

import pytest
import torch

from nas.distill.align_whole import align_whole, whole_noise_error
from nas.distill.settings import AlignSettings
from nas.distill.vae import student_vae
from search_spaces.candidate import Candidate
from search_spaces.surgery import assemble
from search_spaces.vae import build_vae_stage
from tests.nas.distill.vae_cases import ENCODER, make_images, make_teacher

SETTINGS = AlignSettings(steps=6, batch_size=3, checkpoint_every=2, learning_rate=1e-3, warm_up_steps=1)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def vae_teacher(teacher):
    return make_teacher(teacher)


@pytest.fixture(scope="module")
def images(vae_teacher):
    return make_images(vae_teacher)


@pytest.fixture(scope="module")
def vae(vae_teacher):
    return student_vae(vae_teacher, {ENCODER: build_vae_stage(vae_teacher.vae, *ENCODER)})


@pytest.fixture(scope="module")
def student(vae_teacher):
    return assemble(vae_teacher.unet, Candidate.from_id("R-R-R-none-R-R-R@3"))


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_error_is_the_formula(vae_teacher, images, vae, student):
    """All of it again by hand: schedule, both encoders, both networks."""
    held, rounds = images.held_out, 4
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = torch.cumprod(1 - betas, 0).float()
    generator = torch.Generator().manual_seed(5)
    total = rounds * len(held.rows)
    steps = ((torch.arange(total) + 0.5) * 1000 / total).long()[torch.randperm(total, generator=generator)]
    noise = torch.randn(total, 4, 8, 8, generator=generator)
    a, s = (power[steps].sqrt().view(-1, 1, 1, 1) for power in (alphas, 1 - alphas))
    scale = 0.18215
    context = vae_teacher.encode_prompts(images.captions[: len(held.rows)]).repeat(rounds, 1, 1)
    with torch.no_grad():
        ours = vae.encode(held.images).latent_dist.mean.repeat(rounds, 1, 1, 1)
        theirs = vae_teacher.vae.encode(held.images).latent_dist.mean.repeat(rounds, 1, 1, 1)
        got = student(a * scale * ours + s * noise, steps, context).sample
        expected = vae_teacher.unet(a * scale * theirs + s * noise, steps, context).sample
    error, interval = whole_noise_error(vae_teacher, student, vae, images, seed=5)
    assert error == pytest.approx(float((got - expected).square().mean() / expected.var()), rel=1e-4)
    assert interval is not None and interval[0] < error < interval[1]


def test_the_teacher_is_at_distance_zero_from_itself(vae_teacher, images):
    own = student_vae(vae_teacher, {})
    assert whole_noise_error(vae_teacher, vae_teacher.unet, own, images, seed=0)[0] < 1e-9


def test_students_come_closer_and_nothing_given_changes(tmp_path, vae_teacher, images, vae, student):
    before = [state(each) for each in (student, vae, vae_teacher.unet)]
    settings = SETTINGS.model_copy(update={"steps": 12})
    result = align_whole(vae_teacher, student, vae, images, settings, tmp_path)
    assert result.reason is None and result.num_steps == 12
    errors = [whole_noise_error(vae_teacher, each, vae, images, seed=5)[0] for each in (student, result.student)]
    assert errors[1] < 0.99 * errors[0]
    assert all(same(a, state(b)) for a, b in zip(before, (student, vae, vae_teacher.unet), strict=True))


@pytest.mark.parametrize("killed_after", [5])
def test_resume_is_bit_identical_and_nothing_is_repeated(tmp_path, vae_teacher, images, vae, student, killed_after):
    def kill(done, total, note):
        if done == killed_after:
            raise Killed

    whole = align_whole(vae_teacher, student, vae, images, SETTINGS, tmp_path / "whole")
    with pytest.raises(Killed):
        align_whole(vae_teacher, student, vae, images, SETTINGS, tmp_path / "cut", kill)
    steps = []
    cut = align_whole(
        vae_teacher, student, vae, images, SETTINGS, tmp_path / "cut", lambda done, *_: steps.append(done)
    )
    assert steps == list(range(killed_after // 2 * 2 + 1, 7))
    assert same(state(whole.student), state(cut.student)) and whole.losses == cut.losses
    again = align_whole(vae_teacher, student, vae, images, SETTINGS, tmp_path / "cut", kill)
    assert same(state(again.student), state(cut.student))


def test_a_loss_that_is_not_finite_leaves_the_student_as_it_was(tmp_path, vae_teacher, images, vae, student):
    settings = SETTINGS.model_copy(update={"learning_rate": 1e30})
    result = align_whole(vae_teacher, student, vae, images, settings, tmp_path)
    assert result.reason is not None and result.num_steps < 6
    assert same(state(result.student), state(student))
