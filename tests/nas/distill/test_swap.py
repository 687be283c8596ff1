import itertools
import json

import numpy as np
import pytest
import torch

from nas.fidelity.errors import FidelityError
from nas.fidelity.paired import PairedEvaluator
from nas.fidelity.settings import FidelitySettings
from nas.fidelity.swap import SwapTable, additivity, base_candidate, swap_table
from search_spaces.errors import UserError
from search_spaces.surgery import assemble, build_stage

SETTINGS = FidelitySettings(num_samples=4, num_noise_samples=2, ddim_steps=2)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def evaluator(teacher, data):
    return PairedEvaluator(teacher, data, SETTINGS)


@pytest.fixture(scope="module")
def blocks(teacher):
    torch.manual_seed(3)
    blocks = {}
    for block in [("D3", "RARARA"), ("E1", "R"), ("E3", "RA"), ("D3", "R"), ("D2", "RR"), ("D1", "R@3")]:
        blocks[block] = build_stage(teacher.unet, *block)
        for parameter in blocks[block].parameters():
            parameter.data.add_(0.02 * torch.randn_like(parameter))  # so that they differ from inherited ones
    return blocks


def test_every_entry_is_the_error_of_that_one_swap(tmp_path, teacher, space, blocks, evaluator):
    notes = []
    table = swap_table(
        teacher, space, blocks, evaluator, tmp_path / "t.json", on_progress=lambda *a: notes.append(a[:2])
    )
    assert notes[-1] == (6, 6) and len(notes) == 6  # the base and five swaps
    base = base_candidate(teacher.unet, space)
    assert base.id == "RARA-RARA-RARA-none-RARARA-RARARA-RARARA" == table.base
    for stage, options in space.options.items():
        assert tuple(table.errors[stage]) == options
        for option in options:
            network = assemble(teacher.unet, base.replace(stage, option), blocks)
            assert table.errors[stage][option] == evaluator.evaluate(network).latent_error
    assert SwapTable.load(tmp_path / "t.json") == table


def test_resumes_entry_by_entry(tmp_path, teacher, space, blocks, evaluator):
    path, whole = tmp_path / "t.json", swap_table(teacher, space, blocks, evaluator, tmp_path / "whole.json")
    count = []
    measure = evaluator.evaluate

    class Counting:
        key = evaluator.key

        def evaluate(self, unet):
            count.append(unet.candidate.id)
            return measure(unet)

    def kill(done, total, note):
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        swap_table(teacher, space, blocks, Counting(), path, kill)
    assert len(count) == 3
    assert swap_table(teacher, space, blocks, Counting(), path) == whole
    assert len(count) == len(set(count)) == 6
    assert swap_table(teacher, space, blocks, Counting(), path) == whole and len(count) == 6
    other = {**blocks, ("D2", "RR"): build_stage(teacher.unet, "D2", "RR")}
    swap_table(teacher, space, other, Counting(), path)
    assert len(count) == 12  # other weights: nothing of the old table is used


def test_prior_agrees_with_adding_up_by_hand(space):
    rng = np.random.default_rng(0)
    errors = {stage: {o: float(rng.uniform(0, 1)) for o in options} for stage, options in space.options.items()}
    table = SwapTable(key="k", base="b", base_error=0.3, errors=errors)
    matrix = space.enumerate()
    expected = []
    for vector in matrix:
        picked = space.decode(vector).options
        expected.append(0.3 + sum(max(errors[s][o] - 0.3, 0) for s, o in picked.items()))
    np.testing.assert_allclose(table.prior(matrix), expected, rtol=1e-12)
    assert table.prior(matrix[3]).shape == (1,)


def test_a_failed_swap_has_its_reason_and_an_infinite_prior(tmp_path, teacher, space, blocks, evaluator):
    bad = build_stage(teacher.unet, "E3", "RA")
    bad.resnets[0].conv1.weight.data.fill_(torch.nan)
    path = tmp_path / "t.json"
    table = swap_table(teacher, space, {**blocks, ("E3", "RA"): bad}, evaluator, path)
    assert table.errors["E3"]["RA"] is None and "noise_error is not finite" in table.failed["E3/RA"]
    infinite = np.isinf(table.prior(space.enumerate()))
    assert (infinite == (space.enumerate()[:, 2] == 1)).all()
    assert json.loads(path.read_text())["errors"]["E3"]["RA"] is None
    assert swap_table(teacher, space, {**blocks, ("E3", "RA"): bad}, evaluator, path) == table
    with pytest.raises(FidelityError):
        swap_table(teacher, space, {**blocks, ("D3", "RARARA"): _nan(teacher)}, evaluator, tmp_path / "u.json")


def _nan(teacher):
    bad = build_stage(teacher.unet, "D3", "RARARA")
    bad.resnets[0].conv1.weight.data.fill_(torch.nan)
    return bad


def test_additivity_states_quartiles_and_rank_agreement():
    x = np.arange(1.0, 10.0)
    exact = additivity(x, 2 * x)
    assert exact[:5] == (9, 2.0, 2.0, 2.0, 1.0) and exact.log_correlation == pytest.approx(1.0)
    rng = np.random.default_rng(1)
    y = x * rng.uniform(0.5, 1.5, 9)
    found = additivity(np.append(x, np.inf), np.append(y, 1.0))
    pairs = list(itertools.combinations(range(9), 2))
    tau = sum(np.sign((x[i] - x[j]) * (y[i] - y[j])) for i, j in pairs) / len(pairs)
    assert found.num_candidates == 9 and found.kendall == pytest.approx(tau)
    assert found.ratio_median == pytest.approx(np.median(y / x))
    u, v = np.log(x) - np.log(x).mean(), np.log(y) - np.log(y).mean()
    assert found.log_correlation == pytest.approx((u * v).sum() / np.sqrt((u * u).sum() * (v * v).sum()))
    assert additivity([1.0], [0.0]).log_correlation is None
    with pytest.raises(ValueError, match="no candidate"):
        additivity([np.inf], [1.0])


def test_a_file_that_is_no_table_is_named(tmp_path):
    path = tmp_path / "t.json"
    for text in ("", "{}", '{"key": "k", "base": "b", "base_error": NaN, "errors": {}}'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"t\.json") as caught:
            SwapTable.load(path)
        assert "\n" not in str(caught.value)
