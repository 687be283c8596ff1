"""VAE options against diffusers' own VAEs, closed forms and published parameter counts."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from diffusers import (
    AsymmetricAutoencoderKL,
    AutoencoderKL,
    AutoencoderTiny,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.candidate import UNET_STAGES, Candidate
from search_spaces.errors import UserError
from search_spaces.vae import StagedVAE, assemble_vae, build_vae_stage, check_vae_candidate, check_vae_supported
from search_spaces.vae_option import TEACHER, TinyLevel, parse_vae_option, vae_text

if TYPE_CHECKING:
    from nas.teacher import Teacher

TAESD = "64x1.64x3.64x3.64x3"  # widths and depths of diffusers' AutoencoderTiny
SMALL = "8x1.12x2.4x1.16x1"
PAIRS = [(TEACHER, TEACHER), (SMALL, TEACHER), (TEACHER, SMALL), (SMALL, "4x2.8x1.8x1.12x1")]


def num_params(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def make_vae(channels: tuple[int, ...] = (8, 16, 16, 24), **config: Any) -> AutoencoderKL:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        norm_num_groups=4,
        **{"sample_size": 64, **config},
    )
    return vae.eval().requires_grad_(False)


@functools.cache
def meta_vae(*channels: int) -> AutoencoderKL:
    with torch.device("meta"):
        return make_vae(channels)


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    return make_vae()


def pipeline(encoder: str, decoder: str, steps: str = "1") -> Candidate:
    words = ("RA", "RA", "RA", "none", "RARA", "RARA", "RARA")
    return Candidate(
        options={**dict(zip(UNET_STAGES, words, strict=True)), "VE": encoder, "VD": decoder, "steps": steps}
    )


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def latents(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2)) * 5


def test_published_parameter_counts(sd15_vae_meta: AutoencoderKL) -> None:
    assert num_params(sd15_vae_meta) == 83_653_863
    halves = [num_params(build_vae_stage(sd15_vae_meta, stage, TEACHER)) for stage in ("VE", "VD")]
    # nanosd-facts: encoder and decoder without the 1x1 convolutions (72 and 20) that belong to the halves here.
    assert halves == [34_163_592 + 72, 49_490_179 + 20]
    with torch.device("meta"):
        tiny = AutoencoderTiny()
    assert num_params(tiny) == 2_445_063
    encoder, decoder = (build_vae_stage(sd15_vae_meta, stage, TAESD) for stage in ("VE", "VD"))
    # Ours gives mean and log-variance, TAESD's one code: 4 more output channels of 64 x 3 x 3 weights and a bias.
    assert num_params(encoder) == num_params(tiny.encoder) + 4 * (64 * 9 + 1)
    assert num_params(decoder) == num_params(tiny.decoder)
    assert num_params(assemble_vae(sd15_vae_meta, pipeline(TAESD, TAESD))) == num_params(tiny) + 4 * (64 * 9 + 1)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 4)), min_size=1, max_size=4))
def test_parameters_are_those_of_the_closed_form(levels: list[tuple[int, int]]) -> None:
    def conv(inputs: int, outputs: int, bias: bool) -> int:
        return 9 * inputs * outputs + bias * outputs

    name = vae_text([TinyLevel(width, depth) for width, depth in levels])
    vae = meta_vae(*(4,) * len(levels))
    blocks = sum(depth * 3 * conv(width, width, True) for width, depth in levels)
    resampling = sum(conv(a, b, False) for (a, _), (b, _) in itertools.pairwise(levels))
    first, last = levels[0][0], levels[-1][0]
    ends = {
        "VE": conv(3, first, True) + conv(last, 8, True),
        "VD": conv(4, last, True) + conv(first, 3, True),
    }
    for stage, own in ends.items():
        assert num_params(build_vae_stage(vae, stage, name)) == blocks + resampling + own


def test_one_width_throughout_is_taesd(vae: AutoencoderKL) -> None:
    """The same weights, by name, in diffusers' own tiny VAE give the same numbers."""
    torch.manual_seed(3)
    tiny = AutoencoderTiny(
        latent_channels=8,
        encoder_block_out_channels=(12,) * 4,
        decoder_block_out_channels=(12,) * 4,
        num_encoder_blocks=(1, 2, 3, 2),
        num_decoder_blocks=(2, 3, 2, 1),
    ).eval()
    encoder = build_vae_stage(vae, "VE", "12x1.12x2.12x3.12x2").requires_grad_(False)
    encoder.load_state_dict(tiny.encoder.state_dict())
    x = images(2, 3, 32, 48)
    with torch.no_grad():
        assert torch.equal(encoder(x), tiny.encoder(x))
    wide = make_vae(latent_channels=8)
    decoder = build_vae_stage(wide, "VD", "12x1.12x2.12x3.12x2").requires_grad_(False)
    decoder.load_state_dict(tiny.decoder.state_dict())
    z = latents(2, 8, 4, 6)
    with torch.no_grad():
        # TAESD takes latents times the scaling factor; multiplying in another order rounds differently.
        torch.testing.assert_close(decoder(z), tiny.decoder(z * wide.config.scaling_factor), rtol=1e-5, atol=1e-6)


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(0, 40), st.integers(0, 40), st.integers(1, 3))
def test_options_keep_the_teachers_shapes_at_any_image_size(levels: int, height: int, width: int, batch: int) -> None:
    vae = meta_vae(*(8, 12, 8, 16)[:levels])  # two channels a group, as torch wants more than one value in each
    pixels = 2 ** (levels - 1)
    x = torch.empty(batch, 3, pixels + height, pixels + width, device="meta")
    name = vae_text([TinyLevel(4 + level, 1) for level in range(levels)])
    moments = [build_vae_stage(vae, "VE", option, copy=False)(x) for option in (TEACHER, name)]
    size = ((pixels + height) // pixels, (pixels + width) // pixels)
    assert [m.shape for m in moments] == [(batch, 8, *size)] * 2
    outputs = [build_vae_stage(vae, "VD", option, copy=False)(moments[0][:, :4]) for option in (TEACHER, name)]
    assert [o.shape for o in outputs] == [(batch, 3, pixels * size[0], pixels * size[1])] * 2


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 72), (37, 51)])
@pytest.mark.parametrize("convs", [True, False])
def test_all_teacher_is_bit_identical(height: int, width: int, convs: bool) -> None:
    vae = make_vae(use_quant_conv=convs, use_post_quant_conv=convs)
    staged = assemble_vae(vae, pipeline(TEACHER, TEACHER))
    x = images(2, 3, height, width)
    with torch.no_grad():
        ours, theirs = (model.encode(x).latent_dist for model in (staged, vae))
        assert torch.equal(ours.mean, theirs.mean) and torch.equal(ours.std, theirs.std)
        noise = [torch.Generator().manual_seed(7) for _ in range(2)]
        assert torch.equal(ours.sample(noise[0]), theirs.sample(noise[1]))
        assert torch.equal(staged.decode(ours.mean).sample, vae.decode(ours.mean).sample)
        assert torch.equal(staged(x).sample, vae(x).sample)
    assert staged.is_teachers and num_params(staged) == num_params(vae)


