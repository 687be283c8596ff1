"""The roofline: closed forms of single operators, additivity, and what a fit finds back."""

import numpy as np
import pytest
import torch
from torch import nn

from latency_predictors.npu.roofline import Attention, Prior, Roofline, Work, fit, network_ms, operators_ms
from search_spaces.precision import Precision
from search_spaces.tracing import record_operators

PRIOR = Prior()
ROOFLINE = PRIOR.median


def work_of(module: nn.Module, *shape: int, precision=Precision.W8A16, attention=Attention.PER_HEAD) -> Work:
    module = module.to("meta").eval()
    x = torch.empty(shape, device="meta")
    return Work.of(record_operators(lambda: module(x), [x])[0], precision, attention)


def test_a_convolution_bound_by_its_macs_is_macs_over_rate():
    conv = nn.Conv2d(64, 96, 3, padding=1)
    expected = 96 * 64 * 9 * 32 * 32 / 10e9 + 2e-3
    assert operators_ms(ROOFLINE, work_of(conv, 1, 64, 32, 32)) == pytest.approx(expected, rel=1e-12)


def test_channels_that_do_not_fill_a_block_cost_a_whole_one():
    bare = work_of(nn.Conv2d(33, 5, 1), 1, 33, 64, 64)
    assert bare.num[0] == pytest.approx(64 * 32 * 64 * 64)
    assert work_of(nn.Conv2d(3, 32, 3), 1, 3, 8, 8).num[0] == pytest.approx(32 * 32 * 6 * 6)  # 27 inputs: one block


def test_a_linear_layer_of_one_row_is_bound_by_its_weights():
    work = work_of(nn.Linear(2048, 4096, bias=False), 1, 2048)
    assert operators_ms(ROOFLINE, work) == pytest.approx(2048 * 4096 / 60e6 + 2e-3, rel=1e-12)


@pytest.mark.parametrize(("precision", "num_bytes"), [(Precision.W8A16, 2), (Precision.W8A8, 1)])
def test_activations_beyond_the_on_chip_memory_go_through_memory(precision, num_bytes):
    work = work_of(nn.SiLU(), 1, 64, 512, 512, precision=precision)
    assert work.num_bytes[0] == 2 * 64 * 512 * 512 * num_bytes - 8 * 2**20
    assert work_of(nn.SiLU(), 1, 64, 16, 16, precision=precision).num_bytes[0] == 0


class _Attention(nn.Module):
    def forward(self, x):
        return nn.functional.scaled_dot_product_attention(x, x, x)


def test_scores_go_through_memory_only_where_they_are_materialised():
    shape = (1, 8, 4096, 40)
    per_head, materialised = (work_of(_Attention(), *shape, attention=a) for a in Attention)
    scores = 8 * 4096**2
    assert per_head.num_bytes.sum() < scores
    assert materialised.num_bytes.sum() > 3 * 2 * scores
    assert operators_ms(ROOFLINE, materialised) > 2 * operators_ms(ROOFLINE, per_head)


def test_a_network_is_the_sum_of_its_parts_and_one_constant():
    first, second = nn.Conv2d(32, 64, 3), nn.Conv2d(64, 32, 3)
    whole = network_ms(ROOFLINE, work_of(nn.Sequential(first, second), 1, 32, 64, 64))
    parts = operators_ms(ROOFLINE, work_of(first, 1, 32, 64, 64)) + operators_ms(
        ROOFLINE, work_of(second, 1, 64, 62, 62)
    )
    assert whole == pytest.approx(parts + ROOFLINE.constant_ms, rel=1e-12)


def _nets() -> list[Work]:
    nets = [
        work_of(nn.Sequential(*[nn.Conv2d(c, c, 3) for _ in range(n)]), 1, c, s, s)
        for c, s, n in ((64, 64, 4), (320, 64, 3), (128, 128, 6), (640, 32, 8))
    ]
    nets += [work_of(nn.Sequential(*[nn.Linear(w, w) for _ in range(n)]), 512, w) for w, n in ((768, 12), (2048, 6))]
    return [*nets, work_of(nn.Linear(4096, 4096), 1, 4096), work_of(nn.GroupNorm(8, 64), 1, 64, 64, 64)]


def test_without_measurements_the_fit_is_the_data_sheet():
    assert fit([], [], []) == PRIOR.median


def test_a_fit_finds_latencies_of_a_known_device_back_despite_one_gross_error():
    device = Roofline(**{name: value * f for (name, value), f in zip(
        ROOFLINE.model_dump().items(), (1.5, 0.7, 1, 1, 1, 0.6, 1, 1, 1.3, 1.5, 0.7), strict=True
    )})  # fmt: skip
    nets = _nets()
    truth = np.array([network_ms(device, net) for net in nets])
    spoilt = truth.copy()
    spoilt[0] *= 4
    found = fit(nets, list(spoilt), [0.02] * len(nets))
    error = np.array([network_ms(found, net) for net in nets]) / truth - 1
    assert np.abs(error[1:]).max() < 0.05
    before = np.array([network_ms(ROOFLINE, net) for net in nets]) / truth - 1
    assert np.abs(before).max() > 0.25
