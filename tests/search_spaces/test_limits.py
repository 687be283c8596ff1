"""Where a teacher, latents or budgets end what can be counted or drawn: one line says so."""

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from nas.teacher import load_shapes
from search_spaces.costs import CostTable, check_space
from search_spaces.errors import UserError
from search_spaces.sampling import sample_within
from search_spaces.space import Indices, SearchSpace
from search_spaces.stages import check_supported, stage_names
from search_spaces.surgery import assemble, teacher_candidate


def teacher(num_levels: int = 2, **config: object) -> UNet2DConditionModel:
    sizes = {"block_out_channels": (8,) * num_levels, "norm_num_groups": 8, "attention_head_dim": 2}
    blocks = {
        "down_block_types": (*("CrossAttnDownBlock2D",) * (num_levels - 1), "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * (num_levels - 1)),
    }
    return UNet2DConditionModel(**{"layers_per_block": 1, "cross_attention_dim": 8, **sizes, **blocks, **config}).eval()


def own_space(unet: UNet2DConditionModel, **options: tuple[str, ...]) -> SearchSpace:
    own = {stage: (word,) for stage, word in teacher_candidate(unet).options.items()}
    return SearchSpace(name="own", options={**own, **options})


def test_norm_groups_of_a_single_value_are_named_by_stage_and_option() -> None:
    unet, _ = load_shapes("toy")
    word = teacher_candidate(unet).options["deep"]
    space = own_space(unet, deep=(word, f"{word}_w0.125"))
    check_space(unet, space)  # which of its options run hangs on the latents
    expected = rf"^deep: option '{word}_w0.125' .* 8 x 8 in batches of 1: it needs larger latents, a larger batch or "
    with pytest.raises(UserError, match=expected):
        CostTable.from_unet(unet, space, 8, 8)
    assert CostTable.from_unet(unet, space, 16, 8).params(space.enumerate()).shape == (2,)
    assert CostTable.from_unet(unet, space, 8, 8, batch=2).params(space.enumerate()).shape == (2,)


def test_latents_too_small_for_the_teacher_itself() -> None:
    unet = teacher()
    inputs = (torch.zeros(1, 4, 2, 2), torch.ones(1), torch.zeros(1, 3, 8))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        unet(*inputs)  # it is diffusers' network that cannot run
    with pytest.raises(UserError, match=r"^the teacher itself normalises groups of a single value on latents of 2 x 2"):
        CostTable.from_unet(unet, own_space(unet), 2, 3)
    assert CostTable.from_unet(unet, own_space(unet), 4, 3).teacher.num_params == unet.num_parameters()


def test_as_many_levels_as_stages_have_names() -> None:
    most = teacher(10)
    check_supported(most)
    assert stage_names(most)[8:11] == ("E9", "deep", "D9")
    check_space(most, own_space(most))
    with pytest.raises(UserError, match="unsupported teacher: its U-Net has 11 levels; legal are 2 to 10"):
        check_supported(teacher(11))


def test_text_widths_by_level_may_be_given_if_they_are_one() -> None:
    unet = teacher(3, cross_attention_dim=(8, 8, 8))
    one = teacher(3, cross_attention_dim=8)
    one.load_state_dict(unet.state_dict())
    costs = CostTable.from_unet(unet, own_space(unet), 8, 3)
    assert costs.teacher == CostTable.from_unet(one, own_space(one), 8, 3).teacher
    inputs = (torch.randn(1, 4, 8, 8), torch.ones(1), torch.randn(1, 3, 8))
    with torch.no_grad():
        assert torch.equal(assemble(unet, teacher_candidate(unet))(*inputs).sample, one(*inputs).sample)
    with pytest.raises(UserError, match=r"unsupported teacher: cross_attention_dim is \(8, 16, 8\); legal is one"):
        check_supported(teacher(3, cross_attention_dim=(8, 16, 8)))


TWO = SearchSpace(name="two", options={"E1": ("RA", "R"), "deep": ("none",), "D1": ("RA", "R")})


def whole_cost(matrix: Indices) -> Indices:
    return matrix.sum(axis=1)


@pytest.mark.parametrize("max_enumerated", [10**6, 0])
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("budget", "num", "expected"),
    [
        ("x", 1, "budget a is 'x'; give the largest legal value"),
        (None, 1, "budget a is None"),
        (10**400, 1, r"budget a is 10{59}\.\.\.0{17}; give"),
        (float("-inf"), 1, "budget a is -inf"),
        (float("nan"), 1, "budget a is nan"),
        (1.0, -1, "num is -1; legal are whole numbers from 0"),
        (1.0, 1.5, "num is 1.5; legal are whole numbers from 0"),
    ],
    ids=["text", "nothing", "huge", "-inf", "nan", "negative", "broken"],
)
def test_numbers_that_are_none(budget: object, num: object, expected: str, max_enumerated: int) -> None:
    with pytest.raises(UserError, match=expected):
        sample_within(TWO, {"a": whole_cost}, {"a": budget}, np.random.default_rng(0), num, max_enumerated)  # type: ignore[dict-item, arg-type]


@pytest.mark.parametrize("max_enumerated", [10**6, 0])
def test_a_budget_of_zero_is_met_by_what_costs_nothing(max_enumerated: int) -> None:
    drawn = sample_within(TWO, {"a": whole_cost}, {"a": 0}, np.random.default_rng(0), 3, max_enumerated)
    assert drawn.tolist() == [[0, 0, 0]] * 3
    with pytest.raises(UserError, match=r"no candidate is within a -1 \(the least is 0\)"):
        sample_within(TWO, {"a": whole_cost}, {"a": -1}, np.random.default_rng(0), 3, max_enumerated)
