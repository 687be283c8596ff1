"""What a run's `device_profile.json` says, of whatever kind and format it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from latency_predictors.information import PUBLIC
from latency_predictors.judgement import Judgement
from latency_predictors.judging import WORDS, level_of
from nas.latency import npu_error, npu_title, unseen_error
from nas.run_data.types import Device, LatencyPoint
from nas.run_data.values import needed, number, text, whole


def read_device(path: Path) -> Device:
    """The facts of a device profile of any kind and format.

    Raises:
        OSError, ValueError, TypeError, AttributeError, KeyError: missing, or not a profile.
    """
    data = json.loads(path.read_text(encoding="utf-8"))
    if "roofline" in data:
        return _npu(data)
    points = [_latency_point(row, "fit") for row in data.get("fitted") or ()]
    points += [_latency_point(row, "check") for row in data.get("validation") or ()]
    judged = data.get("judgement") or {}
    return Device(
        device=str(data["device"]),
        runtime=str(data["runtime"]),
        precision=str(data["precision"]),
        threads=whole(data.get("threads")),
        # The first format has them beside the base's timing.
        conditions=data.get("conditions") or (data.get("base") or {}).get("conditions") or {},
        points=tuple(points),
        fitted_from=text(data.get("information")),
        error=unseen_error(judged["median_error_pct"], judged["p90_error_pct"], judged["num"], judged["how"])
        if judged
        else "",
        p90_error_pct=number(judged.get("p90_error_pct")),
        spearman=number(judged.get("spearman")),
        coverage90=number(judged.get("coverage90")),
        verdict=WORDS[level_of(Judgement.model_validate(judged))] if judged else "",
    )


def _npu(data: Mapping[str, Any]) -> Device:
    errors = data["errors"]
    return Device(
        device=npu_title(data["device"], data["soc"]),
        runtime=str(data["toolchain"]),
        precision=str(data["precision"]),
        threads=None,
        conditions={},
        points=(),
        fitted_from=PUBLIC,
        error=npu_error([row["error_pct"] for row in errors["without_diffusion"]]),
        verdict=WORDS["unjudged"],
        notes=tuple(str(note) for note in data["notes"]),
        published=tuple(
            (str(row["what"]), needed(row["published_ms"], "published_ms"), needed(row["predicted_ms"], "predicted_ms"))
            for row in errors["published"]
        ),
    )


def _latency_point(row: Mapping[str, Any], role: Literal["fit", "check"]) -> LatencyPoint:
    measured, predicted = (needed(row[name], name) for name in ("measured_ms", "predicted_ms"))
    low, high = number(row.get("low_ms")), number(row.get("high_ms"))
    return LatencyPoint(str(row["candidate"]), measured, predicted, role, low, high)
