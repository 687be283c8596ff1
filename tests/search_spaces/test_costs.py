"""Cost tables against built modules, second counters and published figures."""

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from fvcore.nn import FlopCountAnalysis

from search_spaces.candidate import Candidate
from search_spaces.conditioning import example_conditioning
from search_spaces.costs import CostTable, check_space, meta_copy
from search_spaces.errors import UserError
from search_spaces.precision import Precision
from search_spaces.space import SearchSpace
from search_spaces.space_file import load_space
from search_spaces.stage_costs import meta_vae, unet_inputs, vae_input
from search_spaces.surgery import assemble, stage_names
from search_spaces.vae import build_vae_stage
from tests.search_spaces.brute_force import activity, closed_form_macs

BYTES = {Precision.FP32: (4, 4, 4), Precision.FP16: (2, 2, 2), Precision.W8A16: (1, 4, 2), Precision.W8A8: (1, 4, 1)}


@pytest.fixture(scope="session")
def small_vae() -> AutoencoderKL:
    """SD 1.5's VAE at small width, random weights."""
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 16, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=4,
    ).eval()


@dataclass
class Truth:
    """Costs of one network that was built and run whole, in elements; MACs by class."""

    matrices: int
    vectors: int
    traffic: int
    peak: int
    macs: Counter[str]


class Built:
    """Costs of candidates from networks that are built and run whole."""

    def __init__(
        self, unet: UNet2DConditionModel, vae: AutoencoderKL | None, size: tuple[int, int], tokens: int, batch: int
    ) -> None:
        self.unet, self.vae = meta_copy(unet), None if vae is None else meta_vae(vae)
        self.size, self.tokens, self.batch = size, tokens, batch
        self.halves: dict[tuple[str, str], Truth] = {}

    def costs(self, candidate: Candidate) -> Truth:
        own = {stage: candidate.options[stage] for stage in stage_names(self.unet)}
        staged = assemble(self.unet, Candidate(options=own), copy=False)
        added = example_conditioning(self.unet, self.batch, "meta")
        inputs = unet_inputs(self.unet, self.size, self.tokens, self.batch)
        run = partial(staged, *inputs, added_cond_kwargs=added)
        total = self._network(staged, run, (*inputs, *(added or {}).values()))
        if self.vae is None:
            return total
        steps = int(candidate.options["steps"])
        total.traffic *= steps
        total.macs = Counter({name: macs * steps for name, macs in total.macs.items()})
        for stage in ("VE", "VD"):
            half = self._half(stage, candidate.options[stage])
            total.matrices += half.matrices
            total.vectors += half.vectors
            total.traffic += half.traffic
            total.peak = max(total.peak, half.peak)
            total.macs += half.macs
        return total

    def _half(self, stage: str, name: str) -> Truth:
        if (stage, name) not in self.halves:
            module = build_vae_stage(self.vae, stage, name, copy=False)
            given = vae_input(self.vae, stage, self.size, self.batch)
            self.halves[stage, name] = self._network(module, partial(module, given), (given,))
        return self.halves[stage, name]

    def _network(self, module: torch.nn.Module, run: Callable[[], Any], inputs: tuple[torch.Tensor, ...]) -> Truth:
        with closed_form_macs(module) as macs:
            peak, traffic = activity(run, inputs)
        sizes = [(parameter.ndim >= 2, parameter.numel()) for parameter in module.parameters()]
        matrices, vectors = (sum(n for is_matrix, n in sizes if is_matrix is wanted) for wanted in (True, False))
        return Truth(matrices, vectors, traffic, peak, macs)


def assert_equals_brute_force(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL | None,
    preset: str | SearchSpace,
    size: tuple[int, int],
    tokens: int,
    batch: int,
    num: int,
    seed: int,
    only_sampled: bool = False,
) -> None:
    """Every cost of random candidates of a preset, with every precision, equals that of the built networks.

    ``only_sampled`` leaves out of the table every option that no sampled candidate has, which takes less time.
    """
    space = load_space(preset) if isinstance(preset, str) else preset
    rng = np.random.default_rng(seed)
    if only_sampled:
        sampled = [space.decode(row).options for row in space.sample(rng, num)]
        kept = {stage: tuple(dict.fromkeys(options[stage] for options in sampled)) for stage in space.stages}
        space = SearchSpace(name=space.name, options=kept)
    given = vae if space.is_pipeline else None
    table = CostTable.from_unet(unet, space, size, tokens, batch, given)
    built = Built(unet, given, size, tokens, batch)
    matrix = space.sample(rng, num)
    costs = {precision: table.all_costs(matrix, precision) for precision in Precision}
    kernels = table.kernels(matrix)
    for row in range(num):
        candidate = space.decode(matrix[row])
        truth = built.costs(candidate)
        for precision, (weight, vector, activation) in BYTES.items():
            assert {name: int(values[row]) for name, values in costs[precision].items()} == {
                "num_params": truth.matrices + truth.vectors,
                "num_macs": truth.macs.total(),
                "weight_bytes": truth.matrices * weight + truth.vectors * vector,
                "traffic_bytes": truth.traffic * activation,
                "peak_bytes": truth.peak * activation,
            }, (candidate, precision)
        by_class: Counter[str] = Counter()
        for name, macs in zip(table.kernel_names, kernels[row].tolist(), strict=True):
            if "_macs@" in name:
                kind = name.partition("_macs@")[0]
                by_class[kind if kind in ("linear", "attention") else name] += macs
        assert +by_class == +truth.macs, candidate


