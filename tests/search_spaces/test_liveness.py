"""Operator records, lives of activations and kernel sums against closed forms."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces.liveness import AFTER, BEFORE, Life, Liveness, alive, merged
from search_spaces.precision import Precision
from search_spaces.tracing import Trace, record_operators


def recorded(function: Callable[..., object], *inputs: Tensor) -> Trace:
    return record_operators(lambda: function(*inputs), inputs)[0]


def peak(trace: Trace) -> int:
    """Peak of a network by itself, whose inputs and outputs stay."""
    part = Liveness.of(trace)
    everything = {*zip(trace.inputs, part.inputs, strict=True), *zip(trace.outputs, part.outputs, strict=True)}
    return part.peak(life._replace(last=AFTER) for life in dict(everything).values())


def test_a_chain_holds_its_input_and_two_more() -> None:
    x = torch.empty(1, 3, 4, 4)
    trace = recorded(lambda x: x.relu().relu().relu().relu(), x)
    assert trace.sums == {
        "num_elementwise": 4,
        "elementwise_elements": 4 * 48,
        "traffic_elements": 4 * 2 * 48,
    }
    assert peak(trace) == 3 * 48  # the network's input, an operator's input, its output


def test_a_skip_lives_until_it_is_read() -> None:
    def network(x: Tensor) -> Tensor:
        skip = x.relu()
        return skip + skip.relu().relu().relu()

    assert peak(recorded(network, torch.empty(1, 1, 5, 5))) == 4 * 25  # input, skip, and two in the middle


def test_what_nothing_reads_dies_at_once() -> None:
    def network(x: Tensor) -> Tensor:
        torch.cat([x, x, x, x])  # 4 x, and x itself: the peak
        return x.relu().relu()

    assert peak(recorded(network, torch.empty(1, 1, 5, 5))) == 5 * 25


def test_views_are_what_they_look_into() -> None:
    def network(x: Tensor) -> tuple[Tensor, Tensor]:
        hidden, gate = x.relu().view(2, 20).t().chunk(2)
        return hidden * gate.sigmoid(), x.view(40)

    x = torch.empty(1, 1, 5, 8)
    trace = recorded(network, x)
    # relu 40 -> 40, sigmoid 20 -> 20, product 20 and 20 -> 20
    assert trace.sums["traffic_elements"] == 80 + 40 + 60
    # Both halves stay as long as one is read: x, relu's 40, sigmoid's 20, product's 20.
    assert peak(trace) == 40 + 40 + 20 + 20
    assert trace.outputs[1] == trace.inputs[0]


def test_parameters_constants_and_identities_cost_nothing() -> None:
    linear = nn.Linear(4, 6)

    def network(x: Tensor) -> Tensor:
        frequencies = torch.arange(6).float().exp() / 3
        return linear(x) / 1.0 * 1 + frequencies

    trace = recorded(network, torch.empty(5, 4))
    assert trace.sums == {
        "num_linear": 1,
        "linear_macs@0": 5 * 4 * 6,
        "num_elementwise": 1,
        "elementwise_elements": 30,
        "traffic_elements": (20 + 30) + (30 + 30),
    }


def test_attention_is_recorded_with_its_scores() -> None:
    q, k, v = torch.empty(2, 3, 8, 5), torch.empty(2, 3, 7, 5), torch.empty(2, 3, 7, 4)
    trace = recorded(F.scaled_dot_product_attention, q, k, v)
    scores = 2 * 3 * 8 * 7
    assert trace.num_macs == trace.sums["attention_macs@8"] == scores * (5 + 4)
    assert trace.sums["softmax_elements"] == scores
    assert (trace.sums["num_attention"], trace.sums["num_softmax"]) == (2, 1)
    scaling = 2 * (q.numel() + k.numel())
    products = (q.numel() + k.numel() + scores) + (scores + v.numel() + 2 * 3 * 8 * 4)
    assert trace.sums["traffic_elements"] == scaling + products + 2 * scores


@pytest.mark.parametrize(
    ("layer", "name", "macs"),
    [
        (nn.Conv2d(6, 8, 3, padding=1), "conv3x3", 8 * 6 * 9 * 12 * 10),
        (nn.Conv2d(6, 8, 3, stride=2, padding=1), "conv3x3", 8 * 6 * 9 * 6 * 5),
        (nn.Conv2d(6, 8, (1, 5), padding=(0, 2)), "conv1x5", 8 * 6 * 5 * 12 * 10),
        (nn.Conv2d(6, 8, 1), "pointwise", 8 * 6 * 12 * 10),
        (nn.Conv2d(6, 6, 3, padding=1, groups=6), "depthwise", 6 * 9 * 12 * 10),
    ],
)
def test_convolutions_by_class_and_height(layer: nn.Conv2d, name: str, macs: int) -> None:
    trace = recorded(layer, torch.empty(1, 6, 12, 10))
    height = 6 if layer.stride[0] == 2 else 12
    assert trace.sums[f"{name}_macs@{height}"] == trace.num_macs == macs
    assert trace.sums[f"num_{name}"] == 1


def test_norms_write_one_tensor() -> None:
    x = torch.empty(2, 6, 4, 4)
    trace = recorded(lambda x: nn.LayerNorm(4)(nn.GroupNorm(3, 6)(x)), x)
    assert trace.sums == {
        "num_group_norm": 1,
        "group_norm_elements": 192,
        "num_layer_norm": 1,
        "layer_norm_elements": 192,
        "traffic_elements": 4 * 192,
    }


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (torch.erfinv, r"aten\.erfinv is in no table"),
        (nn.ConvTranspose2d(6, 6, 3, groups=3), r"groups 3, transposed True has no class"),
    ],
)
def test_unknown_operators_raise(network: Callable[..., Tensor], message: str) -> None:
    with pytest.raises(NotImplementedError, match=message):
        recorded(network, torch.zeros(1, 6, 5, 5))


def test_the_same_operators_on_every_device() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).train()  # eval() fuses all of it into one operator
    layer.dropout.p = layer.dropout1.p = layer.dropout2.p = layer.self_attn.dropout = 0.0
    x = torch.randn(1, 5, 8)
    assert recorded(layer, x).sums == recorded(layer.to("meta"), x.to("meta")).sums


LIVES = st.lists(
    st.tuples(st.integers(1, 9), st.integers(BEFORE, 11), st.integers(BEFORE, 11) | st.just(AFTER)).map(
        lambda life: Life(life[0], min(life[1:]), max(life[1:]))
    ),
    max_size=8,
)


@given(LIVES)
def test_alive_is_a_sum_over_lives(lives: list[Life]) -> None:
    expected = [sum(life.size for life in lives if life.birth <= step <= life.last) for step in range(12)]
    assert alive(lives, 12).tolist() == expected


@given(LIVES, LIVES)
def test_peak_is_the_largest_sum(inside: list[Life], around: list[Life]) -> None:
    part = Liveness(alive(inside, 12), (), (), ())
    every = [*inside, *around]
    assert part.peak(around) == max(sum(e.size for e in every if e.birth <= step <= e.last) for step in range(12))
    assert Liveness(np.zeros(0, dtype=np.int64), (), (), ()).peak(around) == 0


def test_merged_lives_are_one() -> None:
    assert merged([Life(5, 2, 4), Life(5, BEFORE, BEFORE), Life(5, 3, 9)]) == Life(5, BEFORE, 9)


def test_precisions_in_bytes() -> None:
    table = {p: (p.bytes_per_weight, p.bytes_per_vector, p.bytes_per_activation) for p in Precision}
    assert table == {"fp32": (4, 4, 4), "fp16": (2, 2, 2), "w8a16": (1, 4, 2), "w8a8": (1, 4, 1)}
