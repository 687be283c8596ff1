"""Network surgery against diffusers itself and against published parameter counts."""

import copy
import itertools

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from nas.teacher import Teacher
from search_spaces.candidate import Candidate
from search_spaces.costs import meta_copy, trace
from search_spaces.errors import UserError
from search_spaces.space_file import load_space, preset_names
from search_spaces.standard import to_diffusers, why_not_standard
from search_spaces.surgery import assemble, build_stage, parse_option, stage_names, teacher_candidate
from search_spaces.unet import StagedUNet, StageIO
from search_spaces.vae import assemble_vae

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


@pytest.mark.parametrize(("fixture", "expected"), [("sd21_meta", 865_910_724), ("sdxl_meta", 2_567_463_684)])
def test_published_parameters_of_other_teachers(request: pytest.FixtureRequest, fixture: str, expected: int) -> None:
    """Counts that users of the published weights report, of SD 2.1-base's and SDXL base 1.0's U-Nets."""
    unet = request.getfixturevalue(fixture)
    staged = assemble(unet, teacher_candidate(unet), copy=False)
    assert num_params(staged) == num_params(unet) == expected


def test_words_of_sdxl_are_read_off_its_blocks(sdxl_meta: UNet2DConditionModel) -> None:
    assert teacher_candidate(sdxl_meta).options == {
        "E1": "RR", "E2": "RARA", "deep": "RARA.RAR.RARARA", "D2": "RARARA", "D1": "RRR"
    }  # fmt: skip
    depths = {
        stage: {len(a.transformer_blocks) for a in build_stage(sdxl_meta, stage, word, copy=False).attentions.values()}
        for stage, word in (("E1", "RR"), ("E2", "RARA"), ("D2", "RARARA"))
    }
    assert depths == {"E1": set(), "E2": {2}, "D2": {2}}
    deep = build_stage(sdxl_meta, "deep", "RARA.RAR.RARARA", copy=False)
    assert {len(a.transformer_blocks) for part in (deep.encoder, deep.decoder) for a in part.attentions.values()} == {
        10
    }
    assert {len(a.transformer_blocks) for a in deep.mid.attentions} == {10}


@pytest.mark.parametrize("size", [8, 9, 12])
def test_sd21_is_bit_identical(small_sd21: UNet2DConditionModel, size: int) -> None:
    inputs = noise_inputs(size)
    with torch.no_grad():
        staged = assemble(small_sd21, teacher_candidate(small_sd21))
        assert torch.equal(staged(*inputs).sample, small_sd21(*inputs).sample)


