"""The teacher's side of distillation, computed once: the same numbers as a pass a step, for every student after it."""

from __future__ import annotations

import pytest
import torch

from nas.distill.candidate import distill_candidates
from nas.distill.settings import AlignSettings
from nas.distill.targets import StoredTargets
from nas.sampling import add_noise, alphas_cumprod
from search_spaces.candidate import Candidate
from search_spaces.surgery import assemble

SETTINGS = AlignSettings(steps=2, batch_size=4, learning_rate=1e-3, warm_up_steps=1)


def test_the_teacher_predicts_each_step_once(tmp_path, teacher, batches):
    def source(start):
        return (batch for batch in batches(start))

    targets = StoredTargets(teacher, source, tmp_path, ["data", 0, 4], 2)
    alphas = alphas_cumprod(teacher.scheduler.config)
    for step in (1, 4, 0):
        batch = next(batches(step))
        noisy = add_noise(alphas, batch.latents, batch.noise, batch.timesteps)
        with torch.no_grad():
            wanted = teacher.unet(noisy, batch.timesteps, batch.context, return_dict=False)[0]
        assert torch.equal(targets(step), wanted)
    assert targets.cost == (4, pytest.approx(targets.seconds_now, abs=1e-3)) and targets.seconds_now > 0
    again = StoredTargets(teacher, source, tmp_path, ["data", 0, 4], 2)
    assert torch.equal(again(1), targets(1)) and again.seconds_now == 0 and again.cost[0] == 2
    # Other data has other targets, and so do files that were damaged.
    other = StoredTargets(teacher, source, tmp_path, ["other data", 0, 4], 2)
    other(1)
    assert other.seconds_now > 0
    (tmp_path / "targets-00000.safetensors").write_bytes(b"torn")
    mended = StoredTargets(teacher, source, tmp_path, ["data", 0, 4], 2)
    assert torch.equal(mended(1), targets(1)) and mended.seconds_now > 0


def test_students_of_stored_targets_have_the_same_weights(tmp_path, teacher, batches):
    words = {"E1": "R", "E2": "R", "E3": "R", "deep": "none", "D3": "R", "D2": "R", "D1": "R@3"}
    student = assemble(teacher.unet, Candidate(options=words))
    targets = StoredTargets(teacher, batches, tmp_path, ["data", 0, 4], 2)
    found = [
        {name: value.clone() for name, value in copies["student"].state_dict().items()}
        for given in (None, targets)
        for _, copies in distill_candidates(teacher, {"student": student}, batches, SETTINGS, (2,), given)
    ]
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    assert not torch.equal(found[0]["conv_out.weight"], student.state_dict()["conv_out.weight"])
