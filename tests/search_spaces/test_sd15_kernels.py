"""Kernel sums of SD 1.5's U-Net at 64x64 latents, against sums written down from its published layout."""

import pytest
from diffusers import UNet2DConditionModel

from search_spaces.costs import CostTable
from search_spaces.space_file import load_space

TOKENS = 77
# Per resolution: channels, input channels of every ResNet block, number of transformer blocks.
LAYOUT = {
    64: (320, [320, 320, 960, 640, 640], 5),
    32: (640, [320, 640, 1920, 1280, 960], 5),
    16: (1280, [640, 1280, 2560, 2560, 1920], 5),
    8: (1280, [1280, 1280, 1280, 1280, 2560, 2560, 2560], 1),
}
HEADS = 8
# Resamplers give these heights, three each way, from and to these channels.
DOWN = {32: 320, 16: 640, 8: 1280}
UP = {64: 640, 32: 1280, 16: 1280}


@pytest.fixture(scope="module")
def sums(sd15_meta: UNet2DConditionModel) -> dict[str, int]:
    table = CostTable.from_unet(sd15_meta, load_space("bk-sdm"), latent_size=64, num_tokens=TOKENS)
    row = table.space.encode(table.space.named("teacher"))[None]
    return dict(zip(table.kernel_names, table.kernels(row)[0].tolist(), strict=True))


@pytest.mark.parametrize("height", LAYOUT)
def test_attention_and_linear_layers(sums: dict[str, int], height: int) -> None:
    channels, _, blocks = LAYOUT[height]
    pixels = height * height
    assert sums[f"attention_macs@{height}"] == blocks * 2 * pixels * channels * (pixels + TOKENS)
    # Self-attention has four square matrices, cross-attention two on the pixels; GEGLU is C -> 8 C, then 4 C -> C.
    on_pixels = pixels * channels * channels * (4 + 2 + 8 + 4)
    assert sums[f"linear_macs@{height}"] == blocks * on_pixels


def test_what_reads_the_text_and_the_time_alone(sums: dict[str, int]) -> None:
    """Keys and values of the text, and the time embedding with its projections, work on no feature map."""
    text = sum(blocks * 2 * TOKENS * 768 * channels for channels, _, blocks in LAYOUT.values())
    time = 320 * 1280 + 1280 * 1280 + sum(1280 * channels * len(inputs) for channels, inputs, _ in LAYOUT.values())
    assert sums["linear_macs@0"] == text + time


@pytest.mark.parametrize("height", LAYOUT)
def test_convolutions(sums: dict[str, int], height: int) -> None:
    channels, inputs, blocks = LAYOUT[height]
    kernels = sum(9 * channels * (given + channels) for given in inputs)
    kernels += 9 * DOWN[height] ** 2 if height in DOWN else 0
    kernels += 9 * UP[height] ** 2 if height in UP else 0
    kernels += 9 * 2 * 4 * 320 if height == 64 else 0  # conv_in and conv_out
    assert sums[f"conv3x3_macs@{height}"] == height * height * kernels
    # Shortcuts where channels change, and the projections into and out of every transformer block.
    pointwise = sum(given * channels for given in inputs if given != channels) + blocks * 2 * channels * channels
    assert sums[f"pointwise_macs@{height}"] == height * height * pointwise


def test_norms_and_softmax(sums: dict[str, int]) -> None:
    group = layer = softmax = 0
    for height, (channels, inputs, blocks) in LAYOUT.items():
        pixels = height * height
        group += pixels * (sum(given + channels for given in inputs) + blocks * channels)
        layer += 3 * blocks * pixels * channels
        softmax += blocks * HEADS * pixels * (pixels + TOKENS)
    assert sums["group_norm_elements"] == group + 64 * 64 * 320  # and conv_norm_out
    assert sums["layer_norm_elements"] == layer
    assert sums["softmax_elements"] == softmax


def test_operator_counts(sums: dict[str, int]) -> None:
    resnets = sum(len(inputs) for _, inputs, _ in LAYOUT.values())
    transformers = sum(blocks for _, _, blocks in LAYOUT.values())
    assert (resnets, transformers) == (22, 16)
    assert sums["num_conv3x3"] == 2 * resnets + 6 + 2
    assert sums["num_group_norm"] == 2 * resnets + transformers + 1
    assert sums["num_layer_norm"] == 3 * transformers
    assert sums["num_softmax"] == 2 * transformers == sums["num_attention"] / 2
    # Four and four in the attentions, two in the feed-forward; one a ResNet block and two for the time embedding.
    assert sums["num_linear"] == 10 * transformers + resnets + 2
