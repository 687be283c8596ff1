"""What a search space reaches, against going through every candidate by hand."""

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from typer.testing import CliRunner

from latency_predictors.calibration import build_profile
from latency_predictors.kernel_tables import KernelTables
from latency_predictors.measurement import Measurement, current_conditions
from latency_predictors.models.base import Prediction
from latency_predictors.npu.profile import NpuProfile
from latency_predictors.profile import DeviceProfile
from latency_predictors.subjects import BASE, option_subject
from nas.latency import DeviceLatency, device_facts
from nas.plots.space import stage_options, teacher_treemap
from nas.report.space_page import latency_sentences
from nas.space_profile import profile_space
from search_spaces.candidate import Candidate
from search_spaces.costs import CostTable
from search_spaces.errors import UserError
from search_spaces.precision import Precision
from search_spaces.space import SearchSpace
from search_spaces.space_file import load_space

TINY = {"kind": ["teacher", "tiny"], "width": [[8, 16]] * 4, "depth": [[1], [1, 2], [1], [1]]}
OPTIONS = {
    "E1": {"word": ["RARA", "R"], "resnet_width": [1, 0.5]},
    "E2": ["RARA", "RR"],
    "E3": ["RARA"],
    "deep": ["RR.RAR.RRR", "none"],
    "D3": ["RARARA", "R"],
    "D2": ["RARARA"],
    "D1": ["RARARA", "R@3"],
}


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32, 64, 64),
            norm_num_groups=8,
            cross_attention_dim=32,
            attention_head_dim=4,
        )


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    with torch.device("meta"):
        return AutoencoderKL(block_out_channels=(8, 16, 16, 16), norm_num_groups=8, layers_per_block=1, **kinds)


@pytest.fixture(scope="module")
def table(unet: UNet2DConditionModel) -> CostTable:
    return CostTable.from_unet(unet, SearchSpace(name="small", options=OPTIONS), 8, 6)


@pytest.fixture(scope="module")
def joint(unet: UNet2DConditionModel, vae: AutoencoderKL) -> CostTable:
    space = SearchSpace(name="joint", options={**OPTIONS, "VE": TINY, "VD": TINY, "steps": [1, 4]})
    return CostTable.from_unet(unet, space, 8, 6, vae=vae)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.W8A8])
def test_ranges_and_budgets_are_those_of_every_candidate(table: CostTable, precision: Precision) -> None:
    values = table.all_costs(table.space.enumerate(), precision)
    budgets = {"num_params": float(np.median(values["num_params"])), "peak_bytes": float(values["peak_bytes"].min())}
    found = profile_space(table, precision, budgets=budgets)
    assert found.counted and found.num_candidates == len(values["num_params"])
    for cost in found.ranges:
        numbers = values[cost.cost]
        assert (cost.minimum, cost.median, cost.maximum) == (numbers.min(), np.median(numbers), numbers.max())
        # The teacher is a candidate of this space: all its own options and the deep path kept.
        assert cost.teacher == numbers[0], cost.cost
    meets = [values[name] <= limit for name, limit in budgets.items()]
    expected = [meets[0].sum(), meets[1].sum(), (meets[0] & meets[1]).sum()]
    assert [b.num_low for b in found.budgets] == [b.num_high for b in found.budgets] == expected
    assert all(b.certain for b in found.budgets) and found.budgets[-1].cost is None


