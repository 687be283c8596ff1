"""Standard diffusers models against staged U-Nets, over random candidates."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from search_spaces.candidate import Candidate
from search_spaces.space_file import load_space
from search_spaces.standard import NotStandard, to_diffusers, why_not_standard
from search_spaces.surgery import assemble, stage_names
from search_spaces.unet import StagedUNet

# Written down from how diffusers builds its blocks: a decoder block has one layer more than its encoder block,
# a block attends after each residual block or never, and each decoder layer reads the next skip.
ENCODERS = {1: ("RA", "R"), 2: ("RARA", "RR")}
DECODERS = {1: ("RARA", "RR"), 2: ("RARARA", "RRR")}
PAIRS = [pair for layers in (1, 2) for pair in itertools.product(ENCODERS[layers], DECODERS[layers])]
DEEP = ("none", "RR.RAR.RRR", "R.RAR.RR", "R.x.RR", "RR.x.RRR")


def candidate_of(e1d1: tuple[str, str], e2d2: tuple[str, str], e3d3: tuple[str, str], deep: str) -> Candidate:
    options = {"E1": e1d1[0], "E2": e2d2[0], "E3": e3d3[0], "deep": deep, "D3": e3d3[1], "D2": e2d2[1], "D1": e1d1[1]}
    return Candidate(options=options)


def random_standard(num: int) -> list[Candidate]:
    rng = np.random.default_rng(0)
    chosen = []
    for i in range(num):
        pairs = [PAIRS[j] for j in rng.integers(len(PAIRS), size=3)]
        chosen.append(candidate_of(pairs[0], pairs[1], pairs[2], DEEP[i % len(DEEP)]))
    return chosen


def inputs(batch: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    timesteps = torch.randint(0, 1000, (batch,), generator=generator)
    return (
        torch.randn(batch, 4, 8, 8, generator=generator),
        timesteps,
        torch.randn(batch, 7, 32, generator=generator),
    )


@pytest.mark.parametrize("candidate", random_standard(12), ids=str)
def test_standard_model_is_bit_identical(small_unet: UNet2DConditionModel, candidate: Candidate) -> None:
    assert why_not_standard(small_unet, candidate) is None
    staged = assemble(small_unet, candidate).eval()
    # Weights unlike the teacher's, so that a forgotten copy shows.
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in staged.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model = to_diffusers(staged)
    assert type(model) is UNet2DConditionModel and not model.training
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in staged.parameters())
    with torch.no_grad():
        for seed, batch in ((0, 1), (1, 3)):
            x = inputs(batch, seed)
            assert torch.equal(model(*x).sample, staged(*x).sample)


def test_weights_are_copied(small_unet: UNet2DConditionModel) -> None:
    staged = assemble(small_unet, random_standard(1)[0])
    model = to_diffusers(staged)
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in staged.parameters()}


def test_which_candidates_are_standard(small_unet: UNet2DConditionModel) -> None:
    """Exactly the 8 x 8 x 8 candidates of preset `nanosd` whose pairs of words a diffusers block can have."""
    space = load_space("nanosd")
    standard = {candidate_of(a, b, c, "none").id for a, b, c in itertools.product(PAIRS, repeat=3)}
    # D1's options list no word that other stages lack but those of one layer, which are never standard.
    assert len(standard) == 512
    rng = np.random.default_rng(3)
    for number in rng.choice(space.num_candidates, size=300, replace=False):
        vector = np.array(np.unravel_index(number, space.sizes))
        candidate = space.decode(vector)
        reason = why_not_standard(small_unet, candidate)
        assert (reason is None) == (candidate.id in standard), candidate.id
        if reason is not None:
            stage = reason.split(":")[0]
            assert stage in stage_names(small_unet), reason
            assert candidate.options[stage] in reason, reason
    for identity in sorted(standard)[::37]:
        assert why_not_standard(small_unet, Candidate.from_id(identity)) is None


def test_the_reason_names_the_stage(small_unet: UNet2DConditionModel) -> None:
    good = candidate_of(PAIRS[0], PAIRS[0], PAIRS[0], "none")
    for stage, word in (("D2", "RAR"), ("E3", "RAR"), ("D1", "R@3"), ("D3", "RARARA"), ("D2", "RARA@2+3")):
        candidate = good.replace(stage, word)
        with pytest.raises(NotStandard) as caught:
            to_diffusers(assemble(small_unet, candidate))
        assert str(caught.value) == why_not_standard(small_unet, candidate)
        assert str(caught.value).startswith(f"{stage}: {word!r}")


@pytest.mark.parametrize("identity", ["RARA-RA-R-none-RARARA-RR-R@3", "R-RAR-RA-R.x.RR-RA-RRA-RARA"])
def test_a_staged_unet_read_back_is_the_same_candidate(
    small_unet: UNet2DConditionModel, identity: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("staged")
    staged = assemble(small_unet, Candidate.from_id(identity))
    staged.save_pretrained(folder)
    loaded = StagedUNet.from_pretrained(folder)
    assert loaded.candidate == staged.candidate and loaded.candidate.id == identity
    assert list(loaded.stages) == list(staged.stages)
    state = loaded.state_dict()
    assert list(state) == list(staged.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in staged.state_dict().items())
