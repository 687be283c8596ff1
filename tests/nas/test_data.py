"""Photographs, folders of images and batches. Truth: Pillow on the original file, and replay."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas.data import LatentDataset, batches, folder_latents, photo_latents
from nas.photos import COLUMNS, PHOTOS, ROWS, ZOOMS, Photo, crop, photo_crops, photo_path, vocabulary
from nas.random_teacher import write_random_teacher
from nas.teacher import Teacher, load_teacher
from search_spaces.errors import UserError


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    return load_teacher(write_random_teacher("toy", tmp_path_factory.mktemp("teacher") / "toy"))


def test_every_photograph_is_in_its_wheel() -> None:
    for photo in PHOTOS:
        with Image.open(photo_path(photo)) as image:
            assert min(image.size) >= 300
    assert len(PHOTOS) == 12


def test_missing_photograph_is_one_line() -> None:
    with pytest.raises(UserError, match=r"'dog' not found.*scikit-image") as error:
        photo_path(Photo("dog", "skimage", "data/dog.png", ""))
    assert "\n" not in str(error.value)


def test_crops_are_deterministic_and_captions_have_four_known_words() -> None:
    images, captions = photo_crops(26, seed=3, size=32)
    again, captions_again = photo_crops(26, seed=3, size=32)
    assert np.array_equal(images, again) and captions == captions_again
    assert images.shape == (26, 32, 32, 3) and images.dtype == np.uint8
    for i, caption in enumerate(captions):
        photo, column, row, zoom = caption.split()
        assert photo == PHOTOS[i % 12].word and column in COLUMNS and row in ROWS and zoom in ZOOMS
        assert set(caption.split()) <= set(vocabulary())
    # A longer run starts with the shorter one.
    assert np.array_equal(photo_crops(30, seed=3, size=32)[0][:26], images)
    assert not np.array_equal(photo_crops(26, seed=4, size=32)[0], images)


def test_caption_says_where_the_crop_is() -> None:
    photo = PHOTOS[0]
    with Image.open(photo_path(photo)) as image:
        corner = image.convert("RGB").crop((0, 0, 384, 384)).resize((64, 64), Image.Resampling.LANCZOS)
    ours = crop(photo, 0.0, 0.0, "far", 64)
    # At the crop's inner edges the resampling filter may look at what was cut off here.
    assert np.abs(ours[:60, :60].astype(int) - np.asarray(corner)[:60, :60]).max() <= 1
    assert np.array_equal(crop(photo, 0.0, 0.0, "farmirrored", 64), ours[:, ::-1])


def test_batches_can_be_entered_at_any_step(teacher: Teacher) -> None:
    dataset = photo_latents(teacher, 24, seed=0)
    assert dataset.latents.shape == (24, 4, 8, 8) and dataset.key == photo_latents(teacher, 24, seed=0).key
    from_start = list(itertools.islice(batches(dataset, teacher, 5, seed=7), 4))
    from_two = list(itertools.islice(batches(dataset, teacher, 5, seed=7, start_step=2), 2))
    for a, b in zip(from_start[2:], from_two, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(from_start[0].noise, from_start[1].noise)
    other = next(batches(dataset, teacher, 5, seed=8))
    assert not torch.equal(other.noise, from_start[0].noise)
    assert from_start[0].context.shape == (5, teacher.num_tokens, 64)


def test_batch_pairs_latents_with_their_caption_and_a_tenth_is_empty(teacher: Teacher) -> None:
    dataset = photo_latents(teacher, 12, seed=0)
    batch = next(batches(dataset, teacher, 4000, seed=1))
    table = teacher.encode_prompts(["", *dataset.captions])
    position = (batch.latents[:, None] - dataset.latents[None]).flatten(2).abs().sum(2).argmin(1)
    empty = (batch.context - table[0]).flatten(1).abs().amax(1) < 1e-5
    expected = torch.where(empty[:, None, None], table[0], table[1:][position])
    assert torch.allclose(batch.context, expected, atol=1e-5)
    assert abs(float(empty.float().mean()) - 0.1) < 4 * (0.09 / 4000) ** 0.5
    assert int(batch.timesteps.min()) >= 0 and 990 < int(batch.timesteps.max()) <= 999


def test_folder_with_captions_and_a_corrupt_image(teacher: Teacher, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "sub/c.png", "d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "a.txt").write_text("a cat\n")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "sub/c.png", "text": "coffee near"}) + "\n\n")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    content = (tmp_path / "d.png").read_bytes()
    (tmp_path / "d.png").write_bytes(content[: len(content) // 2])
    dataset = folder_latents(teacher, tmp_path, 7, seed=0)
    assert len(dataset) == 7 and sorted(dataset.skipped) == ["broken.png", "d.png"]
    assert sorted(dataset.captions[:3]) == ["", "a cat", "coffee near"]
    assert folder_latents(teacher, tmp_path, 7, seed=0).key == dataset.key
    # The first pass takes centre squares: the same latents as encoding them by hand.
    centre = Image.open(tmp_path / "a.png").resize((64, 64), Image.Resampling.LANCZOS, (15, 0, 105, 90))
    x = torch.from_numpy(np.array(centre)).permute(2, 0, 1)[None].float() / 127.5 - 1
    row = dataset.captions.index("a cat")
    assert torch.allclose(dataset.latents[row], teacher.encode_images(x)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda p: None, "holds no images"),
        (lambda p: (p / "x.png").write_bytes(b"no"), "none of its 1 images can be read"),
        (
            lambda p: [(p / "x.png").write_bytes(b"no"), (p / "metadata.jsonl").write_text("{}")],
            "line 1 is not a caption",
        ),
    ],
)
def test_unusable_folder_is_one_line(teacher: Teacher, tmp_path: Path, prepare: object, message: str) -> None:
    prepare(tmp_path)  # type: ignore[operator]
    with pytest.raises(UserError, match=message) as error:
        folder_latents(teacher, tmp_path, 4, seed=0)
    assert "\n" not in str(error.value)


def test_bad_numbers_and_places(teacher: Teacher, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        folder_latents(teacher, tmp_path / "no", 4, seed=0)
    with pytest.raises(UserError, match="at least 1"):
        photo_crops(0, seed=0)
    with pytest.raises(UserError, match="at least 1"):
        batches(LatentDataset(torch.zeros(1, 4, 8, 8), [""]), teacher, 0, seed=0)
