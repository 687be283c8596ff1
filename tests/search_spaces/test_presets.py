"""The presets: what is in them, that it fits SD 1.5 and the toy teacher alike, and the figures they claim."""

import math

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel

from nas.random_teacher import SD15_UNET, SD15_VAE, TOY_UNET, TOY_VAE
from search_spaces.space_file import load_space, preset_names
from search_spaces.stage_costs import check_space
from search_spaces.surgery import assemble
from search_spaces.vae import build_vae_stage


def num_params(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def sd15() -> tuple[UNet2DConditionModel, AutoencoderKL]:
    with torch.device("meta"):
        return UNet2DConditionModel(**SD15_UNET), AutoencoderKL(**SD15_VAE)


@pytest.fixture(scope="module")
def toy() -> tuple[UNet2DConditionModel, AutoencoderKL]:
    with torch.device("meta"):
        return UNet2DConditionModel(**TOY_UNET), AutoencoderKL(**TOY_VAE)


@pytest.mark.parametrize("name", preset_names())
def test_named_candidates_are_in_their_space(name: str) -> None:
    space = load_space(name)
    assert space.name == name and space.description
    assert space.candidates
    assert all(space.contains(space.named(candidate)) for candidate in space.candidates)


@pytest.mark.parametrize("name", preset_names())
@pytest.mark.parametrize("teacher", ["sd15", "toy"])
def test_every_option_fits_both_teachers(name: str, teacher: str, request: pytest.FixtureRequest) -> None:
    unet, vae = request.getfixturevalue(teacher)
    check_space(unet, load_space(name), vae)


def test_sizes() -> None:
    sizes = {name: load_space(name).num_candidates for name in preset_names()}
    assert sizes["nanosd"] == 32_768 == 4**3 * 8**3
    assert sizes["toy"] == 24_576 == 4**3 * 8**2 * 6
    assert sizes["nanosd-widths"] == 110_880 == 4 * 6 * 6 * 11 * 10 * 7
    assert sizes["bk-sdm"] == 256
    assert sizes["tinysd"] == 10_125 == 3**4 * 5**3
    joint = load_space("nanosd-joint")
    assert joint.num_candidates >= 10**12
    assert math.prod(joint.sizes) < 2**62  # index vectors and ranks fit 64-bit integers
    assert max(joint.stage_sizes) < 2000  # cost tables stay quick to make
    # Networks counted by hand, stage by stage: words with attention have every decision, others only width and conv.
    with_attention, without = 2 * 2 * 2 * 2, 2 * 2
    assert joint.stage_sizes[0] == 2 * with_attention + 2 * without
    assert joint.stage_sizes[1] == 2 * (2 * 2 * 2 * 3) + 2 * 2
    assert joint.stage_sizes[3] == 3 * 2 + 1
    assert joint.stage_sizes[7:] == (1 + 2**3 * 2 * 3 * 2 * 2, 1 + 2**3 * 2 * 2 * 2 * 2, 3)


@pytest.mark.parametrize(
    ("space", "name", "published"),
    [
        ("tinysd", "teacher", 859_520_964),
        ("tinysd", "sd-small", 579_384_964),
        ("tinysd", "sd-tiny", 323_384_964),
        ("bk-sdm", "bk-sdm-small", 482_346_884),
    ],
)
def test_published_layouts(
    space: str, name: str, published: int, sd15: tuple[UNet2DConditionModel, AutoencoderKL]
) -> None:
    assert num_params(assemble(sd15[0], load_space(space).named(name), copy=False)) == published


def test_vae_students(sd15: tuple[UNet2DConditionModel, AutoencoderKL]) -> None:
    joint = load_space("nanosd-joint")
    student, tiny = joint.named("nanosd-student").options, joint.named("autoencoder-tiny").options
    with torch.device("meta"):
        built = {
            (stage, options[stage]): num_params(build_vae_stage(sd15[1], stage, options[stage], copy=False))
            for options in (student, tiny)
            for stage in ("VE", "VD")
        }
        reference = AutoencoderTiny()
    assert built["VE", student["VE"]] == 2_000_328
    assert built["VD", student["VD"]] == 1_333_315
    # Mean and variance are 4 channels more than AutoencoderTiny's encoder gives, each 3 x 3 x 64 weights and a bias.
    assert built["VE", tiny["VE"]] == num_params(reference.encoder) + 4 * (9 * 64 + 1)
    assert built["VD", tiny["VD"]] == num_params(reference.decoder)
