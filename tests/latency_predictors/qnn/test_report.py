from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latency_predictors.qnn import (
    SOCS,
    CompileReport,
    QuantizationSettings,
    Toolchain,
    find_soc,
    read_report,
    read_samples,
    relative_l2,
    write_report,
    write_samples,
)
from latency_predictors.qnn.compiler import failure_reason
from latency_predictors.qnn.report import Status
from latency_predictors.runners.base import Sample
from search_spaces.errors import UserError

TOOLS = Toolchain(onnxruntime="1.32.0", onnxruntime_qnn="2.7.0", qairt="2.51.0")
# As onnxruntime-qnn 2.7.0 logged them.
UNSUPPORTED = (
    "\x1b[1;31m2026-11-23 13:44:05.730991182 [E:onnxruntime:, qnn_execution_provider.cc:2453 GetCapabilityImpl] "
    "Unsupported nodes in QNN EP: { name: det, type: Det }\x1b[m"
)
FALLBACK = (
    "\x1b[1;31m2026-11-23 13:44:06.009706108 [E:onnxruntime:, inference_session.cc:3309 operator()] This session "
    "contains graph nodes that are assigned to the default CPU EP, but fallback to CPU EP has been explicitly disabled "
    "by the user.\x1b[m"
)


def report(status: Status = "compiled", errors: dict[str, float] | None = None) -> CompileReport:
    return CompileReport(
        subject="E1/RA",
        soc="SM8750",
        quantization=QuantizationSettings(),
        toolchain=TOOLS,
        status=status,
        seconds={"quantise": 1.5, "compile": 2.25},
        error_l2=errors,
    )


def test_a_report_comes_back_as_it_was(tmp_path: Path) -> None:
    written = report(errors={"out0": 0.1 + 0.2, "out1": 1e-17})
    assert read_report(write_report(written, tmp_path / "deep" / "r.json")) == written
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["r.json"]


def test_no_report_is_none_and_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    assert read_report(path) is None
    write_report(report(), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="delete it and compile again"):
        read_report(path)


def test_what_may_end_otherwise_is_not_final() -> None:
    final = {status: report(status).is_final for status in ("compiled", "refused", "failed", "crashed", "timed_out")}
    assert [status for status, is_final in final.items() if is_final] == ["compiled", "refused"]
    assert report(errors={"a": 0.25, "b": 0.5}).worst_error_l2 == 0.5
    assert report().worst_error_l2 is None


def test_samples_come_back_in_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples: list[Sample] = [{"in0": rng.standard_normal((2, 3)), "context": rng.standard_normal(4)} for _ in range(12)]
    found = read_samples(write_samples(tmp_path / "s.safetensors", samples))
    assert len(found) == 12
    for one, other in zip(samples, found, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], strict=True)


def test_relative_l2() -> None:
    assert relative_l2([3.0, 4.0], [3.0, 0.0]) == pytest.approx(4 / 3)
    assert relative_l2([[1.0]], [[1.0]]) == 0
    assert np.isnan(relative_l2([1.0], [0.0]))


def test_socs() -> None:
    assert (find_soc("SM8750").soc_model, find_soc("SM8750").htp_arch) == (69, 79)
    assert len({soc.soc_model for soc in SOCS.values()}) == len(SOCS)
    with pytest.raises(UserError, match=r"SoC 'A17' is not known; legal are SM8550, .*SM8750"):
        find_soc("A17")


def test_the_reason_names_the_operators() -> None:
    two = UNSUPPORTED.replace("{ name: det, type: Det }", "{ name: det, type: Det } { name: up, type: Resize }")
    reason = failure_reason([UNSUPPORTED, two, FALLBACK], "[ONNXRuntimeError] : 1 : FAIL : ...")
    assert reason.endswith("1 Det (such as det), 1 Resize (such as up)")


def test_the_reason_is_what_was_logged_or_the_error() -> None:
    logged = failure_reason([FALLBACK, FALLBACK, "noise"], "the error")
    assert logged.startswith("This session contains") and logged.endswith("by the user.")
    assert failure_reason(["noise"], "the\nerror") == "the error"
