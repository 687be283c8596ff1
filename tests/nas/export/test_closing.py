"""The closing table: teacher first, all graphs timed in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latency_predictors.runners.base import MeasureSettings
from nas.export import ClosingSettings, VariantCard, export_diffusers, measure_closing
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.surgery import assemble, teacher_candidate

ALL_R = "R-R-R-none-R-R-R@3"


def test_rows(teacher: Any, tmp_path: Path) -> None:
    whole = assemble(teacher.unet, teacher_candidate(teacher.unet))
    picks = {
        "fastest": assemble(teacher.unet, Candidate.from_id(ALL_R)),
        "changed": assemble(teacher.unet, Candidate.from_id("RA-R-R-none-R-R-R@3")),
    }
    folder = tmp_path / "variants" / "fastest"
    export_diffusers(teacher, picks["fastest"], folder, VariantCard(name="fastest", space="nanosd"), onnx=True)
    settings = ClosingSettings(
        num_tokens=teacher.num_tokens, measure=MeasureSettings(warm_up=1, min_repeats=3, max_seconds=0.3)
    )
    work = tmp_path / "closing"
    rows = measure_closing(whole, picks, work, settings, variants={"fastest": folder, "changed": folder})
    assert [row.name for row in rows] == ["teacher", "fastest", "changed"]
    assert [row.candidate for row in rows] == [net.candidate.id for net in (whole, *picks.values())]
    assert rows[0].num_params == sum(p.numel() for p in teacher.unet.parameters())
    assert rows[0].speed_up == 1
    # Its work is a part of the teacher's, by far the smaller one.
    assert rows[1].speed_up > 1.2
    ratio = rows[0].measurement.median_ms / rows[1].measurement.median_ms
    assert rows[1].speed_up == pytest.approx(ratio)
    # The graph of "fastest" was there already; the one in the folder given for "changed" has other weights.
    assert sorted(path.name for path in work.iterdir()) == ["changed", "teacher"]


def test_a_pick_cannot_be_called_teacher(teacher: Any, tmp_path: Path) -> None:
    whole = assemble(teacher.unet, teacher_candidate(teacher.unet))
    with pytest.raises(UserError, match="'teacher' is taken"):
        measure_closing(whole, {"teacher": whole}, tmp_path, ClosingSettings(num_tokens=16))
