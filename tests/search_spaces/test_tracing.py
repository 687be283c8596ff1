"""Operators on ``meta`` whose layouts are remembered give what PyTorch gives."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from search_spaces.tracing import record_operators


def test_remembered_layouts_are_pytorchs() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=8, block_out_channels=(4, 8, 8, 8), norm_num_groups=2, attention_head_dim=2,
            cross_attention_dim=8,
        ).eval()  # fmt: skip
        inputs = torch.empty(2, 4, 8, 8), torch.empty(2), torch.empty(2, 5, 8)
    first, _ = record_operators(lambda: unet(*inputs, return_dict=False), inputs)
    again, (result,) = record_operators(lambda: unet(*inputs, return_dict=False), inputs)
    assert again == first, "the second time every layout is remembered"
    with torch.no_grad():
        (wanted,) = unet(*inputs, return_dict=False)
    assert (result.shape, result.stride(), result.dtype) == (wanted.shape, wanted.stride(), wanted.dtype)


def test_what_tells_results_apart_is_remembered_too() -> None:
    """Whole and real factors, dtypes and strides; views stay views of what they look into."""
    whole = torch.empty(3, 4, dtype=torch.int64, device="meta")
    real = torch.empty(3, 4, device="meta")

    def results() -> list[Tensor]:
        made = [whole * 2, whole * 2.0, real * 2, real.t() * 2, real + real, real + 1, (real + 1).to(torch.float64)]
        return [*made, *real.split(2, dim=1), torch.ops.aten._unsafe_view(real, [12]), real.clone()]

    wanted = [(r.shape, r.stride(), r.dtype) for r in results()]
    for _ in range(2):
        trace, found = record_operators(results, [whole, real])
        assert [(r.shape, r.stride(), r.dtype) for r in found] == wanted
        assert trace.outputs[7:10] == (1, 1, 1), "views of the second input"
        assert len(set(trace.outputs)) == len(found) - 3 + 1
