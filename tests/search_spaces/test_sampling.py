"""Sampling within budgets, mutation, crossover, and the algebra of index matrices."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare

from search_spaces.bounded_counts import BoundedCounts
from search_spaces.candidate import Candidate
from search_spaces.costs import CostTable
from search_spaces.errors import UserError
from search_spaces.feasible import best_within, solve, sweep
from search_spaces.precision import Precision
from search_spaces.sampling import crossover, mutate, sample_within
from search_spaces.space import SearchSpace
from search_spaces.space_file import load_space
from search_spaces.surgery import assemble
from search_spaces.vae import build_vae_stage

JOINT = load_space("nanosd-joint")
TWO_STEPS = SearchSpace.model_validate(
    {
        "name": "two-steps",
        "options": {
            "E1": {"word": ["RARA", "RA", "R"], "ff_width": [1, 0.5]},
            "deep": ["none"],
            "D1": ["RARARA", "RARA", "RR", "R"],
            "VE": {"kind": ["teacher", "tiny"], "width": [[64, 32]], "depth": [[1, 2]]},
            "steps": ["1", "2"],
        },
    }
)
Cost = Callable[[NDArray[np.int64]], NDArray[np.float64]]


def options_cost(space: SearchSpace, seed: int, with_steps: bool = False) -> Cost:
    """A cost with a random whole number for each option: their sum, the U-Net's part times the steps if asked."""
    rng = np.random.default_rng(seed)
    tables = {stage: rng.integers(1, 1000, size=len(names)) for stage, names in space.options.items()}

    def cost(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
        rows = dict(zip(space.stages, space.stage_rows(matrix).T, strict=True))
        parts = {stage: tables[stage][rows[stage]].astype(float) for stage in space.stages}
        if with_steps:
            numbers = np.array([int(option) for option in space.options["steps"]])[rows["steps"]]
            parts = {stage: part * (numbers if stage[0] in "ED" else 1) for stage, part in parts.items()}
        return np.sum(list(parts.values()), axis=0)

    return cost


def largest_cost(space: SearchSpace, seed: int) -> Cost:
    """A cost that does not add up: the larger of two stages' random numbers, as peak memory is."""
    rng = np.random.default_rng(seed)
    tables = [rng.integers(1, 1000, size=size).astype(float) for size in space.stage_sizes]

    def cost(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
        rows = space.stage_rows(matrix)
        pairs = [tables[i][rows[:, i]] + tables[-1 - i][rows[:, -1 - i]] for i in range(len(tables) // 2)]
        return np.max(pairs, axis=0)

    return cost


def quantiles(space: SearchSpace, costs: dict[str, Cost], share: float) -> dict[str, float]:
    matrix = space.sample(np.random.default_rng(7), 4000)
    return {name: float(np.quantile(cost(matrix), share)) for name, cost in costs.items()}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), share=st.floats(0.0, 1.0), large=st.booleans())
def test_samples_meet_their_budgets_and_are_canonical(seed: int, share: float, large: bool) -> None:
    costs = {
        "a": options_cost(TWO_STEPS, seed),
        "b": options_cost(TWO_STEPS, seed + 1, True),
        "c": largest_cost(TWO_STEPS, seed),
    }
    one = TWO_STEPS.sample(np.random.default_rng(seed), 1)
    # Budgets between those of one candidate, which is then just within them all, and those of any.
    budgets = {name: float(cost(one)[0] + share * 500) for name, cost in costs.items()}
    drawn = sample_within(TWO_STEPS, costs, budgets, np.random.default_rng(seed), 20, 0 if large else 10**6)
    assert drawn.shape == (20, len(TWO_STEPS.sizes))
    assert all((cost(drawn) <= budgets[name]).all() for name, cost in costs.items())
    assert (TWO_STEPS.canonical(drawn) == drawn).all()


@pytest.mark.parametrize("max_enumerated", [10**6, 0], ids=["listed", "counted"])
@pytest.mark.parametrize("with_peak", [False, True])
def test_samples_are_uniform_over_the_candidates_within(max_enumerated: int, with_peak: bool) -> None:
    costs = {"a": options_cost(TWO_STEPS, 1), "b": options_cost(TWO_STEPS, 2, True)}
    costs |= {"peak": largest_cost(TWO_STEPS, 3)} if with_peak else {}
    budgets = quantiles(TWO_STEPS, costs, 0.6)
    every = TWO_STEPS.enumerate()
    within = np.logical_and.reduce([cost(every) <= budgets[name] for name, cost in costs.items()])
    drawn = sample_within(TWO_STEPS, costs, budgets, np.random.default_rng(4), 20_000, max_enumerated)
    counts = np.bincount(TWO_STEPS.rank(drawn), minlength=len(every))
    assert 20 < within.sum() < len(every)
    assert counts[~within].sum() == 0
    assert chisquare(counts[within]).pvalue > 1e-4


@pytest.fixture(scope="module")
def costed() -> tuple[UNet2DConditionModel, AutoencoderKL, CostTable]:
    """A U-Net and a VAE of small shapes on meta, and the costs of a space of 27,000 pipelines on them."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=8, block_out_channels=(16, 32), norm_num_groups=8, cross_attention_dim=16, attention_head_dim=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ).eval()  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4,
            up_block_types=("UpDecoderBlock2D",) * 2,
        ).eval()  # fmt: skip
    inside = {"ff_width": [1, 0.5], "resnet_width": [1, 0.5], "heads": [1, 0.5]}
    tiny = {"kind": ["teacher", "tiny"], "width": [[16, 8], [16]], "depth": [[1], [3, 1]]}
    options = {
        "E1": {"word": ["RARA", "R"], **inside},
        "deep": ["RR.RAR.RRR", "R.x.RR"],
        "D1": {"word": ["RARARA", "RARA", "RR"], **inside},
        "VE": tiny,
        "VD": tiny,
        "steps": [1, 2, 4],
    }
    space = SearchSpace.model_validate({"name": "costed", "options": options})
    return unet, vae, CostTable.from_unet(unet, space, 8, 6, vae=vae)


@pytest.mark.parametrize("share", [0.4, 0.15])
def test_budgets_of_real_costs_are_met(
    costed: tuple[UNet2DConditionModel, AutoencoderKL, CostTable], share: float
) -> None:
    unet, vae, table = costed
    space, precision = table.space, Precision.FP16
    costs: dict[str, Cost] = {
        "params": table.params,
        "macs": table.macs,
        "peak_bytes": lambda matrix: table.peak_bytes(matrix, precision),
    }
    budgets = quantiles(space, costs, share)
    drawn = sample_within(space, costs, budgets, np.random.default_rng(0), 3000, max_enumerated=0)

    every = space.enumerate()
    within = np.logical_and.reduce([cost(every) <= budgets[name] for name, cost in costs.items()])
    assert 30 < within.sum() < len(every) / 2
    assert within[space.rank(drawn)].all()
    # Each is as likely as any other: 3000 draws see as many different ones as independent draws would.
    expected = within.sum() * (1 - np.exp(-len(drawn) / within.sum()))
    assert abs(len(np.unique(space.rank(drawn))) - expected) < 5 * np.sqrt(expected)
    for row in drawn[:10]:
        candidate = space.decode(row)
        parts: list[Any] = [assemble(unet, candidate.unet, copy=False)]
        parts += [build_vae_stage(vae, stage, candidate.options[stage], copy=False) for stage in ("VE", "VD")]
        assert sum(p.numel() for part in parts for p in part.parameters()) <= budgets["params"]
        assert table.cost(candidate).num_macs <= budgets["macs"]
        assert table.all_costs(space.encode(candidate)[None], precision)["peak_bytes"][0] <= budgets["peak_bytes"]


def test_gibbs_sweeps_keep_candidates_uniform() -> None:
    cost, sizes = options_cost(TWO_STEPS, 5, True), TWO_STEPS.stage_sizes
    budget = quantiles(TWO_STEPS, {"b": cost}, 0.3)["b"]

    def beyond(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.maximum(cost(TWO_STEPS.from_stage_rows(rows)) - budget, 0)

    rng = np.random.default_rng(6)
    every = TWO_STEPS.stage_rows(TWO_STEPS.enumerate())
    within = beyond(every) == 0
    chains = np.tile(every[within][:1], (4000, 1))  # all from one corner: only mixing makes them uniform
    for _ in range(12):
        sweep(chains, sizes, beyond, rng)
    counts = np.bincount(TWO_STEPS.rank(TWO_STEPS.from_stage_rows(chains)), minlength=len(every))
    assert counts[~within].sum() == 0
    assert chisquare(counts[within]).pvalue > 1e-4


def test_counting_counts_what_listing_finds() -> None:
    rng = np.random.default_rng(8)
    costs = [rng.integers(0, 50, size=(size, 2)).astype(float) for size in (5, 7, 4, 6)]
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*map(np.arange, (5, 7, 4, 6)), indexing="ij")], axis=1)
    sums = sum(table[grid[:, i]] for i, table in enumerate(costs))
    for budgets in ([60.0, 90.0], [200.0, 200.0], [40.0, 40.0]):
        true = int((sums <= budgets).all(axis=1).sum())
        counted = BoundedCounts.of(costs, np.array(budgets)).total
        assert true <= counted <= 1.3 * true + 2  # rounding down keeps all and adds few
    least = sum(table.min(axis=0) for table in costs)
    assert BoundedCounts.of(costs, least - 1).total == 0
    one = BoundedCounts.of([table[:, :1] for table in costs], least[:1])
    assert one.total == (sums[:, 0] == least[0]).sum()


@pytest.mark.parametrize("names", [("a",), ("a", "b"), ("a", "b", "d"), ("a", "b", "d", "e", "f")])
def test_a_budget_that_one_candidate_meets_finds_it(names: tuple[str, ...]) -> None:
    costs = {name: options_cost(JOINT, seed, name == "b") for seed, name in enumerate("abdef")}
    rng = np.random.default_rng(9)
    tables = [rng.integers(1, 1000, size=size) for size in JOINT.stage_sizes]
    # a leaves only one candidate: the one with the least of a in every stage.
    costs["a"] = lambda matrix: np.sum([t[r] for t, r in zip(tables, JOINT.stage_rows(matrix).T, strict=True)], axis=0)
    least = JOINT.from_stage_rows(np.array([[int(table.argmin()) for table in tables]]))
    budgets = {name: float(costs[name](least)[0]) for name in names}
    drawn = sample_within(JOINT, costs, budgets, np.random.default_rng(10), 3)
    assert all((table == table.min()).sum() == 1 for table in tables)
    assert (drawn == least).all()
    with pytest.raises(UserError, match=rf"no candidate is within a .*\(the least is {budgets['a']:,.0f}[,)]"):
        sample_within(JOINT, costs, {**budgets, "a": budgets["a"] - 1}, np.random.default_rng(10), 3)


class Counted:
    """A cost that counts how often, and of how many candidates, it was asked."""

    def __init__(self, cost: Cost) -> None:
        self._cost = cost
        self.calls = self.rows = 0

    def __call__(self, matrix: NDArray[np.int64]) -> NDArray[np.float64]:
        self.calls, self.rows = self.calls + 1, self.rows + len(matrix)
        return self._cost(matrix)


@pytest.mark.parametrize(("share", "sweeps"), [(0.02, 0), (0.002, 24 + 3)], ids=["drawn", "chains"])
def test_hard_budgets_of_the_joint_space_are_met_without_stalling(share: float, sweeps: int) -> None:
    costs = {"a": options_cost(JOINT, 1), "b": options_cost(JOINT, 2, True), "peak": largest_cost(JOINT, 3)}
    budgets = quantiles(JOINT, costs, share)
    counted = {name: Counted(cost) for name, cost in costs.items()}
    drawn = sample_within(JOINT, counted, budgets, np.random.default_rng(11), 50)
    assert drawn.shape == (50, len(JOINT.sizes))
    assert all((cost(drawn) <= budgets[name]).all() for name, cost in costs.items())
    assert len({tuple(row) for row in drawn}) > 40
    # 65,536 proposals at most, a batch of 8192 more, every option once a stratum to see which costs add up, and what
    # the sweeps of 50 chains ask: every option of every stage, and 16 pairs of stages, once.
    every = sum(JOINT.stage_sizes)
    most = 65_536 + 8192 + 3 * every + 4096 + sweeps * 50 * (every + 16)
    assert all(cost.rows <= most for cost in counted.values())
    assert all(cost.calls <= 30 + sweeps * (len(JOINT.stages) + 16) for cost in counted.values())
    assert all((cost.rows > 65_536) == (sweeps > 0) for cost in counted.values())  # so the case is what it says
    again = sample_within(JOINT, costs, budgets, np.random.default_rng(11), 50)
    assert (again == drawn).all()


def test_solving_agrees_with_listing() -> None:
    rng = np.random.default_rng(12)
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*map(np.arange, (5, 7, 4)), indexing="ij")], axis=1)
    for _ in range(20):
        costs = [rng.integers(0, 50, size=(size, 2)).astype(float) for size in (5, 7, 4)]
        sums = sum(table[grid[:, i]] for i, table in enumerate(costs))
        limit = float(rng.integers(0, 120))
        answer = solve(costs, np.array([np.inf, limit]), minimise=0)
        within = sums[:, 1] <= limit
        assert not answer.unsure
        assert (answer.rows is None) == (not within.any())
        if answer.rows is not None:
            found = sum(table[option] for table, option in zip(costs, answer.rows, strict=True))
            assert found[1] <= limit and found[0] == sums[within, 0].min()


def split_costs(sizes: tuple[int, ...], num: int) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
    """Market split (Cornuejols and Dawande, 1998), which keeps branch and bound busy for hours.

    Sums of ``num`` random costs must equal their means: for each, one budget from above and one from below.

    Returns:
        Per stage (options, 2 num), and budgets (2 num,).
    """
    rng = np.random.default_rng(13)
    costs = [rng.integers(0, 1000, size=(size, num)).astype(float) for size in sizes]
    target = np.floor(sum(table.mean(axis=0) for table in costs))
    both = [np.concatenate([table, 1000 - table], axis=1) for table in costs]
    return both, np.concatenate([target, 1000 * len(sizes) - target])


def test_a_solver_that_runs_out_of_time_does_not_claim_that_there_is_none() -> None:
    costs, budgets = split_costs((2,) * 40, 4)

    def beyond(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        total = sum(table[rows[:, i]] for i, table in enumerate(costs))
        return np.maximum(total - budgets, 0).sum(axis=1)

    answer = best_within(costs, budgets, beyond, seconds=0.3)
    assert answer.rows is None and answer.unsure == "the solver stopped after 0.3 seconds"
    assert best_within(costs, budgets, beyond, seconds=0).unsure == "the solver had no time left"
    least = sum(table.min(axis=0) for table in costs)
    impossible = best_within(costs, least - 1, beyond, seconds=5)
    assert impossible.rows is None and not impossible.unsure


def test_the_solvers_time_is_of_all_numbers_of_steps_together_and_the_error_says_so() -> None:
    tables, budgets = split_costs(JOINT.stage_sizes, 4)

    def cost(number: int) -> Cost:
        columns = [table[:, number] for table in tables]
        return lambda matrix: np.sum([c[r] for c, r in zip(columns, JOINT.stage_rows(matrix).T, strict=True)], axis=0)

    costs = {f"c{i}": cost(i) for i in range(len(budgets))}
    limits = {name: float(budgets[i]) for i, name in enumerate(costs)}
    with pytest.raises(UserError) as caught:
        sample_within(JOINT, costs, limits, np.random.default_rng(0), 1, solver_seconds=0.6)
    share = 0.6 / len(JOINT.options["steps"])
    message = str(caught.value)
    assert "no candidate was found within c0" in message and "within the others" not in message
    assert f"the solver stopped after {share:.3g} seconds, so there may be some: raise a budget" in message


def test_budgets_that_nothing_meets_say_what_can_be() -> None:
    costs = {"a": options_cost(TWO_STEPS, 1), "b": options_cost(TWO_STEPS, 2), "peak": largest_cost(TWO_STEPS, 3)}
    every = TWO_STEPS.enumerate()
    a, b = costs["a"](every), costs["b"](every)
    budgets = {"a": float(a.min()), "b": float(b.min())}
    assert not ((a <= budgets["a"]) & (b <= budgets["b"])).any()
    for max_enumerated in (10**6, 0):
        with pytest.raises(UserError) as caught:
            sample_within(TWO_STEPS, costs, budgets, np.random.default_rng(0), 1, max_enumerated)
        least_beside = b[a <= budgets["a"]].min()
        assert f"b {b.min():,.0f} (the least is {b.min():,.0f}, and {least_beside:,.0f} within the others)" in str(
            caught.value
        )
    with pytest.raises(UserError, match=r"no candidate was found within peak 1 \(the least found is .* led to none"):
        sample_within(TWO_STEPS, costs, {"peak": 1}, np.random.default_rng(0), 1, 0)
    with pytest.raises(UserError, match="budget 'ms' has no cost; legal are a, b, peak"):
        sample_within(TWO_STEPS, costs, {"ms": 1}, np.random.default_rng(0), 1)
    with pytest.raises(UserError, match="budget a is nan"):
        sample_within(TWO_STEPS, costs, {"a": float("nan")}, np.random.default_rng(0), 1)


@given(seed=st.integers(0, 2**32 - 1), rate=st.floats(0.01, 1.0))
def test_mutants_and_children_are_candidates(seed: int, rate: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = JOINT.sample(rng, 8), JOINT.sample(rng, 8)
    for made in (mutate(JOINT, a, rng, rate), crossover(JOINT, a, b, rng)):
        assert made.shape == a.shape
        assert (JOINT.canonical(made) == made).all()
        assert all(JOINT.contains(JOINT.decode(row)) for row in made)
    child = JOINT.stage_rows(crossover(JOINT, a, b, rng))
    assert ((child == JOINT.stage_rows(a)) | (child == JOINT.stage_rows(b))).all()


def test_mutation_changes_decisions_at_its_rate_and_to_every_value() -> None:
    words = {"E1": ("RA", "R"), "deep": ("none",), "D1": ("RARARA", "RARA", "RR", "R")}
    space = SearchSpace.model_validate({"name": "flat", "options": words})
    start = np.zeros((20_000, 3), dtype=np.int64)
    mutated = mutate(space, start, np.random.default_rng(0), 0.5)
    # Half of each; where neither changed (a quarter), one of the two does.
    assert abs((mutated[:, 0] != 0).mean() - (0.5 + 0.125)) < 0.015
    assert (mutated != start).any(axis=1).all()
    assert chisquare(np.bincount(mutated[:, 2], minlength=4)[1:]).pvalue > 1e-4
    with pytest.raises(UserError, match="mutation rate 0 is no probability"):
        mutate(space, start, np.random.default_rng(0), 0)


@given(seed=st.integers(0, 2**32 - 1))
def test_joint_candidates_round_trip(seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, JOINT.sizes, size=(1, len(JOINT.sizes)))  # any vector, canonical or not
    candidate = JOINT.decode(raw[0])
    canonical = JOINT.canonical(raw)
    assert (JOINT.canonical(canonical) == canonical).all()
    assert (JOINT.encode(candidate) == canonical[0]).all()
    assert Candidate.from_id(candidate.id) == candidate == Candidate.from_json(candidate.to_json())
    assert JOINT.rank(raw)[0] == JOINT.rank(canonical)[0]
    assert (JOINT.unrank(JOINT.rank(raw)) == canonical).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_joint_neighbours_differ_in_one_decision_and_are_others(seed: int) -> None:
    row = JOINT.sample(np.random.default_rng(seed), 1)[0]
    neighbours = JOINT.neighbours(row)
    assert ((neighbours != row).sum(axis=1) == 1).all()
    ids = {JOINT.decode(each).id for each in neighbours}
    assert len(ids) == len(neighbours) and JOINT.decode(row).id not in ids
    stages = [JOINT.stage_rows(each[None])[0] != JOINT.stage_rows(row[None])[0] for each in neighbours]
    assert all(different.sum() == 1 for different in stages)


@given(size=st.integers(6, 200))
def test_chunks_are_the_enumeration(size: int) -> None:
    chunks = list(TWO_STEPS.chunks(size))
    assert (np.concatenate(chunks) == TWO_STEPS.enumerate()).all()
    assert all(len(chunk) == size for chunk in chunks[:-1])


def test_joint_samples_are_uniform_over_networks() -> None:
    sample = JOINT.stage_rows(JOINT.sample(np.random.default_rng(0), 20_000))
    for column, size in enumerate(JOINT.stage_sizes):
        assert chisquare(np.bincount(sample[:, column], minlength=size)).pvalue > 1e-4


def test_joint_samples_of_two_stages_are_independent() -> None:
    sample = JOINT.stage_rows(JOINT.sample(np.random.default_rng(1), 40_000))
    for one, other in itertools.combinations(range(len(JOINT.stages)), 2):
        # Options are put into at most 40 bins, so that each pair of bins is expected often.
        sizes = [min(40, JOINT.stage_sizes[column]) for column in (one, other)]
        shares = [
            np.bincount(np.arange(JOINT.stage_sizes[c]) % n) / JOINT.stage_sizes[c]
            for c, n in zip((one, other), sizes, strict=True)
        ]
        pairs = sample[:, one] % sizes[0] * sizes[1] + sample[:, other] % sizes[1]
        expected = np.outer(*shares).ravel() * len(sample)
        assert expected.min() > 5
        assert chisquare(np.bincount(pairs, minlength=len(expected)), expected).pvalue > 1e-5
