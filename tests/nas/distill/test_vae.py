"""VAE students: losses in closed form, training that goes on after a kill, and halves that fit the teacher's."""

from __future__ import annotations

import copy
import os
import random
import select
import signal
import time

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from nas.block_bank import BlockBank
from nas.distill.settings import VaeSettings
from nas.distill.vae import distill_vae, load_vae_stages, student_vae
from nas.distill.vae_losses import decoder_loss, encoder_loss, perceptual_maps
from nas.fidelity.images import perceptual_distance
from search_spaces.errors import UserError
from tests.nas.distill.vae_cases import BLOCKS, DECODER, ENCODER, make_images, make_teacher

SETTINGS = VaeSettings(steps=6, batch_size=3, checkpoint_every=2, learning_rate=2e-3, warm_up_steps=1)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def vae_teacher(teacher):
    return make_teacher(teacher)


@pytest.fixture(scope="module")
def images(vae_teacher):
    return make_images(vae_teacher)


def run(teacher, images, folder, blocks=BLOCKS, on_progress=None, settings=SETTINGS):
    return distill_vae(teacher, blocks, images, settings, BlockBank(folder / "bank"), folder / "work", on_progress)


def stored(folder):
    return {path.name: path.read_bytes() for path in (folder / "bank").iterdir() if path.suffix != ".tmp"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, vae_teacher, images):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(vae_teacher, images, folder)


def test_losses_are_those_of_the_paper(vae_teacher):
    generator = torch.Generator().manual_seed(0)
    output, target = (torch.randn(3, 8, 4, 4, generator=generator) for _ in range(2))
    own, other = DiagonalGaussianDistribution(output), DiagonalGaussianDistribution(target)
    expected = ((own.mean - other.mean) ** 2).mean() + ((own.std - other.std) ** 2).mean()
    got = encoder_loss(output, other.mean, other.std, torch.tensor(4.0))
    assert float(got) == pytest.approx(float(expected) / 4)
    assert float(encoder_loss(target, other.mean, other.std, torch.tensor(4.0))) == pytest.approx(0, abs=1e-12)

    a, b = (torch.rand(2, 3, 16, 16, generator=generator) for _ in range(2))
    maps = perceptual_maps(vae_teacher.vae, b * 2 - 1)
    got = decoder_loss(vae_teacher.vae, a * 2 - 1, b * 2 - 1, maps, 0.5)
    far = perceptual_distance(vae_teacher.vae, a, b).mean()
    assert float(got) == pytest.approx(2 * float((a - b).abs().mean()) + 0.5 * far, rel=1e-5)
    assert float(decoder_loss(vae_teacher.vae, a, b, [], 0)) == pytest.approx(float((a - b).abs().mean()))


def test_students_learn_and_none_depends_on_the_others(tmp_path, vae_teacher, images, whole):
    folder, results = whole
    longer = SETTINGS.model_copy(update={"steps": 30})
    for result in run(vae_teacher, images, tmp_path / "longer", settings=longer).values():
        assert result.status == "trained" and result.num_steps == 30 and len(result.losses) == 30
        assert result.end_loss < 0.95 * result.start_loss
    for block in BLOCKS:
        alone = run(vae_teacher, images, tmp_path / block[0], [block])
        assert alone == {block: results[block]}
        assert stored(tmp_path / block[0]).items() <= stored(folder).items()
    assert {r.status for r in run(vae_teacher, images, folder).values()} == {"bank"}
    assert not list((folder / "work").iterdir())


def test_what_was_trained_alone_waits_for_another(tmp_path, vae_teacher, images, whole):
    """A killed training of one half, then one of both: nothing of the first is done again or lost."""
    steps = []

    def kill(done, total, note):
        if done == 5:
            raise Killed

    with pytest.raises(Killed):
        run(vae_teacher, images, tmp_path, [ENCODER], kill)
    run(vae_teacher, images, tmp_path, on_progress=lambda done, total, note: steps.append(note))
    assert ["VE" in note for note in steps[:6]] == [False] * 4 + [True] * 2  # its checkpoint was of step 4
    assert stored(tmp_path) == stored(whole[0])


def test_a_loss_that_is_not_finite_stops_one_half_alone(tmp_path, vae_teacher, images, whole):
    broken = make_teacher(vae_teacher._base)
    broken.vae = copy.deepcopy(vae_teacher.vae)
    with torch.no_grad():
        broken.vae.decoder.conv_out.bias[0] = torch.nan
    results = run(broken, images, tmp_path)
    assert results[ENCODER] == whole[1][ENCODER]
    assert results[DECODER].status == "stopped" and "loss is nan at step 1" in results[DECODER].reason
    bank = BlockBank(tmp_path / "bank")
    assert not bank.has(results[DECODER].key) and bank.has(results[ENCODER].key)
    with pytest.raises(UserError, match=r"VD 4x1.6x1 could not be trained: loss is nan at step 1; lower vae"):
        load_vae_stages(broken, results, bank)


def test_every_mix_of_halves_works_and_keeps_the_scale(vae_teacher, images, whole):
    folder, results = whole
    stages = load_vae_stages(vae_teacher, results, BlockBank(folder / "bank"))
    x, teacher = images.held_out.images, vae_teacher.vae
    z = images.held_out.mean
    with torch.no_grad():
        own_mean = stages[ENCODER](x).chunk(2, dim=1)[0]
        for chosen in ([], [ENCODER], [DECODER], BLOCKS):
            vae = student_vae(vae_teacher, {block: stages[block] for block in chosen})
            mean = own_mean if ENCODER in chosen else z
            torch.testing.assert_close(vae.encode(x).latent_dist.mean, mean)
            decoded = stages[DECODER](z) if DECODER in chosen else teacher.decode(z).sample
            torch.testing.assert_close(vae.decode(z).sample, decoded)
            assert vae.decode(mean).sample.shape == x.shape
            assert vae.config.scaling_factor == teacher.config.scaling_factor


def test_options_that_this_vae_cannot_have(tmp_path, vae_teacher, images):
    with pytest.raises(UserError, match="has 3 levels, but the teacher's VAE has 2"):
        run(vae_teacher, images, tmp_path, [("VE", "4x1.4x1.4x1")])
    assert not (tmp_path / "bank").exists()


def killed(teacher, images, folder, steps, delay_s):
    """Run in a child that is killed so long after so many steps; whether that was before its end."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.write(writer, b".")
            run(teacher, images, folder, on_progress=lambda *args: os.write(writer, b"."))
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    heard = 0
    while heard <= steps and select.select([reader], [], [], 60)[0] and os.read(reader, 1):
        heard += 1
    time.sleep(delay_s)
    os.kill(pid, signal.SIGKILL)
    os.close(reader)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed by itself"
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("num_kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_training_ends_as_an_uninterrupted_one(tmp_path, vae_teacher, images, whole, num_kills):
    rng = random.Random(num_kills)
    start = time.monotonic()
    run(vae_teacher, images, tmp_path / "timed")
    a_step = (time.monotonic() - start) / SETTINGS.steps
    in_time = 0
    for kill in range(num_kills):
        folder = tmp_path / f"{kill}"
        in_time += killed(vae_teacher, images, folder, rng.randrange(SETTINGS.steps), rng.random() * a_step)
        run(vae_teacher, images, folder)
        assert stored(folder) == stored(whole[0]), f"kill {kill}"
    assert in_time >= num_kills // 2  # most moments are before the end