def test_tiling_is_that_of_the_teacher(vae: AutoencoderKL) -> None:
    staged = assemble_vae(vae, pipeline(TEACHER, TEACHER))
    whole, tiled = images(1, 3, 112, 160), make_vae()
    with torch.no_grad():
        plain = staged.encode(whole).latent_dist.mean
        for model in (staged, tiled):
            model.enable_tiling()
        mean = staged.encode(whole).latent_dist.mean
        assert torch.equal(mean, tiled.encode(whole).latent_dist.mean) and not torch.equal(mean, plain)
        assert torch.equal(staged.decode(mean).sample, tiled.decode(mean).sample)


def test_slicing_takes_images_one_by_one(vae: AutoencoderKL) -> None:
    staged = assemble_vae(vae, pipeline(SMALL, SMALL))
    x = images(3, 3, 16, 16)
    staged.enable_slicing()
    with torch.no_grad():
        sliced = staged.encode(x).latent_dist.mean
        alone = torch.cat([staged.encode(one).latent_dist.mean for one in x.split(1)])
    assert torch.equal(sliced, alone)


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
@pytest.mark.parametrize("low_memory", [True, False])
def test_saved_and_loaded_is_the_same(
    vae: AutoencoderKL, tmp_path: Path, encoder: str, decoder: str, low_memory: bool
) -> None:
    staged = assemble_vae(vae, pipeline(encoder, decoder), seed=5)
    staged.save_pretrained(tmp_path, safe_serialization=True)
    loaded, info = StagedVAE.from_pretrained(tmp_path, low_cpu_mem_usage=low_memory, output_loading_info=True)
    assert not any(info.values())
    assert loaded.options == staged.options == {"VE": encoder, "VD": decoder}
    assert not loaded.training
    for key in ("scaling_factor", "latent_channels", "sample_size", "force_upcast"):
        assert loaded.config[key] == vae.config[key]
    assert list(loaded.config.block_out_channels) == list(vae.config.block_out_channels)
    x = images(1, 3, 16, 24)
    with torch.no_grad():
        mean = staged.encode(x).latent_dist.mean
        assert torch.equal(loaded.encode(x).latent_dist.mean, mean)
        assert torch.equal(loaded.decode(mean).sample, staged.decode(mean).sample)
    again = StagedVAE.from_config(loaded.config)
    assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in staged.named_parameters()}