@pytest.mark.parametrize("preset", ["bk-sdm", "nanosd-joint"])
def test_costs_equal_brute_force(small_unet: UNet2DConditionModel, small_vae: AutoencoderKL, preset: str) -> None:
    # Neither square nor whole at every level: 10 x 12 becomes 5 x 6, 3 x 3 and 2 x 2.
    assert_equals_brute_force(small_unet, small_vae, preset, (10, 12), tokens=6, batch=2, num=3, seed=1)


@pytest.mark.parametrize("preset", ["nanosd", "nanosd-joint"])
def test_costs_equal_brute_force_at_sd15_shapes(
    sd15_meta: UNet2DConditionModel, sd15_vae_meta: AutoencoderKL, preset: str
) -> None:
    assert_equals_brute_force(
        sd15_meta, sd15_vae_meta, preset, (64, 64), tokens=77, batch=1, num=2, seed=2, only_sampled=True
    )


def sd21_like() -> tuple[UNet2DConditionModel, SearchSpace]:
    """SD 2.1's topology: linear projections, heads by level."""
    unet = UNet2DConditionModel(
        block_out_channels=(16, 32, 64, 64),
        norm_num_groups=8,
        cross_attention_dim=32,
        attention_head_dim=(1, 2, 4, 4),
        use_linear_projection=True,
    )
    options = {
        "E1": ("RARA", "R"),
        "E2": ("RA_f0.5", "RARA_self_sep"),
        "E3": ("RARA_h0.5", "RR_w0.5"),
        "deep": ("RR.RAR.RRR_w0.5", "R.x.RR", "none"),
        "D3": ("RARARA_cross", "R"),
        "D2": ("RRA", "RA"),
        "D1": ("RARARA", "R@3_w0.5"),
    }
    return unet, SearchSpace(name="sd21-like", options=options)


def sdxl_like() -> tuple[UNet2DConditionModel, SearchSpace]:
    """SDXL's topology: three levels, no attention in the first, deeper transformers, added conditioning."""
    unet = UNet2DConditionModel(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 3),
        attention_head_dim=(1, 2, 4),
        norm_num_groups=8,
        cross_attention_dim=32,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
    )
    options = {
        "E1": ("RR", "R_sep"),
        "E2": ("RARA_h0.5", "RA_cross", "R"),
        "deep": ("RARA.RAR.RARARA_f0.5", "RA.x.RRA"),
        "D2": ("RARARA", "RA_self", "R"),
        "D1": ("RRR_w0.5", "R@3"),
    }
    return unet, SearchSpace(name="sdxl-like", options=options)


@pytest.mark.parametrize("teacher", [sd21_like, sdxl_like])
def test_costs_of_other_teachers_equal_brute_force(
    teacher: Callable[[], tuple[UNet2DConditionModel, SearchSpace]],
) -> None:
    with torch.device("meta"):
        unet, space = teacher()
    assert_equals_brute_force(unet, None, space, (9, 8), tokens=5, batch=2, num=3, seed=4)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["nanosd", "nanosd-joint"])
@pytest.mark.parametrize("shapes", ["toy", "sd15"])
def test_costs_of_500_candidates_equal_brute_force(
    sd15_meta: UNet2DConditionModel, sd15_vae_meta: AutoencoderKL, toy_teacher: Any, preset: str, shapes: str
) -> None:
    if shapes == "toy":
        size = (toy_teacher.latent_size,) * 2
        unet, vae, tokens = toy_teacher.unet, toy_teacher.vae, toy_teacher.num_tokens
    else:
        unet, vae, size, tokens = sd15_meta, sd15_vae_meta, (64, 64), 77
    assert_equals_brute_force(unet, vae, preset, size, tokens, batch=1, num=500, seed=3)


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


def test_macs_equal_fvcore(small_unet: UNet2DConditionModel) -> None:
    space = load_space("nanosd")
    table = CostTable.from_unet(small_unet, space, latent_size=8, num_tokens=6, batch=2)
    inputs = (torch.randn(2, 4, 8, 8), torch.tensor([3, 4]), torch.randn(2, 6, 32))
    for row in space.sample(np.random.default_rng(2), 2):
        candidate = space.decode(row)
        assert table.cost(candidate).num_macs == fvcore_macs(assemble(small_unet, candidate, copy=False), inputs)
    assert table.teacher.num_macs == fvcore_macs(small_unet, inputs)


