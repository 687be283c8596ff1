"""Classes and MACs of operators, against torch's own counter."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from search_spaces.tracing import record_operators

CASES = [
    (nn.Conv1d(8, 12, 3), (2, 8, 20), "conv3"),
    (nn.Conv2d(8, 12, (3, 1)), (1, 8, 9, 9), "conv3x1"),
    (nn.Conv3d(4, 6, 2), (1, 4, 5, 5, 5), "conv2x2x2"),
    (nn.Conv2d(8, 12, 1), (1, 8, 9, 9), "pointwise"),
    (nn.Conv2d(8, 16, 3, groups=8), (1, 8, 9, 9), "depthwise"),
    (nn.Conv2d(8, 12, 3, groups=4), (1, 8, 9, 9), "grouped"),
    (nn.ConvTranspose2d(8, 12, 2, stride=2), (1, 8, 9, 9), "transposed"),
    (nn.Linear(8, 12), (5, 8), "linear"),
]


@pytest.mark.parametrize(("module", "shape", "name"), CASES, ids=[case[2] for case in CASES])
def test_macs_are_half_of_torchs_flops(module, shape, name):
    x = torch.empty(shape)
    trace, _ = record_operators(lambda: module(x), [x])
    with FlopCounterMode(display=False) as counter:
        module(x)
    step = trace.steps[0]
    assert step.kernel.name == name
    assert trace.num_macs == step.kernel.macs == counter.get_total_flops() // 2
    assert step.num_weights == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("module", "shape", "name"), CASES, ids=[case[2] for case in CASES])
def test_contracted_times_produced_times_rows_are_the_macs(module, shape, name):
    x = torch.empty(shape)
    trace, result = record_operators(lambda: module(x), [x])
    kernel = trace.steps[0].kernel
    groups = getattr(module, "groups", 1)
    outputs = x.numel() // 8 * 4 * 12 if name == "transposed" else result.numel()  # every input makes 2 x 2 outputs
    assert kernel.macs == kernel.num_contracted * outputs
    assert kernel.num_produced == (12 if groups == 1 and name not in ("conv2x2x2",) else result.shape[1] // groups)


def test_a_batch_norm_in_eval_mode_is_folded_away():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    x = torch.empty(1, 3, 8, 8)
    trace, _ = record_operators(lambda: net(x), [x])
    assert [step.kernel.name for step in trace.steps] == ["conv3x3", "elementwise"]


def test_an_embedding_reads_only_its_rows():
    table = nn.Embedding(1000, 16)
    x = torch.zeros(1, 7, dtype=torch.long)
    trace, _ = record_operators(lambda: table(x), [x])
    assert trace.steps[0].num_weights == 7 * 16
