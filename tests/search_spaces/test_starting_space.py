"""A first search space fits the teacher that it was written for, whatever is uncommented."""

import re
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from nas.random_teacher import SD15_UNET, SD15_VAE, TOY_UNET, TOY_VAE
from search_spaces.costs import CostTable
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
        vae = AutoencoderKL(**TOY_VAE)
    text = starting_space(unet, vae, name)
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


def with_vae(text: str, *stages: str) -> str:
    """Take the # away from VE, VD or steps, and exchange the named candidates as the file says."""
    text = re.sub(r"^  (teacher|smallest): ", r"  # \1: ", text, flags=re.MULTILINE)
    text = re.sub(r"^  # ((?:teacher|smallest): \S+-1)$", r"  \1", text, flags=re.MULTILINE)
    for stage in stages:
        text = re.sub(
            rf"^  # ({stage}:.*)$((?:\n  #   .*)*)", lambda m: f"  {m[1]}{m[2].replace('#', ' ')}", text, flags=re.M
        )
    return text


VAES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "toy": (TOY_UNET, TOY_VAE),
    "sd15": (SD15_UNET, SD15_VAE),
    "narrow": (TOY_UNET, {**TOY_VAE, "block_out_channels": (16, 16, 16, 16)}),
    "wide steps": (TOY_UNET, {**TOY_VAE, "block_out_channels": (8, 32, 96, 384), "layers_per_block": 3}),
}


@pytest.mark.parametrize("name", VAES)
def test_every_tiny_vae_that_it_offers_is_less_work_than_the_teachers(name: str) -> None:
    unet_config, vae_config = VAES[name]
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**unet_config), AutoencoderKL(**vae_config)
    space = parse_space("new.yaml", with_vae(starting_space(unet, vae, "new"), "VE", "VD", "steps"))
    table = CostTable.from_unet(unet, space, 8, 5, vae=vae)
    for stage in ("VE", "VD"):
        assert table.teacher_options[stage] == space.options[stage][0] == "teacher"
        for costs in (table.num_macs[stage], table.num_params[stage]):
            assert costs[0] > costs[1:].max() > 0
        # The first level has two widths, the other three have two widths and two depths.
        assert len(space.options[stage]) == 1 + 2 * 4**3
        assert ("64x1.64x3.64x3.64x3" in space.options[stage]) == (name == "sd15"), "the student of the paper"
        smallest = space.options[stage].index(space.named("smallest").options[stage])
        assert smallest == table.num_params[stage].argmin() == table.num_macs[stage].argmin()
    assert table.cost(space.named("teacher")) == table.teacher


@pytest.mark.parametrize("stages", [("VE",), ("VD",), ("steps",), ("VE", "steps")])
def test_any_of_the_vaes_decisions_can_be_uncommented(stages: tuple[str, ...]) -> None:
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**TOY_UNET), AutoencoderKL(**TOY_VAE)
    text = with_vae(starting_space(unet, vae, "toy"), *stages)
    tiny = re.search(r"smallest: .*-(\d\S+)-(\d\S+)-1$", text, flags=re.MULTILINE)
    assert tiny is not None
    vae_options = [tiny[number] if stage in stages else "teacher" for number, stage in ((1, "VE"), (2, "VD"))]
    text = text.replace(f"-{tiny[1]}-{tiny[2]}-1", f"-{'-'.join(vae_options)}-1")  # as the comment says
    space = parse_space("new.yaml", text)
    check_space(unet, space, vae)
    assert space.named("smallest").options["VD"] == vae_options[1]
    assert [stage for stage in ("VE", "VD", "steps") if len(space.options[stage]) > 1] == list(stages)


def test_names_that_yaml_would_take_for_something_else() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=16, **TEACHERS["toy"])
    for name in ("15", "no", "1e3", "2024-01-02"):
        assert parse_space("new.yaml", starting_space(unet, None, name)).name == name


@pytest.mark.parametrize(
    ("name", "legal"), [("a: b", "a-b"), ("../mine", "mine"), ("", "space"), ("é", "space"), ("x" * 300, "x" * 100)]
)
def test_names_that_are_not_legal_become_so(name: str, legal: str) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=16, **TEACHERS["toy"])
    assert parse_space("new.yaml", starting_space(unet, None, name)).name == legal


def test_a_teacher_that_cannot_be_cut_is_refused() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=8, block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",)
        )
    with pytest.raises(UserError, match="unsupported teacher"):
        starting_space(unet, None, "x")