def test_sd15_costs_equal_the_published_figures(sd15_meta: UNet2DConditionModel) -> None:
    space = load_space("bk-sdm")
    table = CostTable.from_unet(sd15_meta, space, latent_size=64, num_tokens=77)
    assert table.teacher.num_params == 859_520_964 == table.cost(space.named("teacher")).num_params
    assert table.teacher.num_macs == table.cost(space.named("teacher")).num_macs
    # nanosd-facts: about 401 GMACs at 64x64 latents with the attention products, 339.0 without.
    assert round(table.teacher.num_macs / 1e9) in (401, 402)
    attention = sum(
        int(table.kernels(space.encode(space.named("teacher"))[None])[0, column])
        for column, name in enumerate(table.kernel_names)
        if name.startswith("attention_macs@")
    )
    assert round((table.teacher.num_macs - attention) / 1e9) == 339
    assert table.base_num_params == 2_074_564
    matrix = space.enumerate()
    assert table.params(matrix).min() == 323_384_964
    assert len(table.macs(matrix)) == space.num_candidates


def test_pipeline_costs_count_the_unet_once_a_step(small_unet: UNet2DConditionModel, small_vae: AutoencoderKL) -> None:
    words = {"E1": "R", "E2": "R", "E3": "R", "deep": "none", "D3": "R", "D2": "R", "D1": "R@3"}
    unet_only = SearchSpace(name="unet", options={stage: (word,) for stage, word in words.items()})
    pipeline = SearchSpace(
        name="pipeline",
        options={
            **unet_only.options,
            "VE": ("teacher", "8x1.8x1.8x1.8x1"),
            "VD": ("teacher",),
            "steps": ("1", "2", "25"),
        },
    )
    one = CostTable.from_unet(small_unet, unet_only, 8, 6)
    table = CostTable.from_unet(small_unet, pipeline, 8, 6, vae=small_vae)
    matrix = pipeline.enumerate()
    steps = np.array([int(pipeline.decode(row).options["steps"]) for row in matrix])
    encoder = np.array([pipeline.options["VE"].index(pipeline.decode(row).options["VE"]) for row in matrix])
    unet = np.zeros((1, len(unet_only.sizes)), dtype=np.int64)
    assert (table.macs(matrix) == one.macs(unet) * steps + table.num_macs["VE"][encoder] + table.num_macs["VD"]).all()
    once = one.params(unet) + table.num_params["VE"][encoder] + table.num_params["VD"]
    assert (table.params(matrix) == once).all()
    own = [sum(p.numel() for p in net.parameters()) for net in (small_unet, small_vae)]
    assert table.teacher.num_params == sum(own)
    halves = (table.num_macs["VE"][0], table.num_macs["VD"][0])
    assert table.teacher.num_macs == one.teacher.num_macs + sum(halves)
    # The teacher's decoder goes from attention to a group norm, which copies what is not contiguous.
    assert_equals_brute_force(small_unet, small_vae, pipeline, (8, 8), tokens=6, batch=1, num=2, seed=5)
    with pytest.raises(UserError, match="'pipeline' is one of pipelines, whose costs need the teacher's VAE"):
        CostTable.from_unet(small_unet, pipeline, 8, 6)


def test_no_candidates_have_no_costs(small_unet: UNet2DConditionModel) -> None:
    space = load_space("nanosd")
    table = CostTable.from_unet(small_unet, space, 8, 6)
    nothing = np.empty((0, len(space.sizes)), dtype=np.int64)
    assert all(values.shape == (0,) for values in table.all_costs(nothing, Precision.FP16).values())
    assert table.peak_bytes(nothing, Precision.FP16).shape == (0,)
    assert table.kernels(nothing).shape == (0, len(table.kernel_names))


def test_spaces_that_do_not_fit_the_teacher_are_refused(
    small_unet: UNet2DConditionModel, small_vae: AutoencoderKL
) -> None:
    meta = meta_copy(small_unet)
    options = dict(load_space("nanosd").options)
    with pytest.raises(UserError, match="this teacher's are E1 E2 E3 deep D3 D2 D1"):
        check_space(meta, SearchSpace(name="x", options={"E1": ("R",), "deep": ("none",), "D1": ("R",)}))
    with pytest.raises(UserError, match=r"D2: 'R@3' has no teacher layer"):
        check_space(meta, SearchSpace(name="x", options={**options, "D2": ("RARARA", "R@3")}))
    with pytest.raises(UserError, match="write option 'RR@1"):
        check_space(meta, SearchSpace(name="x", options={**options, "D2": ("RR@1+3",)}))
    with pytest.raises(UserError, match=r"resnet_width 0\.3 leaves"):
        check_space(meta, SearchSpace(name="x", options={**options, "E1": ("R_w0.3",)}))
    with pytest.raises(UserError, match="has 2 levels, but the teacher's VAE has 4"):
        check_space(meta, SearchSpace(name="x", options={**options, "VE": ("8x1.8x1",)}), small_vae)
    with pytest.raises(UserError, match="latents of 0 x 8, 6 text tokens and batch 1: legal are"):
        CostTable.from_unet(small_unet, load_space("nanosd"), (0, 8), 6)
