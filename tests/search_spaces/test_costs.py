"""Cost tables against built modules, a second counter and published figures."""

import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from fvcore.nn import FlopCountAnalysis

from search_spaces.costs import CostTable, check_space, meta_copy
from search_spaces.counting import MacCounter
from search_spaces.errors import UserError
from search_spaces.space import SearchSpace, load_space
from search_spaces.surgery import assemble


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    query, key, value = (i.type().sizes() for i in inputs[:3])
    batch_heads = int(np.prod(query[:-2]))
    return Counter(attention=batch_heads * query[-2] * key[-2] * (query[-1] + value[-1]))


def _nothing(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    return Counter()


def fvcore_macs(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> int:
    """MACs by fvcore, which walks a traced graph; told how to count attention, and to count no norm."""
    analysis = FlopCountAnalysis(model, inputs).unsupported_ops_warnings(False).tracer_warnings("none")
    analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
    for norm in ("group_norm", "layer_norm", "upsample_nearest2d"):
        analysis.set_op_handle(f"aten::{norm}", _nothing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return int(analysis.total())


def test_costs_equal_built_modules_and_fvcore(small_unet: UNet2DConditionModel) -> None:
    space = load_space("nanosd")
    table = CostTable.from_unet(small_unet, space, latent_size=8, num_tokens=6, batch=2)
    inputs = (torch.randn(2, 4, 8, 8), torch.tensor([3, 4]), torch.randn(2, 6, 32))
    for row in space.sample(np.random.default_rng(2), 6):
        candidate = space.decode(row)
        staged = assemble(small_unet, candidate, copy=False)
        cost = table.cost(candidate)
        assert cost.num_params == sum(p.numel() for p in staged.parameters())
        with torch.no_grad(), MacCounter() as counter:
            staged(*inputs)
        assert cost.num_macs == counter.num_macs == fvcore_macs(staged, inputs)
    assert table.teacher.num_macs == fvcore_macs(small_unet, inputs)


def test_sd15_costs_equal_the_published_figures(sd15_meta: UNet2DConditionModel) -> None:
    space = load_space("bk-sdm")
    table = CostTable.from_unet(sd15_meta, space, latent_size=64, num_tokens=77)
    assert table.teacher.num_params == 859_520_964 == table.cost(space.named("teacher")).num_params
    assert table.teacher.num_macs == table.cost(space.named("teacher")).num_macs
    # nanosd-facts: about 401 GMACs at 64x64 latents with the attention products, 339.0 without.
    assert round(table.teacher.num_macs / 1e9) in (401, 402)
    assert table.base_num_params == 2_074_564
    matrix = space.enumerate()
    assert table.params(matrix).min() == 323_384_964
    assert len(table.macs(matrix)) == space.num_candidates


def test_unknown_operators_raise() -> None:
    zeros = torch.zeros(2)
    with pytest.raises(NotImplementedError, match=r"aten\.erfinv"), MacCounter():
        torch.erfinv(zeros)


def test_spaces_that_do_not_fit_the_teacher_are_refused(small_unet: UNet2DConditionModel) -> None:
    meta = meta_copy(small_unet)
    options = dict(load_space("nanosd").options)
    with pytest.raises(UserError, match="this teacher's are E1 E2 E3 deep D3 D2 D1"):
        check_space(meta, SearchSpace(name="x", options={"E1": ("R",), "deep": ("none",), "D1": ("R",)}))
    with pytest.raises(UserError, match=r"D2: 'R@3' has no teacher layer"):
        check_space(meta, SearchSpace(name="x", options={**options, "D2": ("RARARA", "R@3")}))
    with pytest.raises(UserError, match="write option 'RR@1"):
        check_space(meta, SearchSpace(name="x", options={**options, "D2": ("RR@1+3",)}))
