import copy
import dataclasses

import numpy as np
import pytest
import torch

from nas.fidelity.errors import FidelityError
from nas.fidelity.features import pooled_latents
from nas.fidelity.frechet import feature_distance
from nas.fidelity.paired import PairedEvaluator
from nas.fidelity.settings import FidelitySettings
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.surgery import assemble, teacher_candidate

SETTINGS = FidelitySettings(num_samples=8, num_noise_samples=6, ddim_steps=2, guidance=2.0, batch_size=5, pool_grid=2)


@pytest.fixture(scope="module")
def evaluator(teacher, data):
    return PairedEvaluator(teacher, data, SETTINGS)


@pytest.fixture(scope="module")
def student(teacher):
    return assemble(teacher.unet, Candidate.from_id("R-RARA-RA-none-RARA-RR-RARARA"))


def without_time(fidelity):
    return fidelity.model_dump(exclude={"seconds"})


def test_the_teacher_is_at_zero(teacher, evaluator):
    for unet in (teacher.unet, assemble(teacher.unet, teacher_candidate(teacher.unet))):
        found = evaluator.evaluate(unet)
        assert found.noise_error == 0.0 and found.latent_error == 0.0
        assert found.tafid == pytest.approx(0.0, abs=1e-9) and found.num_samples == 8
    assert evaluator.tafid_floor > 0.01


def test_agrees_with_a_plain_loop_over_single_samples(teacher, data, evaluator, student):
    """An independent implementation: DDIM written out from the alphas, one sample at a time."""
    found = evaluator.evaluate(student)
    alphas = teacher.scheduler.alphas_cumprod
    steps = (500, 0)
    null = teacher.encode_prompts([""])

    def final(unet, z, context):
        for t in steps:
            with torch.no_grad():
                free, told = (unet(z, t, c, return_dict=False)[0] for c in (null, context))
            eps = free + 2.0 * (told - free)
            before = alphas[t - 500] if t >= 500 else teacher.scheduler.final_alpha_cumprod
            clean = (z - (1 - alphas[t]).sqrt() * eps) / alphas[t].sqrt()
            z = before.sqrt() * clean + (1 - before).sqrt() * eps
        return z

    ours, theirs = [], []
    for i in range(8):
        context = teacher.encode_prompts([evaluator.prompts[int(evaluator._prompt_index[i])]])
        ours.append(final(student, evaluator.noise[i : i + 1], context))
        theirs.append(final(teacher.unet, evaluator.noise[i : i + 1], context))
    ours, theirs = torch.cat(ours).double(), torch.cat(theirs).double()
    assert found.latent_error == pytest.approx(float((ours - theirs).pow(2).mean() / theirs.var()), rel=1e-3)
    distance = feature_distance(pooled_latents(ours, 2), pooled_latents(theirs, 2))
    assert found.tafid == pytest.approx(distance, rel=1e-3)


def test_noise_error_agrees_with_a_plain_loop(teacher, evaluator, student):
    fixed, ours, theirs = evaluator._fixed, [], []
    for i in range(6):
        context = teacher.encode_prompts([evaluator.prompts[int(evaluator._prompt_index[i])]])
        for unet, out in ((student, ours), (teacher.unet, theirs)):
            with torch.no_grad():
                out.append(unet(fixed["noisy"][i : i + 1], fixed["timesteps"][i : i + 1], context).sample)
    ours, theirs = torch.cat(ours), torch.cat(theirs)
    expected = float((ours - theirs).pow(2).mean() / theirs.var())
    assert evaluator.evaluate(student).noise_error == pytest.approx(expected, rel=1e-4)
    assert sorted(fixed["timesteps"].tolist()) == [83, 250, 416, 583, 750, 916]  # spread evenly


def test_repeatable_and_fixed_by_the_seed(teacher, data, evaluator, student):
    first = without_time(evaluator.evaluate(student))
    assert without_time(evaluator.evaluate(student)) == first
    assert without_time(PairedEvaluator(teacher, data, SETTINGS).evaluate(student)) == first
    other = PairedEvaluator(teacher, data, SETTINGS, seed=1)
    assert without_time(other.evaluate(student)) != first and other.key != evaluator.key


