"""The checks of finished models: the teacher itself is perfect, damage makes every figure worse, records read back."""

import copy
import itertools

import numpy as np
import pytest
import torch

from nas.data import LatentDataset
from nas.fidelity.check_record import Checks
from nas.fidelity.checks import Checker, noise_curve
from nas.fidelity.manifold import embedding_cosine, interpolation_smoothness, slerp
from nas.fidelity.paired import Fidelity, PairedEvaluator
from nas.fidelity.settings import FidelitySettings
from nas.run.prior_facts import prior_facts
from nas.search.record import CandidateRecord
from nas.search.store import CandidateStore

SETTINGS = FidelitySettings(num_samples=16, num_noise_samples=16, ddim_steps=2, pool_grid=1, guidance=1.0)


@pytest.fixture(scope="module")
def evaluator(toy):
    latents = torch.randn(12, 4, toy.latent_size, toy.latent_size, generator=torch.Generator().manual_seed(1))
    return PairedEvaluator(toy, LatentDataset(latents, [f"cat {i % 3}" for i in range(12)]), SETTINGS)


def damaged(unet, level):
    found, generator = copy.deepcopy(unet), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in found.parameters():
            p.add_(level * p.std().nan_to_num(0.0) * torch.randn(p.shape, generator=generator))
    return found


@pytest.fixture(scope="module")
def checked(toy, evaluator):
    checker = Checker(evaluator, num_images=8)
    nets = [toy.unet, damaged(toy.unet, 0.02), damaged(toy.unet, 0.3)]
    scores = [evaluator.evaluate(net) for net in nets]
    return scores, [checker.check(net, score) for net, score in zip(nets, scores, strict=True)]


def test_the_teacher_itself_has_nothing_to_mend(checked):
    own = checked[1][0]
    assert own.images.psnr_db is None and own.images.ssim == pytest.approx(1.0)
    assert own.images.perceptual == 0.0 and own.images.embedding_cosine == pytest.approx(1.0)
    assert own.path_length_ratio == own.largest_jump_ratio == 1.0
    assert all(point.error == 0.0 for point in own.noise_curve)
    assert own.tafid_infinity == pytest.approx(0.0, abs=1e-9)


def test_damage_shows_in_every_figure(checked):
    _, (_, little, much) = checked
    assert little.images.psnr_db > much.images.psnr_db
    assert little.images.ssim > much.images.ssim
    assert little.images.perceptual < much.images.perceptual
    assert little.images.embedding_cosine > much.images.embedding_cosine
    assert little.kernel_distance < much.kernel_distance and little.tafid_infinity < much.tafid_infinity
    assert abs(little.path_length_ratio - 1) < abs(much.path_length_ratio - 1)
    unrelated = little.unrelated
    assert (
        little.images.perceptual < unrelated.perceptual and little.images.embedding_cosine > unrelated.embedding_cosine
    )


def test_scores_keep_each_sample_and_its_interval(checked, evaluator):
    for score in checked[0][1:]:
        assert np.mean(score.latent_errors) == pytest.approx(score.latent_error) and len(score.latent_errors) == 16
        assert np.mean(score.noise_errors) == pytest.approx(score.noise_error) and len(score.noise_errors) == 16
        for name, (low, high) in score.intervals.items():
            assert 0 <= low <= getattr(score, name) <= high
        assert len(score.intervals) == 3 and score.tafid_floor == evaluator.tafid_floor
        assert score.tafid_corrected < score.tafid  # the bias is upwards


def test_records_read_back_and_older_ones_too(checked):
    checks = checked[1][1]
    assert Checks.model_validate_json(checks.model_dump_json()) == checks
    old = Fidelity.model_validate(
        {"noise_error": 0.1, "latent_error": 0.2, "tafid": 0.3, "num_samples": 8, "seconds": 1.0}
    )
    assert old.intervals == {} and old.tafid_floor is None and old.latent_errors == ()


