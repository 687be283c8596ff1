"""Slimmed layers against closed forms: where what is dropped adds nothing, or a constant, nothing may change."""

import copy

import numpy as np
import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from search_spaces.errors import UserError
from search_spaces.importance import HiddenChannels, activation_moments, gated_moments, head_energies
from search_spaces.layers import SeparableConv2d
from search_spaces.slimming import Selection, kept_parts, slim_attention, slim_resnet
from search_spaces.stage_option import Attention, Conv, Internals

HALF = Internals(resnet_width=0.5)
NUM_CHANNELS, GROUPS, TEMB = 16, 4, 12


@pytest.fixture
def resnet() -> ResnetBlock2D:
    torch.manual_seed(1)
    block = ResnetBlock2D(in_channels=8, out_channels=NUM_CHANNELS, temb_channels=TEMB, groups=GROUPS).double().eval()
    with torch.no_grad():
        for norm in (block.norm1, block.norm2):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_()
    return block


@pytest.fixture
def transformer() -> Transformer2DModel:
    torch.manual_seed(2)
    block = Transformer2DModel(4, 4, in_channels=16, num_layers=2, cross_attention_dim=6, norm_num_groups=4)
    with torch.no_grad():
        for module in block.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
    return block.double().eval()


def resnet_output(block: nn.Module, batch: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(batch, 8, 6, 5, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        return block(x, torch.randn(batch, TEMB, generator=generator, dtype=torch.float64))


def transformer_output(block: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(2, 16, 3, 5, generator=generator, dtype=torch.float64)
    context = torch.randn(2, 7, 6, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        return block(x, encoder_hidden_states=context, return_dict=False)[0]


def num_params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_teachers_internals_give_the_very_block(resnet: ResnetBlock2D, transformer: Transformer2DModel) -> None:
    assert slim_resnet(resnet, Internals(ff_width=0.5, heads=0.5, attention=Attention.SELF)) is resnet
    assert slim_attention(transformer, Internals(resnet_width=0.5, conv=Conv.SEPARABLE)) is transformer


def test_channels_that_the_output_does_not_read_go_first(resnet: ResnetBlock2D) -> None:
    """In each group the first two channels are copies of the last two, and only the last two are read."""
    groups = torch.arange(NUM_CHANNELS).view(GROUPS, -1)
    first, last = groups[:, :2].flatten(), groups[:, 2:].flatten()
    with torch.no_grad():
        for layer in (resnet.conv1, resnet.time_emb_proj, resnet.norm2):
            layer.weight[first] = layer.weight[last]
            layer.bias[first] = layer.bias[last]
        resnet.conv2.weight[:, first] = 0
    slim = slim_resnet(resnet, HALF)
    assert torch.equal(slim.conv1.weight, resnet.conv1.weight[last])
    torch.testing.assert_close(resnet_output(slim), resnet_output(resnet), rtol=0, atol=1e-12)
    assert (resnet_output(slim_resnet(resnet, HALF, Selection.FIRST)) - resnet_output(resnet)).abs().max() > 0.01


def test_norm_and_bias_make_up_for_constant_channels(resnet: ResnetBlock2D) -> None:
    """Hidden channels that depend on nothing but their bias: what is dropped is a constant, known exactly."""
    with torch.no_grad():
        resnet.norm1.weight.zero_()
        resnet.time_emb_proj.weight.zero_()
        for conv in (resnet.conv1, resnet.conv2):  # no edges, where a constant input is padded with zeros
            conv.weight *= torch.zeros(3, 3).index_put((torch.tensor(1), torch.tensor(1)), torch.tensor(1.0))
    torch.testing.assert_close(resnet_output(slim_resnet(resnet, HALF)), resnet_output(resnet), rtol=0, atol=1e-9)


def test_hidden_channels_are_as_the_block_computes_them(resnet: ResnetBlock2D) -> None:
    """The block's own layers on inputs drawn from the model: many samples of one position, equal over the kernel."""
    temb = torch.randn(3, TEMB, dtype=torch.float64)
    hidden = HiddenChannels.of(resnet, temb)
    num = 100_000
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num, 8, 1, 1, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        read = resnet.nonlinearity(x * resnet.norm1.weight[:, None, None] + resnet.norm1.bias[:, None, None])
        channels = nn.functional.conv2d(read.expand(-1, -1, 3, 3), resnet.conv1.weight, resnet.conv1.bias)[..., 0, 0]
        shifts = resnet.time_emb_proj(resnet.nonlinearity(temb))
        activated = []
        for t, shift in enumerate(shifts):
            at_t = channels + shift
            torch.testing.assert_close(hidden.mean[t], at_t.mean(0), rtol=0, atol=0.02)
            # A group's statistics over all positions are those over all samples.
            as_positions = at_t.T[None, :, :, None]
            activated.append(resnet.nonlinearity(resnet.norm2(as_positions))[0, :, :, 0])
        torch.testing.assert_close(hidden.variance, channels.var(0), rtol=0.03, atol=0)
    mean, variance = hidden.activated(resnet.nonlinearity)
    drawn = torch.cat(activated, dim=1)
    # Hidden channels are sums of few skewed numbers here, not quite normal: the tolerance is for that.
    torch.testing.assert_close(mean, drawn.mean(1), rtol=0, atol=0.05)
    torch.testing.assert_close(variance, drawn.var(1), rtol=0.25, atol=0.01)


def test_moments_are_integrals() -> None:
    norm = nn.GroupNorm(1, 3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.3, -1.5, 0.0]))
        norm.bias.copy_(torch.tensor([0.5, -1.0, 2.0]))
    mean, variance = activation_moments(norm, nn.SiLU())
    z = np.linspace(-10, 10, 200_001)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    for i, (scale, centre) in enumerate(zip([0.3, 1.5, 0.0], [0.5, -1.0, 2.0], strict=True)):
        x = centre + scale * z
        silu = x / (1 + np.exp(-x))
        expected = np.trapezoid(silu * density, z)
        assert mean[i].item() == pytest.approx(expected, abs=1e-7)
        assert variance[i].item() == pytest.approx(np.trapezoid((silu - expected) ** 2 * density, z), abs=1e-6)


def test_gated_moments_are_those_of_samples(transformer: Transformer2DModel) -> None:
    layer = transformer.transformer_blocks[0]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100_000, 16, generator=generator, dtype=torch.float64) * layer.norm3.weight + layer.norm3.bias
    with torch.no_grad():
        units = layer.ff.net[0](x)
        mean, variance = gated_moments(layer.norm3, layer.ff.net[0].proj)
    torch.testing.assert_close(mean, units.mean(0), rtol=0, atol=0.03)
    torch.testing.assert_close(variance, units.var(0), rtol=0.08, atol=0.002)


def test_constant_and_unread_units_cost_nothing(transformer: Transformer2DModel) -> None:
    units = 64
    with torch.no_grad():
        for layer in transformer.transformer_blocks:
            proj, last = layer.ff.net[0].proj, layer.ff.net[-1]
            last.weight[:, :16] = 0  # not read
            for start in (16, units + 16):  # constant, in value and gate
                proj.weight[start : start + 16] = 0
    slim = slim_attention(transformer, Internals(ff_width=0.5))
    assert slim.transformer_blocks[0].ff.net[-1].in_features == units // 2
    torch.testing.assert_close(transformer_output(slim), transformer_output(transformer), rtol=0, atol=1e-12)


def test_unread_heads_go_first(transformer: Transformer2DModel) -> None:
    with torch.no_grad():
        for layer in transformer.transformer_blocks:
            layer.attn1.to_out[0].weight[:, :8] = 0
            layer.attn2.to_v.weight[[*range(4), *range(8, 12)]] = 0
    slim = slim_attention(transformer, Internals(heads=0.5))
    torch.testing.assert_close(transformer_output(slim), transformer_output(transformer), rtol=0, atol=1e-12)


def test_energy_of_heads_is_the_norm_of_their_matrices(transformer: Transformer2DModel) -> None:
    layer = transformer.transformer_blocks[0]
    for attention, norm in ((layer.attn1, layer.norm1), (layer.attn2, layer.norm2)):
        scale = norm.weight if attention is layer.attn1 else torch.ones(6)
        expected = [
            torch.linalg.matrix_norm(attention.to_out[0].weight[:, rows] @ attention.to_v.weight[rows] * scale).square()
            for rows in torch.arange(16).view(4, 4)
        ]
        torch.testing.assert_close(head_energies(attention, norm), torch.stack(expected).detach())


@pytest.mark.parametrize(("kind", "dropped"), [(Attention.CROSS, "attn1"), (Attention.SELF, "attn2")])
def test_an_attention_that_adds_a_constant_can_go(
    transformer: Transformer2DModel, kind: Attention, dropped: str
) -> None:
    with torch.no_grad():
        for number, layer in enumerate(transformer.transformer_blocks):
            attention = getattr(layer, dropped)
            attention.to_out[0].bias.normal_()
            if kind is Attention.CROSS and number:
                layer.norm1.weight.zero_()  # the same input at every position
            else:
                attention.to_v.weight.zero_()
    slim = slim_attention(transformer, Internals(attention=kind))
    assert all(getattr(layer, dropped) is None for layer in slim.transformer_blocks)
    torch.testing.assert_close(transformer_output(slim), transformer_output(transformer), rtol=0, atol=1e-12)


def test_separable_convolutions_are_the_nearest_of_their_kind(resnet: ResnetBlock2D) -> None:
    slim = slim_resnet(resnet, Internals(conv=Conv.SEPARABLE))
    for conv, full in ((slim.conv1, resnet.conv1), (slim.conv2, resnet.conv2)):
        assert isinstance(conv, SeparableConv2d)
        with torch.no_grad():
            kernel = conv.pointwise.weight * conv.depthwise.weight.permute(1, 0, 2, 3)
        singular = torch.linalg.svdvals(full.weight.detach().permute(1, 0, 2, 3).flatten(2))
        error = (kernel - full.weight.detach()).square().sum()
        torch.testing.assert_close(error, singular[:, 1:].square().sum())
        x = torch.randn(2, full.in_channels, 5, 4, dtype=torch.float64)
        with torch.no_grad():
            expected = nn.functional.conv2d(x, kernel, full.bias, padding=1)
            torch.testing.assert_close(conv(x), expected)


def test_kernels_of_rank_one_separate_without_loss(resnet: ResnetBlock2D) -> None:
    with torch.no_grad():
        for conv in (resnet.conv1, resnet.conv2):
            mixing, filters = (
                torch.randn(conv.out_channels, conv.in_channels, 1, 1),
                torch.randn(conv.in_channels, 3, 3),
            )
            conv.weight.copy_(mixing.double() * filters)
    slim = slim_resnet(resnet, Internals(conv=Conv.SEPARABLE))
    torch.testing.assert_close(resnet_output(slim), resnet_output(resnet), rtol=0, atol=1e-12)


@pytest.mark.parametrize("selection", list(Selection))
def test_the_given_block_stays_as_it_is(
    resnet: ResnetBlock2D, transformer: Transformer2DModel, selection: Selection
) -> None:
    outputs = resnet_output(resnet), transformer_output(transformer)
    internals = Internals(0.5, 0.25, 0.5, Attention.CROSS, Conv.SEPARABLE)
    slim_resnet(resnet, internals, selection)
    slim_attention(transformer, internals, selection)
    slim_attention(transformer, Internals(attention=Attention.SELF), selection)
    assert torch.equal(resnet_output(resnet), outputs[0])
    assert torch.equal(transformer_output(transformer), outputs[1])


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_parameters_are_those_of_the_widths(
    resnet: ResnetBlock2D, transformer: Transformer2DModel, ratio: float
) -> None:
    k, c_in, c_out = int(ratio * NUM_CHANNELS), 8, NUM_CHANNELS
    shared = 2 * c_in + (TEMB + 1) * k + 2 * k + (c_in + 1) * c_out  # norms, time embedding, shortcut
    assert num_params(slim_resnet(resnet, Internals(ratio))) == shared + (9 * c_in + 1) * k + (9 * k + 1) * c_out
    separable = slim_resnet(resnet, Internals(ratio, conv=Conv.SEPARABLE))
    assert num_params(separable) == shared + 9 * c_in + (c_in + 1) * k + 9 * k + (k + 1) * c_out

    c, text, units, heads = 16, 6, int(ratio * 64), int(ratio * 16)
    feed_forward = 2 * c + (c + 1) * 2 * units + (units + 1) * c
    cross_attention = 2 * c + c * heads + 2 * text * heads + (heads + 1) * c
    self_attention = 2 * c + 3 * c * heads + (heads + 1) * c
    projections = 2 * c + 2 * (c + 1) * c
    for kind, attentions in (
        (Attention.BOTH, self_attention + cross_attention),
        (Attention.CROSS, cross_attention),
        (Attention.SELF, self_attention),
    ):
        slim = slim_attention(transformer, Internals(ff_width=ratio, heads=ratio, attention=kind))
        assert num_params(slim) == projections + 2 * (attentions + feed_forward)


def test_random_initialisation_keeps_what_was_not_cut(resnet: ResnetBlock2D) -> None:
    slim = slim_resnet(resnet, HALF, Selection.RANDOM)
    assert torch.equal(slim.norm1.weight, resnet.norm1.weight)
    assert torch.equal(slim.norm2.weight, torch.ones(NUM_CHANNELS // 2))
    assert not torch.isin(slim.conv1.weight, resnet.conv1.weight).any()


def test_random_initialisation_draws_from_its_own_generator(
    resnet: ResnetBlock2D, transformer: Transformer2DModel
) -> None:
    internals = Internals(0.5, 0.25, 0.5)

    def drawn(seed: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        slim = slim_resnet(resnet, internals, Selection.RANDOM, generator=generator)
        other = slim_resnet(resnet, internals, Selection.RANDOM, generator=generator)
        layer = slim_attention(transformer, internals, Selection.RANDOM, generator).transformer_blocks[0]
        return [slim.conv1.weight, other.conv1.weight, layer.attn1.to_q.weight, layer.ff.net[-1].weight]

    state = torch.get_rng_state()
    first, again, others = drawn(1), drawn(1), drawn(2)
    assert torch.equal(torch.get_rng_state(), state)
    for one, same, different in zip(first, again, others, strict=True):
        assert torch.equal(one, same) and not torch.isin(one, different).any()
        # Uniform with torch's bound, the inverse root of the inputs of one output.
        bound = one[0].numel() ** -0.5
        assert one.abs().max() <= bound and 0.8 < one.std() / (bound / 3**0.5) < 1.2
    assert not torch.isin(first[0], first[1]).any()


def test_weights_keep_precision_and_whether_they_train(resnet: ResnetBlock2D) -> None:
    half = copy.deepcopy(resnet).half().requires_grad_(False)
    slim = slim_resnet(half, Internals(0.5, conv=Conv.SEPARABLE))
    assert all(p.dtype == torch.float16 and not p.requires_grad for p in slim.parameters())
    assert all(p.requires_grad for p in slim_resnet(resnet, HALF).parameters())


@pytest.mark.parametrize(
    ("decision", "ratio", "total", "groups", "expected"),
    [
        (
            "resnet_width",
            0.25,
            320,
            32,
            "leaves 80 of 320 hidden channels, which 32 groups do not divide; legal are 0.1, ",
        ),
        ("resnet_width", 0.05, 320, 32, "leaves 16 of 320"),
        ("heads", 0.5, 5, 1, "leaves 2.5 of 5 attention heads, no whole number; legal are 0.2, 0.4, 0.6, 0.8, 1"),
        ("ff_width", 0.501, 1280, 1, r"legal are 0.00078125, 0.0015625, 0.00234375, ..., 1 \(k/1280\)"),
    ],
)
def test_widths_that_do_not_divide_are_refused(
    decision: str, ratio: float, total: int, groups: int, expected: str
) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        kept_parts(decision, ratio, total, groups)
    assert "\n" not in str(caught.value)


def test_every_width_has_one_ratio_with_six_digits() -> None:
    for total, groups in ((96, 32), (320, 32), (1280, 32), (5120, 1)):
        steps = total // groups
        kept = [kept_parts("ff_width", float(f"{k / steps:g}"), total, groups) for k in range(1, steps + 1)]
        assert kept == [k * groups for k in range(1, steps + 1)]
    with pytest.raises(UserError):
        kept_parts("heads", 0.3333, 3, 1)
