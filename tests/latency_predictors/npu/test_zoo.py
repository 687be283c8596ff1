"""Architectures of public models: sizes that their authors publish."""

import pytest

from latency_predictors.npu.zoo import NETWORKS, traced
from search_spaces.errors import UserError

# Published multiply-accumulates in billions: torchvision's model table; for BERT 12 layers of 384 tokens by hand.
GMACS = {
    "resnet18/ResNet18": 1.81,
    "resnet50/ResNet50": 4.09,
    "mobilenet_v2/MobileNet-v2": 0.30,
    "efficientnet_b0/EfficientNet-B0": 0.39,
    "regnet_y_800mf/RegNet-Y-800MF": 0.83,
    "convnext_tiny/ConvNext-Tiny": 4.46,
    "vit/VIT": 17.56,
}


@pytest.mark.parametrize(("name", "gmacs"), GMACS.items())
def test_macs_are_the_published_ones(name, gmacs):
    assert traced(*name.split("/")).num_macs / 1e9 == pytest.approx(gmacs, rel=0.03)


def test_an_unknown_component_lists_the_known_ones():
    with pytest.raises(UserError, match="resnet18/ResNet18"):
        traced("resnet18", "Decoder")


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_architecture_is_recorded(name):
    trace = traced(*name.split("/"))
    assert trace.num_macs > 1e8
    assert all(step.num_written > 0 for step in trace.steps)


@pytest.mark.slow
def test_the_unet_reads_every_parameter_of_stable_diffusion_once():
    frequencies = 160  # of the time embedding: constants, not parameters
    num_weights = sum(step.num_weights for step in traced("stable_diffusion_v1_5", "unet").steps)
    assert num_weights == 859_520_964 + frequencies
