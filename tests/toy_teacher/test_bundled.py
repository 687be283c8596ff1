"""The bundled toy teacher: format, size, reconstruction, and that it knows its captions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from experiments.toy_teacher import folder, release_test
from experiments.toy_teacher.card import FILES, card
from experiments.toy_teacher.release_test import SHORTEST, reconstruction_psnr_db
from nas.photos import PHOTOS, crop, vocabulary
from nas.random_teacher import SD15_UNET
from nas.sampling import ddim_sample
from nas.teacher import Teacher, folder_key, load_teacher
from search_spaces.surgery import teacher_candidate

FOLDER = folder()


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return load_teacher(FOLDER)


def test_weights_are_at_most_10_mb() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*.safetensors")) <= 10_000_000
    assert not [path for path in FOLDER.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".ckpt")]


def test_plain_pipeline_loads_it_unchanged() -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("coffee left top near", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[
        0
    ]
    assert image.size == (64, 64)


def test_topology_is_sd15s(teacher: Teacher) -> None:
    for key in ("down_block_types", "up_block_types", "layers_per_block"):
        got, want = teacher.unet.config[key], SD15_UNET[key]
        assert got == want if isinstance(want, int) else list(got) == want
    assert set(SHORTEST) < set(teacher_candidate(teacher.unet).options)
    assert abs(float(teacher.scheduler.config.beta_start) - 0.00085) < 1e-9
    assert teacher.scheduler.config.beta_schedule == "scaled_linear"


def test_reconstruction_reaches_24_db(teacher: Teacher) -> None:
    assert reconstruction_psnr_db(teacher, per_photo=4)[0] >= 24.0


def test_latents_have_unit_variance(teacher: Teacher) -> None:
    x = torch.stack([torch.from_numpy(crop(p, 0.5, 0.5, z, 64).copy()) for p in PHOTOS for z in ("near", "far")])
    latents = teacher.encode_images(x.permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert 0.8 < float(latents.std()) < 1.25


def test_captions_are_whole_words(teacher: Teacher) -> None:
    assert all(len(teacher.tokenizer(word).input_ids) == 3 for word in vocabulary())
    assert len(teacher.tokenizer("coffee left top near").input_ids) <= teacher.num_tokens


def test_sampling_equals_diffusers_loop(teacher: Teacher) -> None:
    noise = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    context = teacher.encode_prompts(["cat left top near", "rocket right lower far"])
    null = teacher.encode_prompts([""])
    scheduler = DDIMScheduler.from_config(teacher.scheduler.config)
    scheduler.set_timesteps(4)
    x = noise
    with torch.no_grad():
        for t in scheduler.timesteps:
            empty = teacher.unet(x, t, encoder_hidden_states=null.expand(2, -1, -1)).sample
            out = teacher.unet(x, t, encoder_hidden_states=context).sample
            x = scheduler.step(empty + 2.0 * (out - empty), t, x, eta=0.0).prev_sample
    ours = ddim_sample(teacher.unet, teacher.scheduler.config, noise, context, null, 4, 2.0)
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-3)


def test_samples_resemble_the_photograph_of_their_caption(teacher: Teacher) -> None:
    """Each sample's colour layout is nearest to its own photograph's crop, for most photographs.

    Nearest by squared distance of 8x8 latents among the twelve crops; chance is 1 in 12.
    """
    words = [photo.word for photo in PHOTOS]
    context = teacher.encode_prompts([f"{word} leftish upper far" for word in words])
    noise = torch.randn((12, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    latents = ddim_sample(teacher.unet, teacher.scheduler.config, noise, context, teacher.encode_prompts([""]), 10, 2.0)
    x = torch.stack([torch.from_numpy(crop(photo, 0.375, 0.375, "far", 64).copy()) for photo in PHOTOS])
    real = teacher.encode_images(x.permute(0, 3, 1, 2).float() / 127.5 - 1)
    nearest = torch.cdist(latents.flatten(1), real.flatten(1)).argmin(1)
    assert int((nearest == torch.arange(12)).sum()) >= 9


def test_card_and_grid_are_there() -> None:
    text = (FOLDER / "README.md").read_text()
    assert all(photo.path.rpartition("/")[2] in text for photo in PHOTOS)
    assert (FOLDER / "samples.png").is_file()
    assert Path(FOLDER / "samples.png").stat().st_size < 600_000


def test_the_card_tells_the_release_test_of_these_weights() -> None:
    measured = Path(release_test.__file__).parent / "measured"
    figures = {name: json.loads((measured / f"{name}.json").read_text()) for name in FILES}
    assert figures["release"]["teacher_key"] == folder_key(FOLDER), "the weights changed: run the release test again"
    assert (FOLDER / "README.md").read_text() == card(FOLDER, figures["vae"], figures["unet"], figures["release"])


@pytest.mark.slow
def test_every_kept_stage_matters(teacher: Teacher) -> None:
    changes = release_test.stage_changes_pct(teacher)
    assert list(changes) == ["E1", "E2", "E3", "D3", "D2", "D1"]
    assert min(change["guidance 1"] for change in changes.values()) >= release_test.MIN_CHANGE_PCT, changes
    assert release_test.reconstruction_psnr_db(teacher)[0] >= release_test.MIN_PSNR_DB
