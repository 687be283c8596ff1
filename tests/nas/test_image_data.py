"""Images for the VAE's distillation: held out by image, made once, and the same bits whether made or read back."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nas.data.image_data import ImageData, cached_images
from nas.data.images import folder_source
from nas.data.sources import Place
from nas.data.teacher_made import TeacherSource
from search_spaces.errors import UserError


def folder_of(path: Path, num: int, size: int = 80) -> Path:
    path.mkdir()
    for i in range(num):
        pixels = np.random.default_rng(i).integers(256, size=(size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{i}.png")
        (path / f"{i}.txt").write_text(f"photo {i}")
    return path


def taken(teacher: Any, folder: Path, path: Path, num: int) -> ImageData:
    return cached_images(path, "key", lambda: folder_source(folder, teacher.image_size, 0), teacher, num)


def test_no_crop_of_an_image_that_is_held_out_is_trained_on(tmp_path: Path, toy_teacher: Any) -> None:
    data = taken(toy_teacher, folder_of(tmp_path / "images", 8), tmp_path / "cache", 20)
    assert data.num_held_out == 2  # a fourth of eight
    held, others = set(data.captions[:2]), data.captions[2:]
    assert len(held) == 2 and not held & set(others)
    assert set(others) == {f"photo {i}" for i in range(8)} - held and len(others) > 6  # later crops of the others
    for step in range(5):
        rows = next(data.batches(4, 0, step)).rows
        assert int(rows.min()) >= 2 and int(rows.max()) < len(data.captions)


def test_made_and_read_back_are_the_same_to_the_last_bit_and_stride(tmp_path: Path, toy_teacher: Any) -> None:
    folder = folder_of(tmp_path / "images", 4)
    made = taken(toy_teacher, folder, tmp_path / "cache", 5)
    for path in folder.iterdir():
        path.unlink()  # it is not looked at again
    read = taken(toy_teacher, folder, tmp_path / "cache", 5)
    assert made.key == read.key and made.captions == read.captions
    for one, other in zip(
        (*next(made.batches(3, 7, 2)), *made.held_out), (*next(read.batches(3, 7, 2)), *read.held_out), strict=True
    ):
        assert torch.equal(one, other) and one.stride() == other.stride()
    posterior = toy_teacher.vae.encode(read.held_out.images).latent_dist
    torch.testing.assert_close(read.held_out.mean, posterior.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(read.held_out.std, posterior.std, rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match="no images"):
        taken(toy_teacher, folder, tmp_path / "cache", 6)  # another number is another file


def test_batches_depend_on_seed_and_step_alone(tmp_path: Path, toy_teacher: Any) -> None:
    data = taken(toy_teacher, folder_of(tmp_path / "images", 6), tmp_path / "cache", 6)
    source = data.batches(2, 1)
    first, second = next(source), next(source)
    for one, other in zip(second, next(data.batches(2, 1, 1)), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first.noise, second.noise)
    assert not torch.equal(first.noise, next(data.batches(2, 2)).noise)


def test_latents_that_the_teacher_made_become_its_images(tmp_path: Path, toy_teacher: Any) -> None:
    source = TeacherSource(toy_teacher, ("coffee left top near",), 0, ddim_steps=1, guidance=1.0)
    data = cached_images(tmp_path / "cache", "key", lambda: source, toy_teacher, 3)
    latents = torch.stack([item.value for item in itertools.islice(source.items(Place()), 3)])
    expected = toy_teacher.decode_latents(latents).permute(0, 2, 3, 1) * 255
    assert data.num_held_out == 1
    assert float((data.pixels.float() - expected).abs().max()) <= 0.51


def test_one_image_is_too_few(tmp_path: Path, toy_teacher: Any) -> None:
    with pytest.raises(UserError, match="there is 1 different image"):
        taken(toy_teacher, folder_of(tmp_path / "images", 1), tmp_path / "cache", 4)