def test_pipelines_run_it(toy_teacher: Teacher, tmp_path: Path) -> None:
    def pictures(vae: Any) -> np.ndarray:
        generator = torch.Generator().manual_seed(0)
        run = quiet(toy_teacher.pipeline(vae=vae))
        return run("a photo of a lake", num_inference_steps=2, generator=generator, output_type="np").images

    def quiet(run: Any) -> Any:
        run.set_progress_bar_config(disable=True)
        return run

    teachers = assemble_vae(toy_teacher.vae, pipeline(TEACHER, TEACHER))
    own = pictures(toy_teacher.vae)
    assert np.array_equal(pictures(teachers), own)

    tiny = assemble_vae(toy_teacher.vae, pipeline(SMALL, SMALL)).requires_grad_(False)
    made = pictures(tiny)
    assert made.shape == own.shape and np.isfinite(made).all()
    changed = quiet(StableDiffusionImg2ImgPipeline(**toy_teacher.pipeline(vae=tiny).components))
    again = changed("a lake", image=own, strength=0.5, num_inference_steps=2, output_type="np").images
    assert again.shape == own.shape and np.isfinite(again).all()

    toy_teacher.pipeline(vae=tiny).save_pretrained(tmp_path)
    loaded = quiet(StableDiffusionPipeline.from_pretrained(tmp_path))
    assert type(loaded.vae) is StagedVAE
    assert np.array_equal(pictures(loaded.vae), made)


@pytest.mark.parametrize("stage", ["VE", "VD"])
def test_tiny_halves_train(vae: AutoencoderKL, stage: str) -> None:
    module = build_vae_stage(vae, stage, SMALL)
    output = module(images(2, 3, 16, 16) if stage == "VE" else latents(2, 4, 2, 2))
    output.square().mean().backward()
    assert torch.isfinite(output).all()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("stage", ["VE", "VD"])
def test_weights_come_from_the_seed_alone(vae: AutoencoderKL, stage: str) -> None:
    state = torch.get_rng_state()
    first, same, other = (build_vae_stage(vae, stage, SMALL, seed=seed).state_dict() for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), state), "torch's own generator belongs to the caller"
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    # torch's default distribution: uniform within 1 / sqrt(inputs), and with many weights close to its ends.
    for name, weight in first.items():
        if name.endswith("weight") and weight.numel() > 500:
            reach = float(weight.abs().max()) * (weight[0].numel() ** 0.5)
            assert 0.98 < reach <= 1 + 1e-6, name


