import copy

import pytest
import torch

from nas.distill.align import align, align_many
from nas.distill.candidate import DivergedError, distill_candidates
from nas.distill.settings import AlignSettings
from search_spaces.candidate import Candidate
from search_spaces.surgery import assemble

SETTINGS = AlignSettings(steps=6, batch_size=4, checkpoint_every=2)


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def students(teacher):
    ids = {"small": "R-R-R-none-R-R-R@3", "large": "R-RA-RR-none-RR-RARA-RARARA"}
    return {name: assemble(teacher.unet, Candidate.from_id(text)) for name, text in ids.items()}


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_students_come_closer_and_nothing_shared_changes(tmp_path, teacher, students, batches):
    before = {name: state(student) for name, student in students.items()} | {"teacher": state(teacher.unet)}
    settings = SETTINGS.model_copy(update={"steps": 15, "learning_rate": 1e-3})
    results = align_many(teacher, students, batches, settings, tmp_path, "data")
    assert batches.steps == list(range(15))  # one teacher pass a step for both
    for name, result in results.items():
        assert result.last_loss < result.first_loss and result.num_steps == result.num_steps_now == 15
        assert same(before[name], state(students[name])) and not same(before[name], state(result.student))
        assert result.student.candidate == students[name].candidate
        assert not any(p.requires_grad for p in result.student.parameters())
        given = {p.data_ptr() for p in students[name].parameters()}
        assert not given & {p.data_ptr() for p in result.student.parameters()}
    assert same(before["teacher"], state(teacher.unet))
    assert not any(p.requires_grad for p in teacher.unet.parameters())


def test_together_is_the_same_as_alone(tmp_path, teacher, students, batches):
    both = align_many(teacher, students, batches, SETTINGS, tmp_path / "both", "data")
    alone = align(teacher, students["large"], batches, SETTINGS, tmp_path / "alone", "data")
    assert same(state(both["large"].student), state(alone.student)) and both["large"].losses == alone.losses


@pytest.mark.parametrize("killed_after", [1, 5])
def test_resume_is_bit_identical_and_a_finished_run_is_not_repeated(tmp_path, teacher, students, batches, killed_after):
    def kill(done, total, note):
        if done == killed_after:
            raise Killed

    whole = align_many(teacher, students, batches, SETTINGS, tmp_path / "whole", "data")
    with pytest.raises(Killed):
        align_many(teacher, students, batches, SETTINGS, tmp_path / "cut", "data", kill)
    batches.steps.clear()
    resumed = align_many(teacher, students, batches, SETTINGS, tmp_path / "cut", "data")
    assert batches.steps == list(range(killed_after // 2 * 2, 6))
    for name in students:
        assert same(state(whole[name].student), state(resumed[name].student))
        assert whole[name].losses == resumed[name].losses
    batches.steps.clear()
    again = align_many(teacher, students, batches, SETTINGS, tmp_path / "cut", "data")
    assert batches.steps == [] and {r.num_steps_now for r in again.values()} == {0}
    assert all(same(state(whole[name].student), state(again[name].student)) for name in students)
    # Another student does not find the first one's weights.
    other = {"small": copy.deepcopy(students["small"])}
    with torch.no_grad():
        other["small"].conv_in.bias += 1
    align_many(teacher, other, batches, SETTINGS.model_copy(update={"steps": 1}), tmp_path / "cut", "data")
    assert batches.steps == [0]


def test_no_steps_leave_the_student_as_it_is(tmp_path, teacher, students, batches):
    settings = SETTINGS.model_copy(update={"steps": 0})
    result = align(teacher, students["large"], batches, settings, tmp_path, "data")
    assert same(state(result.student), state(students["large"])) and batches.steps == []
    assert (result.first_loss, result.num_steps, list(tmp_path.iterdir())) == (None, 0, [])


def test_a_non_finite_student_keeps_its_weights_and_stops_alone(tmp_path, teacher, students, batches):
    broken = copy.deepcopy(students["small"])
    with torch.no_grad():
        broken.conv_out.bias.fill_(torch.inf)
    pair = {"broken": broken, "large": students["large"]}
    results = align_many(teacher, pair, batches, SETTINGS, tmp_path / "pair", "data")
    assert results["broken"].reason == "loss is inf at step 1" and results["broken"].last_loss is None
    assert same(state(results["broken"].student), state(broken))
    alone = align(teacher, students["large"], batches, SETTINGS, tmp_path / "alone", "data")
    assert same(state(results["large"].student), state(alone.student)) and results["large"].reason is None


def test_a_candidate_distilled_rung_by_rung_ends_where_an_aligned_one_does(tmp_path, teacher, students, batches):
    before = {name: state(student) for name, student in students.items()}
    wanted = align_many(teacher, students, batches, SETTINGS, tmp_path, "data")
    drawn = len(batches.steps)
    seen = []
    for steps, copies in distill_candidates(teacher, students, batches, SETTINGS, (0, 2, 6)):
        assert len(batches.steps) - drawn == steps  # nothing is computed before it is asked for
        seen.append({name: state(module) for name, module in copies.items()})
    assert all(same(seen[0][name], before[name]) and same(before[name], state(students[name])) for name in students)
    assert all(same(seen[-1][name], state(wanted[name].student)) for name in students)
    assert not any(same(seen[1][name], seen[2][name]) for name in students)
    broken = copy.deepcopy(students["small"])
    next(broken.parameters()).data.fill_(float("nan"))
    with pytest.raises(DivergedError, match="distillation of broken diverged: loss is nan at step 1"):
        list(distill_candidates(teacher, {"broken": broken}, batches, SETTINGS, (0, 2)))
