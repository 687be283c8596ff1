"""Hand-made layouts against published sizes, against the presets, and against the modules that they build."""

from fractions import Fraction

import pytest
import torch
from diffusers import UNet2DConditionModel

from search_spaces.baselines import FACTORS, SIZE_TOLERANCE, bk_sdm_tiny, nearest_uniform_width, uniform_width
from search_spaces.errors import UserError
from search_spaces.space_file import load_space
from search_spaces.surgery import assemble, teacher_candidate


@pytest.fixture
def small_meta() -> UNet2DConditionModel:
    """Two levels, one layer a block, on the meta device: quick to cut in every way."""
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            norm_num_groups=8,
            cross_attention_dim=32,
            attention_head_dim=4,
        )


def num_params(unet, candidate) -> int:
    return sum(p.numel() for p in assemble(unet, candidate, copy=False).parameters())


def test_the_rule_gives_the_published_layout_of_both(sd15_meta: UNet2DConditionModel) -> None:
    found = bk_sdm_tiny(sd15_meta)
    assert found == load_space("bk-sdm").named("bk-sdm-tiny") == load_space("tinysd").named("sd-tiny")
    assert num_params(sd15_meta, found) == 323_384_964  # as published by Nota and by Segmind


def test_a_teacher_whose_deepest_stages_cannot_be_dropped_is_refused(sdxl_meta: UNet2DConditionModel) -> None:
    with pytest.raises(UserError, match="deep: 'none' changes the interface"):
        bk_sdm_tiny(sdxl_meta)


@pytest.mark.parametrize("keep_deep", [True, False])
def test_a_uniform_width_narrows_every_layer_alike(sd15_meta: UNet2DConditionModel, keep_deep: bool) -> None:
    slim = assemble(sd15_meta, uniform_width(sd15_meta, Fraction(1, 2), keep_deep), copy=False)
    full = assemble(sd15_meta, teacher_candidate(sd15_meta), copy=False)
    for stage in slim.stages:
        if stage == "deep" and not keep_deep:
            assert not list(slim.stages[stage].parameters())
            continue
        own, narrow = full.stages[stage].state_dict(), slim.stages[stage].state_dict()
        assert own.keys() == narrow.keys()
        for name in own:
            if name.endswith(("conv1.weight", "to_q.weight")):
                assert narrow[name].shape[0] * 2 == own[name].shape[0]
            elif name.endswith(("conv2.weight", "ff.net.2.weight", "to_out.0.weight")):
                assert narrow[name].shape[1] * 2 == own[name].shape[1]


def test_widths_that_do_not_divide_go_to_the_nearest_that_do(tiny_unet: UNet2DConditionModel) -> None:
    """16 channels in 8 groups leave halves only, 4 heads quarters; feed-forwards of 64 take sixteenths as they are."""
    found = uniform_width(tiny_unet, Fraction(5, 16), keep_deep=False)
    assert found.options["E1"] == "RARA_w0.5_f0.3125_h0.25"
    assert found.options["deep"] == "none"


def test_of_about_the_size_the_widest_else_the_nearest(small_meta: UNet2DConditionModel) -> None:
    sizes = {
        (keep_deep, factor): num_params(small_meta, uniform_width(small_meta, factor, keep_deep))
        for keep_deep in (True, False)
        for factor in FACTORS
    }
    for wanted in (sizes[True, FACTORS[9]], sizes[False, FACTORS[4]] + 100, 10):
        near = [factor for (_, factor), size in sizes.items() if abs(size / wanted - 1) <= SIZE_TOLERANCE]
        candidate, factor = nearest_uniform_width(small_meta, wanted, lambda _: None)
        if near:
            assert factor == max(near)
        else:
            assert abs(num_params(small_meta, candidate) - wanted) == min(abs(size - wanted) for size in sizes.values())


def test_what_cannot_be_used_is_left_out(small_meta: UNet2DConditionModel) -> None:
    def refuse(candidate) -> None:
        if "_w0.5" in candidate.options["D1"]:
            raise UserError("too narrow")

    candidate, _ = nearest_uniform_width(small_meta, 10, refuse)
    assert "_w0.5" not in candidate.options["D1"]
    with pytest.raises(UserError, match="too narrow"):
        nearest_uniform_width(small_meta, 10, lambda _: refuse(uniform_width(small_meta, Fraction(1, 2))))
