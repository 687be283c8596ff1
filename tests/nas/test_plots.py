"""Figures and the data behind them: truth from brute force, closed forms and counting."""

import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas import plots
from nas.plots import baselines, data, style
from nas.plots.format import count, duration, error, milliseconds, words_text
from nas.run_data import OBJECTIVES, Candidate, RunData, SpaceFacts, read_run
from tests import synthetic_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    return read_run(synthetic_run.make_run(tmp_path_factory.mktemp("runs") / "run"))


def candidate(order: int, latent_error: float, latency_ms: float, num_params: int) -> Candidate:
    costs = {"num_params": num_params, "num_macs": num_params, "latency_ms": latency_ms}
    scores = {"latent_error": latent_error, "noise_error": None, "tafid": None, "prior": latent_error}
    return Candidate(f"c{order}", {}, **costs, **scores, outcome="done", reason=None, seconds=1.0, order=order)


def run_of(*rows: tuple[float, float, int]) -> RunData:
    return RunData(Path("none"), candidates=tuple(candidate(i, *row) for i, row in enumerate(rows)))


def test_front_is_what_no_other_candidate_dominates(run: RunData) -> None:
    def values(c: Candidate) -> list[float]:
        return [getattr(c, name) for name in OBJECTIVES]

    def dominated(c: Candidate) -> bool:
        return any(
            all(a <= b for a, b in zip(values(o), values(c), strict=True)) and values(o) != values(c) for o in run.done
        )

    found = data.front_data(run)
    assert {c.candidate_id for c in found.dominated} == {c.candidate_id for c in run.done if dominated(c)}
    assert len(found.front) + len(found.dominated) == len(run.done)
    assert {c.candidate_id for c in found.picks.values()} == {pick.candidate_id for pick in run.picks}


def test_picks_of_one_candidate_share_a_label(run: RunData) -> None:
    same = replace(run, picks=tuple(replace(pick, candidate_id=run.picks[0].candidate_id) for pick in run.picks))
    assert list(data.front_data(same).picks) == ["fastest-smallest-prime-budget"]


def test_hypervolume_of_three_boxes() -> None:
    # Errors of 1 and 0.001 are 0 and 3 decades below the worst; costs scale from the space's ends, all to [0, 1].
    facts = SpaceFacts(latency_ms=(1.0, 3.0), num_params=(100, 300))
    run = replace(run_of((1.0, 1.0, 100), (0.001, 3.0, 300), (1.0, 2.0, 200)), space=facts)
    unit = 1.1
    first = (unit - 1) * unit * unit
    second = first + unit * 0.1 * 0.1 - 0.1 * 0.1 * 0.1
    history = data.hypervolume_history(run)
    assert history.values == pytest.approx([v / unit**3 for v in (first, second, second)])
    assert history.evaluations == (1, 2, 3) and "of the space" in history.rule
    assert "of the run" in data.hypervolume_history(replace(run, space=SpaceFacts())).rule


def test_kendall_tau_counts_pairs(run: RunData) -> None:
    params, latency = [c.num_params for c in run.done], [c.latency_ms for c in run.done]
    pairs = list(combinations(range(len(params)), 2))

    def order(values: list[float], i: int, j: int) -> int:
        return (values[i] > values[j]) - (values[i] < values[j])

    agree = sum(order(params, i, j) * order(latency, i, j) for i, j in pairs)
    untied = math.sqrt(math.prod(sum(order(values, i, j) != 0 for i, j in pairs) for values in (params, latency)))
    assert data.kendall_tau(params, latency) == pytest.approx(agree / untied)
    assert data.kendall_tau([1, 1, 1], [1, 2, 3]) is None
    assert data.kendall_tau([1], [2]) is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=12))
def test_contradiction_is_the_clearest_pair(costs: list[tuple[int, int]]) -> None:
    run = run_of(*((0.5, float(latency), params) for latency, params in costs))
    scores = [
        min(fast.num_params / small.num_params, small.latency_ms / fast.latency_ms)
        for small in run.done
        for fast in run.done
        if small.num_params < fast.num_params and small.latency_ms > fast.latency_ms
    ]
    pair = data.contradiction(run)
    assert (pair is None) == (not scores)
    if pair:
        assert min(pair.params_ratio, pair.latency_ratio) == pytest.approx(max(scores))