def test_ends_of_a_sampled_space_are_exact(joint: CostTable, monkeypatch: pytest.MonkeyPatch) -> None:
    values = joint.all_costs(joint.space.enumerate(), Precision.W8A16)
    median = float(np.median(values["num_macs"]))
    tight = float(np.sort(values["weight_bytes"])[3])
    peak = float(np.median(values["peak_bytes"]))
    monkeypatch.setattr("nas.space_profile.MAX_COUNTED", 10)
    monkeypatch.setattr("nas.space_profile.SAMPLE_SIZE", 300)
    found = profile_space(
        joint, Precision.W8A16, budgets={"num_macs": median, "weight_bytes": tight, "peak_bytes": peak}
    )
    assert not found.counted and found.num_looked_at == 300
    for cost in found.ranges:
        assert cost.ends_are_exact == (cost.cost != "peak_bytes")
        if cost.ends_are_exact:
            assert (cost.minimum, cost.maximum) == (values[cost.cost].min(), values[cost.cost].max()), cost.cost
    macs, weights, memory, together = found.budgets
    within = (values["num_macs"] <= median).sum()
    assert macs.certain and macs.num_low <= within <= macs.num_high < 1.001 * macs.num_low
    # Far too few for a sample of 300 to meet any.
    assert weights.certain and weights.num_low <= (values["weight_bytes"] <= tight).sum() <= weights.num_high < 20
    assert not memory.certain and memory.num_low < (values["peak_bytes"] <= peak).sum() < memory.num_high
    assert not together.certain and together.num_low == 0 < together.num_high
    for budget in found.budgets:
        limits = {b.cost: b.limit for b in found.budgets[:-1]} if budget.cost is None else {budget.cost: budget.limit}
        meeting = (np.stack([values[cost] <= limit for cost, limit in limits.items()])).all(axis=0).any()
        assert (budget.example is not None) == meeting
        if budget.example is not None:
            row = joint.space.encode(Candidate.from_id(budget.example, joint.space.stages))[None]
            costs = joint.all_costs(row, Precision.W8A16)
            assert all(costs[cost][0] <= limit for cost, limit in limits.items())
    assert found.ranges[0].teacher == joint.teacher.num_params


def test_the_teachers_parts_add_up(table: CostTable, joint: CostTable) -> None:
    for costs in (table, joint):
        found = profile_space(costs, Precision.FP16)
        assert sum(found.teacher_params.values()) == costs.teacher.num_params
        assert sum(sum(kinds.values()) for kinds in found.kernel_macs.values()) == costs.teacher.num_macs
        base = costs.base_num_params / costs.teacher.num_params
        assert sum(s.teacher_params for s in found.stages) + base == pytest.approx(1, rel=1e-12)


def test_figures_show_every_option_and_the_whole_teacher(joint: CostTable) -> None:
    found = profile_space(joint, Precision.FP16)
    drawn = stage_options(found)
    wanted = sum(1 for o in found.options if o.num_params)
    assert sum(len(trace.x) for trace in drawn.data if trace.x is not None) == wanted
    for trace in teacher_treemap(found).data:
        parts = dict(zip(trace.ids, trace.values, strict=True))
        for parent in {p for p in trace.parents if p}:
            inside = [v for i, v, p in zip(trace.ids, trace.values, trace.parents, strict=True) if p == parent]
            assert sum(inside) == parts[parent]


def test_wrong_budgets_are_one_line(table: CostTable) -> None:
    with pytest.raises(UserError, match="legal are num_params, num_macs"):
        profile_space(table, Precision.FP16, budgets={"size": 3})
    with pytest.raises(UserError, match="no device profile is given"):
        profile_space(table, Precision.FP16, budgets={"latency_ms": 3})