def test_halves_take_after_the_teacher() -> None:
    vae = make_vae().to(torch.bfloat16)
    for mode in (True, False):
        vae.train(mode)
        for stage in ("VE", "VD"):
            for option in (TEACHER, SMALL):
                module = build_vae_stage(vae, stage, option)
                assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
                assert {m.training for m in module.modules()} == {mode}
        assert assemble_vae(vae, pipeline(SMALL, TEACHER)).training is mode
    copied, shared = (build_vae_stage(vae, "VD", TEACHER, copy=copy) for copy in (True, False))
    assert shared.decoder is vae.decoder and shared.post_quant_conv is vae.post_quant_conv
    assert not {p.data_ptr() for p in copied.parameters()} & {p.data_ptr() for p in vae.parameters()}


def test_trained_halves_are_used_as_they_are(vae: AutoencoderKL) -> None:
    trained = build_vae_stage(vae, "VD", SMALL, seed=9)
    staged = assemble_vae(vae, pipeline(TEACHER, SMALL), {("VD", SMALL): trained})
    assert staged.decoder is trained


@pytest.mark.parametrize("option", [TEACHER, SMALL])
def test_images_smaller_than_one_latent_are_refused(vae: AutoencoderKL, option: str) -> None:
    staged = assemble_vae(vae, pipeline(option, option))
    with pytest.raises(UserError, match=r"image of 7 x 9 pixels .* legal are 8 pixels and more"):
        staged.encode(images(1, 3, 7, 9))
    with torch.no_grad():
        assert staged.encode(images(1, 3, 8, 9)).latent_dist.mean.shape == (1, 4, 1, 1)


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (pipeline("8x1.8x1", TEACHER), "VE: '8x1.8x1' has 2 levels, but the teacher's VAE has 4; give 4"),
        (pipeline(TEACHER, "own"), "VD: 'own' is no option; legal are 'teacher' and one 'width x depth' a level"),
        (pipeline(TEACHER, TEACHER, "0"), "steps: '0' is no step count"),
        (pipeline(TEACHER, TEACHER).unet, "has no VE, VD, steps; a pipeline has VE, VD and steps"),
        (Candidate(options={"VE": TEACHER, "steps": "1"}), "has no VD; a pipeline has VE, VD and steps"),
    ],
)
def test_candidates_that_do_not_fit_are_refused(vae: AutoencoderKL, candidate: Candidate, message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_vae_candidate(vae, candidate)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError):
        assemble_vae(vae, candidate)


def test_other_stages_have_no_vae_options(vae: AutoencoderKL) -> None:
    with pytest.raises(UserError, match="stage 'E1' is none of the VAE's; legal are VE, VD"):
        build_vae_stage(vae, "E1", TEACHER)


def test_unsupported_teachers_are_refused(vae: AutoencoderKL) -> None:
    with torch.device("meta"):
        others = {
            "AutoencoderTiny; legal is AutoencoderKL": AutoencoderTiny(),
            "AsymmetricAutoencoderKL; legal is AutoencoderKL": AsymmetricAutoencoderKL(norm_num_groups=1),
            "StagedVAE; legal is AutoencoderKL": assemble_vae(meta_vae(4, 4, 4, 4), pipeline(SMALL, SMALL)),
            "shift_factor of its VAE is 0.1159": make_vae(shift_factor=0.1159),
            "latents_mean of its VAE is": make_vae(latents_mean=(0.0,) * 4),
        }
    for message, other in others.items():
        with pytest.raises(UserError, match=f"^unsupported teacher: .*{message}"):
            check_vae_supported(other)
        with pytest.raises(UserError, match=r"^unsupported teacher"):
            build_vae_stage(other, "VD", SMALL)
    check_vae_supported(vae)


def test_a_candidate_splits_into_unet_and_vae() -> None:
    whole = pipeline(SMALL, TAESD, "2")
    assert whole.is_pipeline and not whole.unet.is_pipeline
    assert whole.unet == Candidate.from_id("RA-RA-RA-none-RARA-RARA-RARA")
    assert Candidate.from_id(whole.id) == whole and whole.unet.unet == whole.unet
    assert Candidate(options={"VE": TEACHER}).is_pipeline, "half a pipeline is not a U-Net either"


def test_every_text_of_levels_is_read_back() -> None:
    levels = (TinyLevel(64, 1), TinyLevel(9999, 99))
    assert parse_vae_option("VE", vae_text(levels)).levels == levels