def test_latency_errors_are_those_of_the_unseen_u_nets(run: RunData) -> None:
    assert data.errors_pct(run) == pytest.approx((6.5, 12.0))
    assert data.errors_pct(replace(run, device=None)) is None


FIGURES = [name for name in plots.__all__ if name not in ("FINISHED_MARKS", "PAIRS", "front_pair")]


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_and_refuses_an_empty_run(run: RunData, name: str) -> None:
    import plotly.graph_objects as go

    figure = getattr(plots, name)(run)
    assert isinstance(figure, go.Figure)
    assert "NaN" not in figure.to_json()
    with pytest.raises(ValueError, match=r"^no "):
        getattr(plots, name)(RunData(Path("none")))


def test_hover_shows_id_words_and_costs(run: RunData) -> None:
    figure = plots.front_3d(replace(run, baselines=None))
    texts = [text for trace in figure.data if trace.text for text in trace.text]
    assert len(texts) == len(run.done)
    for c in run.done:
        (found,) = [text for text in texts if f" {c.candidate_id}<br>" in text]
        assert words_text(c.words) in found
        assert f"{count(c.num_params)} parameters" in found and milliseconds(c.latency_ms) in found


def test_baselines_stand_where_their_predicted_latency_is_or_would_be(run: RunData) -> None:
    """The synthetic machine is 3 % slower than predicted, so that scaling by the others takes just that off."""
    points = {point.entry.name: point for point in baselines.finished_points(run.baselines)}
    for name, words in synthetic_run.BY_HAND.items():
        assert points[name].latency_ms == pytest.approx(synthetic_run.latency_ms(words))
        assert points[name].is_scaled == (name == "slimmed")
    by_hand = next(trace for trace in plots.front_pair(run, *plots.PAIRS[0]).data if trace.name == baselines.BY_HAND)
    assert list(by_hand.y) == pytest.approx([synthetic_run.prior_of(w) / 2 for w in synthetic_run.BY_HAND.values()])


def test_an_unknown_objective_is_refused(run: RunData) -> None:
    with pytest.raises(ValueError, match="no objective 'size'"):
        plots.front_pair(run, "size", "latent_error")


def test_one_candidate_and_an_error_of_zero_can_be_drawn() -> None:
    run = run_of((0.0, 1.0, 100))
    for name in ("front_3d", "front_pairs", "hypervolume_history", "params_vs_latency", "prior_vs_measured"):
        getattr(plots, name)(run)


def test_zero_stands_at_the_edge_of_a_log_axis() -> None:
    assert style.log_floor([0.0, 0.2, 8.0]) == [0.1, 0.2, 8.0]
    assert style.log_floor([0.0, 0.0]) == [1.0, 1.0]


def test_an_axis_is_logarithmic_only_where_values_span_much() -> None:
    assert style.axis("x", [1, 5]).get("type") is None
    look = style.axis("x", [0.01, 1.0])
    assert look["type"] == "log" and look["tickvals"] == pytest.approx([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
    assert look["ticktext"][:3] == ["0.01", "0.02", "0.05"]


def test_swap_table_has_a_cell_for_each_option_and_says_what_failed(run: RunData) -> None:
    assert run.swap_table is not None
    errors = {stage: dict(options) for stage, options in run.swap_table.errors.items()}
    errors["E1"]["R"] = None
    (heat,) = plots.swap_table(replace(run, swap_table=replace(run.swap_table, errors=errors))).data
    shown = {
        (stage, option): heat.text[row][column]
        for row, option in enumerate(heat.y)
        for column, stage in enumerate(heat.x)
    }
    assert "deep" not in heat.x
    assert shown["E1", "R"] == "failed" and shown["E1", "RARARA"] == ""
    assert shown["D1", "R@3"] == error(errors["D1"]["R@3"])
    assert sum(text != "" for text in shown.values()) == 36


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (count(859_520_964), "860 M"),
        (count(2_210_000), "2.21 M"),
        (count(999_999), "1.00 M"),
        (count(512), "512"),
        (count(None), "–"),
        (milliseconds(0.1234), "0.123 ms"),
        (error(0.0), "0"),
        (error(0.00001234), "1.2e-05"),
        (duration(9.96), "10.0 s"),
        (duration(312), "5 min 12 s"),
        (duration(7_260), "2 h 1 min"),
    ],
)
def test_numbers_are_written_for_people(written: str, expected: str) -> None:
    assert written == expected