def test_the_evaluator_s_key_is_that_of_earlier_versions_until_features_are_chosen(toy, evaluator, tmp_path):
    """The teacher's side is cached once, whatever looks at it; swap tables of other features are not mixed up."""
    data = LatentDataset(torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(2)), ["cat"] * 4)
    small = SETTINGS.model_copy(update={"num_samples": 4, "num_noise_samples": 2})
    path = tmp_path / "side.safetensors"
    first = PairedEvaluator(toy, data, small, cache=path)
    stamp = path.stat().st_mtime_ns
    other = PairedEvaluator(toy, data, small.model_copy(update={"features": "unet-encoder"}), cache=path)
    assert path.stat().st_mtime_ns == stamp and other.key == f"{first.key}-unet-encoder-50"
    assert other.evaluate(damaged(toy.unet, 0.1)).features == "unet-encoder"


def test_status_says_how_well_the_sum_of_swaps_held(tmp_path):
    store = CandidateStore(tmp_path)
    assert prior_facts(store) is None
    for number, (prior, error) in enumerate([(0.1, 0.2), (0.2, 0.4), (0.4, 0.8)]):
        store.append(
            CandidateRecord(
                candidate=f"c{number}",
                options={},
                vector=(number,),
                outcome="done",
                latency_ms=1.0,
                num_params=1,
                prior=prior,
                metrics={"latent_error": error},
                trial=str(number),
            )
        )
    found = prior_facts(store)
    assert found is not None and found.num_candidates == 3 and found.ratio_median == pytest.approx(2.0)
    assert found.log_correlation == pytest.approx(1.0) and found.kendall == pytest.approx(1.0)


def test_the_noise_curve_averages_to_the_noise_error():
    rng = np.random.default_rng(0)
    steps, errors = rng.permutation(1000)[:40], rng.gamma(1.0, size=40)
    curve = noise_curve(steps, errors)
    assert [p.timestep for p in curve] == sorted(p.timestep for p in curve) and len(curve) == 8
    assert np.mean([p.error for p in curve]) == pytest.approx(errors.mean())
    first = np.sort(steps)[:5]
    assert curve[0].timestep == first.mean() and curve[0].error == pytest.approx(errors[np.isin(steps, first)].mean())
    assert all(p.low <= p.error <= p.high for p in curve)
    assert noise_curve([5], [0.1])[0].low is None


def test_slerp_keeps_the_length_and_the_angle():
    a, b = torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)
    a[0, 0, 0], b[0, 0, 1] = 2.0, 2.0
    points = slerp(a, b, torch.linspace(0, 1, 5))
    for k, point in enumerate(points):
        angle = np.pi / 2 * k / 4
        assert point[0, 0].tolist() == pytest.approx([2 * np.cos(angle), 2 * np.sin(angle)], abs=1e-6)
    torch.testing.assert_close(slerp(a, a, torch.tensor([0.3]))[0], a)


def test_smoothness_and_cosine_by_hand():
    teacher = np.array([[[0.0], [1.0], [2.0]], [[0.0], [2.0], [3.0]]])
    student = np.array([[[0.0], [0.0], [4.0]], [[0.0], [1.0], [1.5]]])
    found = interpolation_smoothness(student, teacher)
    assert found == pytest.approx(((4 / 2 + 1.5 / 3) / 2, (4 / 1 + 1 / 2) / 2))
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 8)) + 100
    assert embedding_cosine(x, x) == pytest.approx(1.0)
    assert abs(embedding_cosine(rng.permutation(x), x)) < 0.1  # unrelated, though all lie in one direction
    centre = x.mean(0)
    expected = [
        (u - centre) @ (v - centre) / np.linalg.norm(u - centre) / np.linalg.norm(v - centre)
        for u, v in itertools.pairwise(x)
    ]
    assert embedding_cosine(x[:-1], x[1:]) == pytest.approx(np.mean(expected), abs=1e-3)
