"""Images of several models come from the same noise and lie where the report looks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nas.export import ImageSettings, sample_images
from nas.export.images import initial_noise
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.surgery import assemble, teacher_candidate

SETTINGS = ImageSettings(num_steps=2, guidance=2.0, seed=3)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_same_noise_for_every_model(teacher: Any, tmp_path: Path) -> None:
    copy = assemble(teacher.unet, teacher_candidate(teacher.unet))
    other = assemble(teacher.unet, Candidate.from_id("R-R-R-none-R-R-R@3"))
    prompts = ["coins", "a cat"]
    paths = sample_images(
        teacher, {"teacher": teacher.unet, "copy": copy, "fastest": other}, prompts, tmp_path, SETTINGS
    )
    assert paths["fastest"] == [tmp_path / "fastest" / "0.png", tmp_path / "fastest" / "1.png"]
    for a, b, c in zip(paths["teacher"], paths["copy"], paths["fastest"], strict=True):
        assert pixels(a).shape == (64, 64, 3)
        assert (pixels(a) == pixels(b)).all()
        assert (pixels(a) != pixels(c)).any()
    captions = json.loads((tmp_path / "captions.json").read_text())
    assert captions["captions"] == prompts and captions["models"] == ["teacher", "copy", "fastest"]
    assert captions["settings"] == SETTINGS.model_dump()


def test_images_are_those_of_the_diffusers_pipeline(teacher: Any, tmp_path: Path) -> None:
    pipeline = teacher.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    wanted = pipeline(
        "coins",
        num_inference_steps=2,
        guidance_scale=2.0,
        latents=initial_noise(teacher, 1, 3),
        height=64,
        width=64,
        output_type="np",
    ).images[0]
    (path,) = sample_images(teacher, {"teacher": teacher.unet}, ["coins"], tmp_path, SETTINGS)["teacher"]
    assert np.abs(pixels(path) / 255 - wanted).max() <= 0.51 / 255


def test_noise_does_not_depend_on_the_number_of_images(teacher: Any) -> None:
    assert torch.equal(initial_noise(teacher, 4, 1)[:2], initial_noise(teacher, 2, 1))
    assert not torch.equal(initial_noise(teacher, 1, 1), initial_noise(teacher, 1, 2))


def test_wrong_input_is_one_line(teacher: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="prompts: none given"):
        sample_images(teacher, {"teacher": teacher.unet}, [], tmp_path)
    with pytest.raises(UserError, match="is no folder name"):
        sample_images(teacher, {"../x": teacher.unet}, ["coins"], tmp_path)
    broken = assemble(teacher.unet, teacher_candidate(teacher.unet))
    # Its head is the teacher's own, so a stage is broken instead.
    with torch.no_grad():
        next(broken.stages["D1"].parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="model broken gives images that are not finite"):
        sample_images(teacher, {"broken": broken}, ["coins"], tmp_path, SETTINGS)
