"""Network surgery against diffusers itself and against published parameter counts."""

import itertools

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.space import load_space
from search_spaces.standard import to_diffusers, why_not_standard
from search_spaces.surgery import assemble, build_stage, stage_names, teacher_candidate
from search_spaces.unet import StagedUNet

# nanosd-facts: SD 1.5 measured with diffusers; BK-SDM as published (arXiv 2305.15798).
PUBLISHED = {
    "teacher": 859_520_964,
    "bk-sdm-base": 579_384_964,
    "bk-sdm-small": 482_346_884,
    "bk-sdm-tiny": 323_384_964,
}


def num_params(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def noise_inputs(size: int = 8, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(size)
    sample = torch.randn(batch, 4, size, size, generator=generator)
    return sample, torch.arange(5, 5 + batch), torch.randn(batch, 8, 32, generator=generator)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_layouts_have_the_published_parameters(sd15_meta: UNet2DConditionModel, name: str) -> None:
    candidate = load_space("bk-sdm").named(name)
    assert num_params(assemble(sd15_meta, candidate)) == PUBLISHED[name]
    assert why_not_standard(sd15_meta, candidate) is None


@pytest.mark.parametrize("size", [8, 16, 9, 12])
def test_all_teacher_assembly_is_bit_identical(small_unet: UNet2DConditionModel, size: int) -> None:
    inputs = noise_inputs(size)
    staged = assemble(small_unet, teacher_candidate(small_unet))
    with torch.no_grad():
        assert torch.equal(staged(*inputs).sample, small_unet(*inputs).sample)
        assert torch.equal(staged(inputs[0], 7, inputs[2]).sample, small_unet(inputs[0], 7, inputs[2]).sample)


@pytest.mark.slow
def test_all_teacher_assembly_is_bit_identical_at_full_size(sd15_meta: UNet2DConditionModel) -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(dict(sd15_meta.config)).eval()
    sample, context = torch.randn(1, 4, 16, 16), torch.randn(1, 77, 768)
    with torch.no_grad():
        expected = unet(sample, 10, context).sample
        assert torch.equal(assemble(unet, teacher_candidate(unet), copy=False)(sample, 10, context).sample, expected)


def test_every_option_of_the_nanosd_space_keeps_its_interface_at_full_size(sd15_meta: UNet2DConditionModel) -> None:
    """Stages see only tensors of fixed shapes, so options checked one by one hold for all 32,768 candidates."""
    from search_spaces.costs import trace
    from search_spaces.unet import StageIO

    space = load_space("nanosd")
    assert space.num_candidates == 32_768
    record: dict[str, StageIO] = {}
    trace(sd15_meta, space.named("largest"), 64, 77, 1, record)
    for stage, names in space.options.items():
        for name in names:
            outputs = build_stage(sd15_meta, stage, name, copy=False)(*record[stage].inputs)
            assert [o.shape for o in outputs] == [o.shape for o in record[stage].outputs], (stage, name)


def test_random_candidates_run_forward_and_backward(small_unet: UNet2DConditionModel) -> None:
    space = load_space("nanosd")
    inputs = noise_inputs()
    for row in space.sample(np.random.default_rng(1), 12):
        staged = assemble(small_unet, space.decode(row))
        output = staged(*inputs).sample
        output.square().mean().backward()
        assert output.shape == inputs[0].shape and torch.isfinite(output).all()
        assert all(p.grad is not None for p in staged.stages.parameters())


def test_standard_candidates_equal_their_diffusers_model(small_unet: UNet2DConditionModel) -> None:
    encoder, decoder = ("RARA", "RA", "RR", "R"), ("RARARA", "RARA", "RRR", "RR")
    rows = itertools.product(encoder, encoder, encoder, ("none", "RR.RAR.RRR", "R.x.RR"), decoder, decoder, decoder)
    candidates = [Candidate(options=dict(zip(stage_names(small_unet), row, strict=True))) for row in rows]
    standard = [c for c in candidates if why_not_standard(small_unet, c) is None]
    # One more layer on the way up than on the way down: 2 of the 4 decoder words fit each encoder word.
    assert len(standard) == 8**3 * 3
    inputs = noise_inputs()
    for candidate in standard[::97]:
        staged = assemble(small_unet, candidate)
        model = to_diffusers(staged)
        assert num_params(model) == num_params(staged)
        with torch.no_grad():
            assert torch.equal(model(*inputs).sample, staged(*inputs).sample), candidate


@pytest.mark.parametrize(
    ("stage", "option", "reason"),
    [("D2", "RAR", "D2: 'RAR' mixes"), ("D1", "RA@3", "D1: 'RA@3' has 1 R"), ("E1", "RA", "E1 is 'RA'")],
)
def test_the_reason_names_the_stage(small_unet: UNet2DConditionModel, stage: str, option: str, reason: str) -> None:
    candidate = load_space("nanosd").named("largest").replace(stage, option)
    assert reason in str(why_not_standard(small_unet, candidate))


def test_short_encoder_words_emit_the_first_r_as_first_skip(small_unet: UNet2DConditionModel) -> None:
    stage = build_stage(small_unet, "E2", "RA")
    h, temb, context = torch.randn(1, 16, 4, 4), torch.randn(1, 64), torch.randn(1, 8, 32)
    with torch.no_grad():
        first, second, down = stage(h, temb, context)
        block = small_unet.down_blocks[1]
        after_r = block.resnets[0](h, temb)
        after_a = block.attentions[0](after_r, encoder_hidden_states=context, return_dict=False)[0]
        assert torch.equal(first, after_r) and torch.equal(second, after_a)
        assert torch.equal(down, block.downsamplers[0](after_a))


def test_inherited_weights_are_copies(small_unet: UNet2DConditionModel) -> None:
    stage = build_stage(small_unet, "D2", "RA")
    with torch.no_grad():
        before = small_unet.up_blocks[2].resnets[0].conv1.weight.clone()
        stage.resnets[0].conv1.weight.add_(1)
    assert torch.equal(small_unet.up_blocks[2].resnets[0].conv1.weight, before)


def test_saving_and_loading_keeps_every_bit(small_unet: UNet2DConditionModel, tmp_path: object) -> None:
    staged = assemble(small_unet, load_space("nanosd").named("smallest"))
    staged.save_pretrained(tmp_path)
    loaded = StagedUNet.from_pretrained(tmp_path)
    assert loaded.candidate == staged.candidate
    with torch.no_grad():
        assert torch.equal(loaded(*noise_inputs()).sample, staged(*noise_inputs()).sample)


def test_wrong_input_is_one_line(small_unet: UNet2DConditionModel) -> None:
    largest = load_space("nanosd").named("largest")
    cases = [
        (Candidate(options={"E1": "R"}), "this teacher's are E1 E2 E3 deep D3 D2 D1"),
        (largest.replace("D2", "R@3"), "input channels"),
        (largest.replace("D2", "RR@1+3"), "is written 'RR'"),
        (largest.replace("E1", "RARARA"), "use at most 2"),
    ]
    for candidate, expected in cases:
        with pytest.raises(UserError, match=expected) as caught:
            assemble(small_unet, candidate)
        assert "\n" not in str(caught.value)


def test_unsupported_teachers_are_refused() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(32, 64), down_block_types=("DownBlock2D", "AttnDownBlock2D"), mid_block_type=None,
            up_block_types=("AttnUpBlock2D", "UpBlock2D"), cross_attention_dim=32,
        )  # fmt: skip
    with pytest.raises(UserError, match="AttnDownBlock2D"):
        assemble(unet, Candidate(options={"E1": "R", "deep": "none", "D1": "R"}))
