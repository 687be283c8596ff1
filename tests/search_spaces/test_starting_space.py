"""A first search space fits the teacher that it was written for, whatever is uncommented."""

import re
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from search_spaces.errors import UserError
from search_spaces.space_file import parse_space
from search_spaces.stage_costs import check_space
from search_spaces.starting_space import starting_space
from search_spaces.surgery import teacher_candidate

TEACHERS: dict[str, dict[str, Any]] = {
    "sd15": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": {
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "toy": {
        "block_out_channels": (16, 32, 64, 64),
        "norm_num_groups": 8,
        "cross_attention_dim": 64,
        "attention_head_dim": 4,
    },
    # SDXL's shape without its extra conditioning: no attention at full resolution, deeper transformers below.
    "three-levels": {
        "block_out_channels": (32, 64, 96),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 4),
        "norm_num_groups": 16,
        "cross_attention_dim": 32,
        "attention_head_dim": (1, 2, 3),
    },
    "one-layer-blocks": {"block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 32,
                         "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
                         "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")},
}  # fmt: skip


def uncommented(text: str) -> str:
    """Take the # away from every decision of the U-Net's stages."""
    return re.sub(r"^    # (\w+: \[)", r"    \1", text, flags=re.MULTILINE)


@pytest.mark.parametrize("name", TEACHERS)
def test_it_fits_its_teacher(name: str) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=16, **TEACHERS[name])
    text = starting_space(unet, 4, name)
    space = parse_space("new.yaml", text)
    check_space(unet, space)
    assert space.named("teacher") == teacher_candidate(unet)
    assert space.name == name
    assert f"# {space.num_candidates:,} candidates as it stands" in text

    full = parse_space("new.yaml", uncommented(text))
    check_space(unet, full)
    assert full.num_candidates > space.num_candidates
    assert full.named("teacher") == teacher_candidate(unet)
    # Words with attention have all decisions; a ratio of 0.75 leaves 7.5 of SD 1.5's 10 channels a group in E1.
    if name == "sd15":
        assert [decision.name for decision in full.decisions if decision.stage == "E1"] == [
            f"E1.{key}" for key in ("word", "resnet_width", "ff_width", "heads", "attention", "conv")
        ]
        widths = {d.name: d.values for d in full.decisions if d.name.endswith("resnet_width")}
        assert widths["E1.resnet_width"] == ("1", "0.5")
        assert widths["E2.resnet_width"] == ("1", "0.75", "0.5", "0.25")


def test_the_vaes_decisions_can_be_uncommented_too() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=16, **TEACHERS["toy"])
    text = re.sub(r"^  # ((?:VE|VD|steps):|  \w+: \[)", r"  \1", starting_space(unet, 4, "toy"), flags=re.MULTILINE)
    space = parse_space(
        "new.yaml", re.sub(r"^(  (?:teacher|smallest): .*)$", r"\1-teacher-teacher-1", text, flags=re.M)
    )
    assert space.stages[-3:] == ("VE", "VD", "steps")
    # The teacher's own, and 2 widths of each of 4 levels times 2 depths of each of 3.
    assert space.stage_sizes[-3:] == (1 + 2**4 * 2**3, 1 + 2**4 * 2**3, 3)


def test_names_that_yaml_would_take_for_something_else() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=16, **TEACHERS["toy"])
    for name in ("15", "no", "a: b", "it's", "x # y"):
        assert parse_space("new.yaml", starting_space(unet, None, name)).name == name


def test_a_teacher_that_cannot_be_cut_is_refused() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=8, block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",)
        )
    with pytest.raises(UserError, match="unsupported teacher"):
        starting_space(unet, None, "x")