def sdxl_conditioning(batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {
        "text_embeds": torch.randn(batch, 8, generator=generator),
        "time_ids": torch.arange(6.0 * batch).view(batch, 6),
    }


@pytest.mark.parametrize("size", [8, 9, 12])
def test_sdxl_is_bit_identical(small_sdxl: UNet2DConditionModel, size: int, tmp_path: object) -> None:
    inputs, added = noise_inputs(size), sdxl_conditioning()
    staged = assemble(small_sdxl, teacher_candidate(small_sdxl))
    with torch.no_grad():
        expected = small_sdxl(*inputs, added_cond_kwargs=added).sample
        assert torch.equal(staged(*inputs, added_cond_kwargs=added).sample, expected)
        assert torch.equal(to_diffusers(staged)(*inputs, added_cond_kwargs=added).sample, expected)
        staged.save_pretrained(tmp_path)
        loaded = copy.deepcopy(StagedUNet.from_pretrained(tmp_path))
        assert torch.equal(loaded(*inputs, added_cond_kwargs=added).sample, expected)
    assert loaded.config.addition_time_embed_dim == 4  # what SDXL's pipeline reads off a U-Net


def test_conditioning_must_be_the_teachers(small_sdxl: UNet2DConditionModel, small_unet: UNet2DConditionModel) -> None:
    for unet, added, expected in (
        (small_sdxl, None, "has nothing; this U-Net needs text_embeds and time_ids"),
        (small_sdxl, {"text_embeds": torch.zeros(2, 8)}, "has text_embeds; this U-Net needs"),
        (small_unet, sdxl_conditioning(), "has text_embeds, time_ids; this U-Net takes sample, timestep"),
    ):
        with pytest.raises(UserError, match=expected):
            assemble(unet, teacher_candidate(unet), copy=False)(*noise_inputs(), added_cond_kwargs=added)


@pytest.mark.slow
def test_all_teacher_assembly_is_bit_identical_at_full_size(sd15_meta: UNet2DConditionModel) -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(dict(sd15_meta.config)).eval()
    sample, context = torch.randn(1, 4, 16, 16), torch.randn(1, 77, 768)
    with torch.no_grad():
        expected = unet(sample, 10, context).sample
        assert torch.equal(assemble(unet, teacher_candidate(unet), copy=False)(sample, 10, context).sample, expected)


def changed_shapes(unet: UNet2DConditionModel, options: dict[str, tuple[str, ...]], size: int) -> list[tuple[str, str]]:
    """The (stage, option) pairs whose outputs have other shapes than the teacher's; everything is on meta."""
    record: dict[str, StageIO] = {}
    trace(unet, teacher_candidate(unet), size, 77, 1, record)
    with torch.no_grad():
        return [
            (stage, name)
            for stage, names in options.items()
            for name in names
            if [o.shape for o in build_stage(unet, stage, name, copy=False)(*record[stage].inputs)]
            != [o.shape for o in record[stage].outputs]
        ]


def test_every_candidate_of_nanosd_keeps_its_shapes_at_full_size(sd15_meta: UNet2DConditionModel) -> None:
    """A stage sees only tensors of the teacher's shapes, whatever the others are, as long as each of their options
    gives those: that is checked for every option, and so holds for all 32,768 candidates."""
    space = load_space("nanosd")
    assert space.num_candidates == 32_768
    assert changed_shapes(sd15_meta, space.options, 64) == []


INTERNALS = ("_w0.5", "_f0.25", "_h0.5", "_cross", "_self", "_sep", "_w0.5_f0.25_h0.5_cross_sep")


def with_internals(unet: UNet2DConditionModel, kinds: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The teacher's words with each of these internals, where a word has what they change."""
    words = teacher_candidate(unet).options
    return {s: tuple(w + k for k in kinds if "A" in w or k in ("_w0.5", "_sep")) for s, w in words.items()}


def test_all_internals_together_keep_shapes_at_full_size(sd15_meta: UNet2DConditionModel) -> None:
    assert changed_shapes(sd15_meta, with_internals(sd15_meta, INTERNALS[-1:]), 64) == []


@pytest.mark.slow
@pytest.mark.parametrize(("fixture", "size"), [("sd15_meta", 64), ("sd21_meta", 64), ("sdxl_meta", 128)])
def test_each_internal_keeps_shapes_at_full_size(request: pytest.FixtureRequest, fixture: str, size: int) -> None:
    unet = request.getfixturevalue(fixture)
    share = "_h0.5" if fixture == "sd15_meta" else "_h0.2"  # 5 heads have no half
    kinds = tuple(kind.replace("_h0.5", share) for kind in INTERNALS)
    assert changed_shapes(unet, with_internals(unet, kinds), size) == []


@pytest.mark.slow
def test_every_option_of_nanosd_joint_keeps_its_shapes_at_full_size(sd15_meta: UNet2DConditionModel) -> None:
    space = load_space("nanosd-joint")
    options = {stage: space.options[stage] for stage in stage_names(sd15_meta)}
    assert changed_shapes(sd15_meta, options, 64) == []


def run_forward_and_backward(
    unet: UNet2DConditionModel, options: dict[str, str], inputs: tuple[torch.Tensor, ...]
) -> None:
    staged = assemble(unet, Candidate(options=options))
    staged.stages.requires_grad_(True)
    output = staged(*inputs).sample
    output.square().mean().backward()
    assert output.shape == inputs[0].shape and torch.isfinite(output).all(), options
    for name, parameter in staged.stages.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), (options, name)


@pytest.mark.parametrize("preset", ["nanosd", "nanosd-joint"])
def test_random_candidates_run_forward_and_backward(small_unet: UNet2DConditionModel, preset: str) -> None:
    space = load_space(preset)
    for row in space.sample(np.random.default_rng(1), 12):
        chosen = space.decode(row).options
        run_forward_and_backward(small_unet, {s: chosen[s] for s in stage_names(small_unet)}, noise_inputs())


@pytest.mark.slow
@pytest.mark.parametrize("preset", preset_names())
def test_200_random_candidates_run_forward_and_backward_on_the_toy_teacher(toy_teacher: Teacher, preset: str) -> None:
    """200 candidates, or all if the preset has fewer: their U-Nets and, of pipelines, their VAEs."""
    space, unet = load_space(preset), toy_teacher.unet
    generator = torch.Generator().manual_seed(0)
    width, size = unet.config.cross_attention_dim, unet.config.sample_size
    inputs = (
        torch.randn(2, unet.config.in_channels, size, size, generator=generator),
        torch.tensor([5, 900]),
        torch.randn(2, toy_teacher.num_tokens, width, generator=generator),
    )
    rows = space.sample(np.random.default_rng(2), 200) if space.num_candidates > 200 else space.enumerate()
    image = torch.rand(1, 3, 8 * size, 8 * size, generator=generator) * 2 - 1
    for row in rows:
        candidate = space.decode(row)
        run_forward_and_backward(unet, {s: candidate.options[s] for s in stage_names(unet)}, inputs)
        if space.is_pipeline:
            vae = assemble_vae(toy_teacher.vae, candidate).requires_grad_(True)
            moments = vae.encode(image).latent_dist
            output = vae.decode(moments.mean).sample
            (output.square().mean() + moments.logvar.square().mean()).backward()
            assert output.shape == image.shape and torch.isfinite(output).all(), candidate
            for name, parameter in vae.named_parameters():
                assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), (candidate, name)