def test_errors_grow_with_damage(teacher, evaluator):
    """More noise in the weights, further from the teacher, in every measure."""
    levels, found = (0.0, 0.03, 0.2), []
    for level in levels:
        damaged, generator = copy.deepcopy(teacher.unet), torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in damaged.parameters():
                p.add_(level * p.std().nan_to_num(0.0) * torch.randn(p.shape, generator=generator))
        found.append(evaluator.evaluate(damaged))
    for measure in ("noise_error", "latent_error", "tafid"):
        values = [getattr(f, measure) for f in found]
        assert values == sorted(values) and values[1] > values[0] + 1e-9, measure


def test_the_cache_spares_the_teacher(tmp_path, teacher, data, evaluator, student):
    path = tmp_path / "teacher_side.safetensors"
    PairedEvaluator(teacher, data, SETTINGS, cache=path)
    passes = []
    hook = teacher.unet.register_forward_hook(lambda *args: passes.append(1))
    try:
        again = PairedEvaluator(teacher, data, SETTINGS, cache=path)
        assert passes == [] and without_time(again.evaluate(student)) == without_time(evaluator.evaluate(student))
        assert again.tafid_floor == evaluator.tafid_floor and again.latent_variance == evaluator.latent_variance
        PairedEvaluator(teacher, data, SETTINGS, seed=2, cache=path)  # another key: computed, and written over
        assert passes
    finally:
        hook.remove()


def test_a_damaged_cache_is_made_again(tmp_path, teacher, data, evaluator, student, caplog):
    path = tmp_path / "side.safetensors"
    PairedEvaluator(teacher, data, SETTINGS, cache=path)
    path.write_bytes(path.read_bytes()[:500])
    again = PairedEvaluator(teacher, data, SETTINGS, cache=path)
    assert len(caplog.records) == 1 and "damaged" in caplog.text
    assert without_time(again.evaluate(student)) == without_time(evaluator.evaluate(student))
    with pytest.raises(UserError, match="cannot write"):
        PairedEvaluator(teacher, data, SETTINGS, cache=path / "below" / "a file")


def test_non_finite_values_name_their_measure(teacher, evaluator):
    broken = copy.deepcopy(teacher.unet)
    with torch.no_grad():
        broken.conv_out.bias[0] = torch.nan
    with pytest.raises(FidelityError, match="noise_error is not finite: 384 of 1536") as caught:
        evaluator.evaluate(broken)
    assert caught.value.measure == "noise_error"
    late = copy.deepcopy(teacher.unet)  # finite predictions that overflow while sampling
    with torch.no_grad():
        late.conv_out.bias.fill_(1e37)
    with pytest.raises(FidelityError) as caught:
        evaluator.evaluate(late)
    assert caught.value.measure == "latent_error"


def test_a_teacher_that_is_broken_is_told(teacher, data):
    broken = copy.deepcopy(teacher.unet)
    with torch.no_grad():
        broken.conv_out.bias.fill_(torch.nan)
    with pytest.raises(FidelityError, match="teacher's own output"):
        PairedEvaluator(dataclasses.replace(teacher, unet=broken), data, SETTINGS)


def test_pooling_keeps_the_mean_and_the_layout():
    latents = torch.arange(2 * 3 * 8 * 8, dtype=torch.float32).reshape(2, 3, 8, 8)
    pooled = pooled_latents(latents, 4)
    assert pooled.shape == (2, 48)
    np.testing.assert_allclose(pooled.reshape(2, 3, 16).mean(2), latents.mean((2, 3)).numpy())
    np.testing.assert_allclose(pooled[0, 0], latents[0, 0, :2, :2].mean().numpy())
    assert pooled_latents(latents[..., :3, :3], 4).shape == (2, 27)


def test_rungs_are_means_so_far_and_end_with_the_same_value(teacher, data, student):
    settings = SETTINGS.model_copy(update={"num_samples": 9, "batch_size": 2})
    evaluator = PairedEvaluator(teacher, data, settings)
    *partial, whole = evaluator.rungs(student)
    assert without_time(whole) == without_time(evaluator.evaluate(student))
    # Whole batches of 2: the first with a quarter of 9 samples or more, the first with half of them.
    assert [p.num_samples for p in partial] == [4, 6]
    each = evaluator.sample_errors(evaluator.sample(student))
    assert each.mean() == pytest.approx(whole.latent_error, rel=1e-6)
    for p in partial:
        first = each[: p.num_samples]
        assert p.latent_error == pytest.approx(first.mean(), rel=1e-6) and p.noise_error == whole.noise_error
        assert p.standard_error == pytest.approx(first.std(ddof=1) / len(first) ** 0.5, rel=1e-6)