def test_the_command(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.cli import app

    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["space", "profile", "bk-sdm", "--max-params", "1.5e6", "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    space = load_space("bk-sdm")
    assert said["num_candidates"] == space.num_candidates
    budget = said["budgets"][0]
    assert 0 < budget["num_low"] == budget["num_high"] < space.num_candidates
    page = (tmp_path / "bk-sdm.html").read_text(encoding="utf-8")
    assert page.count("figure-options") and page.count("figure-teacher") and 'src="http' not in page


def made_up_device(table: CostTable) -> DeviceProfile:
    """Every option takes a random time; whole U-Nets what their parts take, times 1.2, less 0.1 ms."""
    rng, space = np.random.default_rng(3), table.space

    def measurement(subject: str, median_ms: float) -> Measurement:
        return Measurement(
            subject=subject, num_samples=9, median_ms=median_ms, iqr_ms=0.0, p10_ms=median_ms, p90_ms=median_ms,
            ci95_ms=(median_ms, median_ms), device="made up", runtime="none", precision="float32", threads=1,
            clock="wall", num_preempted=0, conditions=current_conditions("1", False),
        )  # fmt: skip

    parts = {
        option_subject(s, o): float(rng.uniform(0.1, 1.0))
        for s in space.stages
        for o in space.options[s]
        if o != "none"
    }
    nets = [space.decode(row) for row in space.sample(rng, 9)]
    measured = {name: measurement(name, ms) for name, ms in {**parts, BASE: 0.3}.items()}
    for net in nets:
        total = 0.3 + sum(parts.get(option_subject(s, o), 0.0) for s, o in net.options.items())
        measured[net.id] = measurement(net.id, 1.2 * total - 0.1)
    return build_profile(
        space, KernelTables.of(table), measured, nets[:6], nets[6:], teacher_key="t", latent_size=8, num_tokens=6
    )


def test_latency_of_a_sampled_space_is_bounded_exactly(table: CostTable, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = made_up_device(table)
    device = DeviceLatency(device_facts(profile), profile.tabulate(None, table.space, 8, 6))
    latency = device.table.latency_ms(table.space.enumerate())
    limit = float(np.quantile(latency, 0.3))
    whole = profile_space(table, Precision.FP32, device, {"latency_ms": limit})
    assert whole.budgets[0].num_low == (latency <= limit).sum()
    monkeypatch.setattr("nas.space_profile.MAX_COUNTED", 10)
    monkeypatch.setattr("nas.space_profile.SAMPLE_SIZE", 20)
    sampled = profile_space(table, Precision.FP32, device, {"latency_ms": limit})
    found = next(r for r in sampled.ranges if r.cost == "latency_ms")
    assert (found.minimum, found.maximum) == pytest.approx((latency.min(), latency.max()), rel=1e-12)
    assert found.teacher == pytest.approx(latency[0], rel=1e-12), "the teacher is this space's first candidate"
    (budget,) = sampled.budgets
    assert budget.certain and budget.num_low <= (latency <= limit).sum() <= budget.num_high
    shares = [s.teacher_latency for s in sampled.stages]
    assert sum(share for share in shares if share is not None) == pytest.approx(1)
    assert "latency" in [button.label for button in teacher_treemap(sampled).layout.updatemenus[0].buttons]


def test_a_pipeline_on_an_npu(
    unet: UNet2DConditionModel, vae: AutoencoderKL, joint: CostTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    npu = NpuProfile.load("sm8750-w8a16")
    device = DeviceLatency(device_facts(npu), npu.tabulate(unet, joint.space, 8, 6, vae=vae))
    latency = device.table.latency_ms(joint.space.enumerate())
    limit = float(np.quantile(latency, 0.3))
    monkeypatch.setattr("nas.space_profile.MAX_COUNTED", 10)
    monkeypatch.setattr("nas.space_profile.SAMPLE_SIZE", 50)
    found = profile_space(joint, Precision.W8A16, device, {"latency_ms": limit})
    cost = next(r for r in found.ranges if r.cost == "latency_ms")
    # Linear for each number of steps: the ends are those of all candidates, seen or not.
    assert cost.ends_are_exact and (cost.minimum, cost.maximum) == pytest.approx((latency.min(), latency.max()))
    (budget,) = found.budgets
    assert budget.certain and budget.num_low <= (latency <= limit).sum() <= budget.num_high
    halves = {o.stage: o.latency_ms for o in found.options if o.stage in ("VE", "VD")}
    assert set(halves) == {"VE", "VD"} and all(ms is not None and ms > 0 for ms in halves.values())
    assert found.latency is not None and found.latency.num_extrapolating == found.latency.num_looked_at
    assert 0 < found.latency.low_factor < 1 < found.latency.high_factor
    said = " ".join(latency_sentences(found))
    assert "SM8750" in said and "estimate" in said and "extrapolates to all" in said
    assert f"{100 * (found.latency.high_factor - 1):.0f} % more" in said


def test_ends_of_a_latency_that_is_no_sum_are_not_called_exact(
    table: CostTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slowest:
        """Stages that run side by side: as long as the one with the highest option number."""

        space = table.space

        def latency_ms(self, matrix: np.ndarray) -> np.ndarray:
            return 1.0 + self.space.stage_rows(matrix).max(1)

        def predict(self, matrix: np.ndarray) -> Prediction:
            ms = self.latency_ms(matrix)
            return Prediction(ms, 0.9 * ms, 1.1 * ms, ms < 0)

        def option_ms(self, stage: str, option: str) -> float | None:
            return None

    facts = device_facts(made_up_device(table))
    for counted in (True, False):
        if not counted:
            monkeypatch.setattr("nas.space_profile.MAX_COUNTED", 10)
            monkeypatch.setattr("nas.space_profile.SAMPLE_SIZE", 20)
        found = profile_space(table, Precision.FP32, DeviceLatency(facts, Slowest()), {"latency_ms": 2.0})
        cost = next(r for r in found.ranges if r.cost == "latency_ms")
        assert cost.ends_are_exact == counted and found.budgets[0].certain == counted
