from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from latency_predictors.calibration import CalibrationSettings, calibrate, choose_networks
from latency_predictors.journal import Journal
from latency_predictors.manifest import REFERENCE
from latency_predictors.profile import DeviceProfile
from latency_predictors.subjects import BASE, Subjects
from search_spaces.errors import UserError
from search_spaces.space import SearchSpace

NUM_SUBJECTS = 1 + 4 + 1 + 1 + 1 + 1 + 2 + 5  # base, options but none, whole networks


def run(
    unet: UNet2DConditionModel,
    space: SearchSpace,
    folder: Path,
    settings: CalibrationSettings,
    notes: list[tuple[int, int, str]] | None = None,
    teacher_key: str = "t",
) -> DeviceProfile:
    def on_progress(done: int, total: int, note: str) -> None:
        if notes is not None:
            notes.append((done, total, note))

    return calibrate(unet, space, 8, 5, 8, folder, settings, on_progress, teacher_key=teacher_key)


def recorded_passes(folder: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for line in (folder / "measurements.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if "recording" in entry:
            subject = entry["recording"]["subject"]
            if subject == REFERENCE:
                continue
            counts[subject] = counts.get(subject, 0) + 1
    return counts


def test_a_calibration_predicts_and_is_never_repeated(
    unet: UNet2DConditionModel, space: SearchSpace, settings: CalibrationSettings, tmp_path: Path
) -> None:
    notes: list[tuple[int, int, str]] = []
    # Groups of a few graphs each: the way of networks of real size.
    settings = settings.model_copy(update={"group_bytes": 700_000})
    profile = run(unet, space, tmp_path, settings, notes)
    assert (len(profile.fitted), len(profile.validation)) == (3, 2)
    assert {s: tuple(o) for s, o in profile.options.items()} == space.options
    assert (profile.latency_ms(space, space.enumerate()) > 0).all()
    assert notes[-1][:2] == (NUM_SUBJECTS, NUM_SUBJECTS)
    assert [p.name for p in tmp_path.iterdir()] == ["measurements.jsonl"], "graphs are deleted once measured"
    before = (tmp_path / "measurements.jsonl").read_bytes()
    again: list[tuple[int, int, str]] = []
    assert run(unet, space, tmp_path, settings, again) == profile
    assert (tmp_path / "measurements.jsonl").read_bytes() == before
    assert not any("export" in note for _, _, note in again)


def test_another_teacher_in_the_same_folder_is_refused(
    unet: UNet2DConditionModel, space: SearchSpace, settings: CalibrationSettings, tmp_path: Path
) -> None:
    Journal(tmp_path / "measurements.jsonl", {"teacher_key": "t"})
    with pytest.raises(UserError, match="delete the file or use another directory"):
        run(unet, space, tmp_path, settings, teacher_key="other")


def test_a_torn_line_is_cut_and_nonsense_refused(tmp_path: Path) -> None:
    path = tmp_path / "measurements.jsonl"
    Journal(path, {"a": 1}).finish(["x"])
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"finished": ["y"')
    journal = Journal(path, {"a": 1})
    assert journal.finished == ["x"]
    assert path.read_bytes() == whole
    path.write_bytes(whole + b"nonsense\n")
    with pytest.raises(UserError, match="line 3"):
        Journal(path, {"a": 1})


def test_the_networks_are_distinct_and_the_same_each_time(
    unet: UNet2DConditionModel, space: SearchSpace, settings: CalibrationSettings
) -> None:
    subjects = Subjects(unet, space, 8, 5, 8)
    fit, check = choose_networks(subjects, settings)
    assert choose_networks(subjects, settings) == (fit, check)
    assert len({c.id for c in (*fit, *check)}) == 5
    assert fit[0].id == "RARA-RARA-R-RR.RAR.RRR-R-R-RARARA"
    assert fit[1].id == "R-R-R-none-R-R-R@3"
    with pytest.raises(UserError, match="has 16 candidates"):
        choose_networks(subjects, settings.model_copy(update={"num_check": 20}))


def test_a_teacher_without_weights_gives_graphs_that_run(
    unet: UNet2DConditionModel, space: SearchSpace, tmp_path: Path
) -> None:
    meta = copy.deepcopy(unet).to("meta")
    subjects = Subjects(meta, space, 8, 5, 8)
    for name in (BASE, "D1/R@3", "R-R-R-none-R-R-R@3"):
        module, inputs, _, output_names = subjects.build(name)
        with torch.no_grad():
            outputs = module(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        assert len(outputs) == len(output_names)
        assert all(bool(o.isfinite().all()) for o in outputs)
    assert all(p.is_meta for p in meta.parameters())


_CHILD = """
import sys, torch
from pathlib import Path
from diffusers import UNet2DConditionModel
from latency_predictors.calibration import CalibrationSettings, calibrate
from search_spaces.space import SearchSpace
torch.set_num_threads(1)
torch.manual_seed(0)
unet = UNet2DConditionModel(sample_size=8, block_out_channels=(4, 8, 8, 8), norm_num_groups=2,
                            attention_head_dim=2, cross_attention_dim=8).eval()
space = SearchSpace.model_validate_json(sys.argv[2])
settings = CalibrationSettings.model_validate_json(sys.argv[3])
calibrate(unet, space, 8, 5, 8, Path(sys.argv[1]), settings, teacher_key="t")
"""


@pytest.mark.slow
def test_killed_it_goes_on_where_it_stopped(
    unet: UNet2DConditionModel, space: SearchSpace, settings: CalibrationSettings, tmp_path: Path
) -> None:
    settings = settings.model_copy(update={"group_bytes": 700_000})
    arguments = [str(tmp_path), space.model_dump_json(), settings.model_dump_json()]
    child = subprocess.Popen([sys.executable, "-c", _CHILD, *arguments], env={**os.environ, "OMP_NUM_THREADS": "1"})
    journal = tmp_path / "measurements.jsonl"
    deadline = time.monotonic() + 120
    while not (journal.exists() and b"finished" in journal.read_bytes()):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    finished_before = next(json.loads(x)["finished"] for x in journal.read_text().splitlines() if '"finished"' in x)
    passes_before = recorded_passes(tmp_path)
    assert 0 < len(finished_before) < NUM_SUBJECTS
    profile = run(unet, space, tmp_path, settings)
    passes = recorded_passes(tmp_path)
    assert len(passes) == NUM_SUBJECTS
    assert {name: passes[name] for name in finished_before} == {name: passes_before[name] for name in finished_before}
    assert len(profile.validation) == 2