@pytest.mark.parametrize("kind", INTERNALS)
def test_internals_are_the_same_on_meta_and_copies_of_the_teachers(small_unet: UNet2DConditionModel, kind: str) -> None:
    meta = meta_copy(small_unet)
    before = {name: tensor.clone() for name, tensor in small_unet.state_dict().items()}
    for stage, word in teacher_candidate(small_unet).options.items():
        name = parse_option(small_unet, stage, word + kind).text
        module = build_stage(small_unet, stage, name)
        shapes = {key: tensor.shape for key, tensor in module.state_dict().items()}
        built = build_stage(meta, stage, name, copy=False)
        assert {key: tensor.shape for key, tensor in built.state_dict().items()} == shapes
        assert all(tensor.is_meta for tensor in built.state_dict().values())
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in small_unet.state_dict().items())


def test_standard_candidates_equal_their_diffusers_model(small_unet: UNet2DConditionModel) -> None:
    encoder, decoder = ("RARA", "RA", "RR", "R"), ("RARARA", "RARA", "RRR", "RR")
    deep = ("none", "RR.RAR.RRR", "R.x.RR")
    rows = itertools.product(encoder, encoder[::3], encoder[1:3], deep, decoder, decoder, decoder)
    candidates = [Candidate(options=dict(zip(stage_names(small_unet), row, strict=True))) for row in rows]
    standard = [c for c in candidates if why_not_standard(small_unet, c) is None]
    # One more layer on the way up than on the way down: 2 of the 4 decoder words fit each encoder word.
    assert len(standard) == 8 * 4**2 * 3
    inputs = noise_inputs()
    for candidate in standard[::25]:
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


def test_saving_and_loading_keeps_internals(small_unet: UNet2DConditionModel, tmp_path: object) -> None:
    options = {
        "E1": "RARA_cross_sep", "E2": "RA_w0.5", "E3": "RARA_f0.25_h0.5", "deep": "RR.RAR.RRR_w0.5_self",
        "D3": "RARARA_self", "D2": "RAR_w0.5_f0.5_h0.5_cross_sep", "D1": "RARARA_f0.5",
    }  # fmt: skip
    staged = assemble(small_unet, Candidate(options=options))
    staged.save_pretrained(tmp_path)
    loaded = StagedUNet.from_pretrained(tmp_path)
    assert loaded.candidate == staged.candidate
    assert str(why_not_standard(small_unet, loaded.candidate)).startswith("E1: 'RARA_cross_sep' has other layers")
    # Weights read from a file lie at odd addresses, where matrix products round otherwise; copies do not.
    copied = copy.deepcopy(loaded)
    with torch.no_grad():
        assert torch.equal(copied(*noise_inputs()).sample, staged(*noise_inputs()).sample)


def test_wrong_input_is_one_line(small_unet: UNet2DConditionModel) -> None:
    largest = load_space("nanosd").named("largest")
    cases = [
        (Candidate(options={"E1": "R"}), "this teacher's are E1 E2 E3 deep D3 D2 D1"),
        (largest.replace("D2", "R@3"), "input channels"),
        (largest.replace("D2", "RR@1+3"), "is written 'RR'"),
        (largest.replace("E1", "RARARA"), "use at most 2"),
        (largest.replace("E1", "RARA_w0.25"), "^E1: resnet_width 0.25 leaves 4 of 16 hidden channels, which 8 groups"),
        (largest.replace("D3", "RARA_h0.3"), "^D3: heads 0.3 leaves 1.2 of 4 attention heads, .* 0.25, 0.5, 0.75, 1$"),
        (largest.replace("deep", "R.x.RR_w0.3"), "^deep: resnet_width 0.3 .* legal are 0.125, "),
        (largest.replace("E1", "R_f0.5"), "is written 'R'"),
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


def test_options_that_change_the_interface_are_refused_without_building(sdxl_meta: UNet2DConditionModel) -> None:
    for stage, name, expected in (
        ("deep", "none", "changes the interface of this teacher, whose decoder expects 1280 .* keep 'RARA.RAR.RARARA'"),
        ("D2", "R@3", "no teacher layer with 1600 input channels"),
        ("E2", "RARA_h0.25", "^E2: heads 0.25 leaves 2.5 of 10"),
        ("E1", "RA", "has attention but the teacher's RR has none"),
    ):
        with pytest.raises(UserError, match=expected):
            parse_option(sdxl_meta, stage, name)


@pytest.mark.parametrize(
    ("extra", "option", "expected"),
    [
        ({"resnet_time_scale_shift": "scale_shift"}, "RA_w0.5", "resnet_time_scale_shift is 'default'.*legal is 1"),
        ({"only_cross_attention": True}, "RA_cross", "have only_cross_attention; legal is 'both'"),
        ({"dual_cross_attention": True}, "RA", "unsupported teacher: dual_cross_attention is True; legal are False"),
        ({"num_class_embeds": 3}, "RA", "unsupported teacher: num_class_embeds is 3"),
    ],
)
def test_teachers_that_lack_a_choice_say_so(extra: dict[str, object], option: str, expected: str) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(32, 32), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=32, **extra,
        )  # fmt: skip
    with pytest.raises(UserError, match=expected):
        assemble(unet, Candidate(options={"E1": option, "deep": "none", "D1": "RARARA"}))
