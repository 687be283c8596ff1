"""onnxruntime_perf_test, benchmark_model of TFLite, and AI Hub jobs."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import pytest

from latency_predictors.importers import Facts, ImportResult, read_measurements
from search_spaces.errors import UserError
from tests.latency_predictors.importers.samples import AIHUB_JOB, SAMPLES, TFLITE


@pytest.fixture
def read(tmp_path: Path):
    def read_text(text: str, **facts: object) -> ImportResult:
        path = tmp_path / "log.txt"
        path.write_text(text, encoding="utf-8")
        return read_measurements(path, facts=Facts(**facts))

    return read_text


def test_perf_test_takes_each_call_by_itself(read) -> None:
    """The tool appends: runs that count from 0 again are another call, perhaps with other options."""
    times = [0.5, 0.25, 0.75]
    call = [f"unet,{s},1000,99,{run}" for run, s in enumerate(times)]
    other = [f"vae,{2 * s},2000,99,{run}" for run, s in enumerate(times)]
    result = read("\n".join([*call, *other, *call]))
    assert [(m.subject, m.latency_ms, m.num_samples, m.peak_memory_bytes) for m in result.measurements] == [
        ("unet", 1e3 * median(times), 3, 1000),
        ("vae", 2e3 * median(times), 3, 2000),
    ]
    assert [(flag.row, flag.reason) for flag in result.flags] == [(7, "repeats row 1: 'unet'; keep one")]


def test_perf_test_refuses_runs_by_their_row(read) -> None:
    result = read("a,b,0.01,5,9,0\na,b,0.011,5,9,1\na,b,9e-06,5,9,2\na,b,-1,5,9,3\nnonsense\na,b,0.012,5,9,4\n")
    (m,) = result.measurements
    assert (m.subject, m.num_samples) == ("a,b", 3)
    assert m.latency_ms == pytest.approx(11.0)
    assert [flag.row for flag in result.flags] == [3, 4, 5]


def test_perf_test_in_nanoseconds_is_refused(read) -> None:
    with pytest.raises(UserError, match="row 1: time_s is '12345678'; old versions of the tool write nanoseconds"):
        read("unet,12345678,1000,99,0\nunet,12345679,1000,99,1\n")


def tflite(**replaced: str) -> str:
    text = SAMPLES["tflite-benchmark"].text
    for old, new in replaced.values():
        assert old in text
        text = text.replace(old, new)
    return text


def test_tflite_fields_and_operators(read) -> None:
    result = read(tflite())
    (m,) = result.measurements
    assert (m.subject, m.statistic, m.num_samples, m.threads) == ("unet", "median", 50, 4)
    assert (m.runtime, m.compute_unit) == ("tflite-cpu", "CPU")
    assert m.peak_memory_bytes == round(109.75 * 2**20)
    assert [(o.name, o.op_type, o.latency_ms) for o in result.operators] == [
        ("[conv]:0", "CONV_2D", 9.957),
        ("[softmax]:1", "SOFTMAX", 2.443),
    ]


def test_tflite_without_a_median_gives_the_mean(read) -> None:
    text = SAMPLES["tflite-benchmark"].template.replace("p5=12387 median=@ p95=12474", "").replace("@", "1.24027e+06")
    (m,) = read(text).measurements
    assert (m.latency_ms, m.statistic, m.num_samples) == (1240.27, "mean", 50)


def test_tflite_takes_no_statistics_of_the_warm_up(read) -> None:
    """Where the regular line is missing the line before is the warm-up's: another average betrays it."""
    lines = tflite().split("\n")
    (m,) = read("\n".join(line for line in lines if "count=50 first=12499" not in line)).measurements
    assert (m.latency_ms, m.statistic, m.num_samples) == (12.5, "mean", None)


def test_tflite_of_two_delegates_the_one_that_took_the_graph(read) -> None:
    lines = (
        "Explicitly applied GPU delegate, and the model graph will be completely executed by the delegate.\n"
        "Though NNAPI delegate is explicitly applied, the model graph will not be executed by the delegate.\n"
    )
    result = read(tflite(a=("INFO: Loaded model", f"{lines}INFO: Loaded model")))
    assert (result.measurements[0].runtime, result.flags) == ("tflite-gpu", ())


@pytest.mark.parametrize(
    ("line", "runtime", "unit", "remark"),
    [
        ("Explicitly applied GPU delegate, and the model graph will be completely executed by the delegate.",
         "tflite-gpu", "GPU", None),
        ("Applied GPU delegate, and the model graph will be completely executed w/ the delegate.",
         "tflite-gpu", "GPU", None),
        ("Explicitly applied NNAPI delegate, and the model graph will be partially executed by the delegate.",
         "tflite-nnapi", None, "only a part of the graph ran on the NNAPI delegate"),
        ("Though NNAPI delegate is explicitly applied, the model graph will not be executed by the delegate.",
         "tflite-cpu", "CPU", "nothing of the graph"),
    ],
)  # fmt: skip
def test_tflite_delegates(read, line: str, runtime: str, unit: str | None, remark: str | None) -> None:
    result = read(tflite(a=("INFO: Loaded model", f"INFO: {line}\nINFO: Loaded model")))
    (m,) = result.measurements
    assert (m.runtime, m.compute_unit) == (runtime, unit)
    assert [flag.refused for flag in result.flags] == ([] if remark is None else [False])
    if remark is not None:
        assert remark in result.flags[0].reason


def test_tflite_logs_one_after_the_other(read) -> None:
    """With logcat's prefix, the second without STARTING!, the third failed."""
    first = tflite()
    second = tflite(a=("INFO: STARTING!\n", ""), b=("unet.tflite", "vae.tflite"), c=("=12500", "=25000"),
                    d=("(avg): 12500", "(avg): 25000"))  # fmt: skip
    third = "STARTING!\nGraph: [/data/x.tflite]\nFailed to apply NNAPI delegate.\nBenchmarking failed.\n"
    text = "".join(f"07-14 13:23:08.133 25289 25289 I tflite  : {line}\n" for line in (first + second).split("\n"))
    result = read(text + third)
    assert [(m.subject, m.latency_ms) for m in result.measurements] == [("unet", 12.5), ("vae", 25.0)]
    refused = [flag for flag in result.flags if flag.refused]
    assert [(flag.row, flag.reason) for flag in refused] == [
        ((text + third).count("\n"), "benchmarking failed; no latency was measured")
    ]


def test_tflite_table_without_tabs_is_remarked(read) -> None:
    result = read(TFLITE.replace("@", "12500").replace("\t", "  "))
    assert not result.operators
    assert [(flag.row, flag.refused) for flag in result.flags] == [(15, False)]


def job(**changes: object) -> str:
    document = json.loads(AIHUB_JOB.replace("@", "12500"))
    for key, value in changes.items():
        document["execution_summary" if key in document["execution_summary"] else key][key] = value
    return json.dumps(document)


def test_job_fields_and_layers(read) -> None:
    result = read(job(), device="Samsung Galaxy S25", precision="w8a16", subject="unet")
    (m,) = result.measurements
    assert (m.subject, m.device, m.precision, m.statistic) == ("unet", "Samsung Galaxy S25", "w8a16", "estimate")
    assert (m.num_samples, m.peak_memory_bytes, m.compute_unit) == (4, 32792576, "NPU")
    assert m.layer_counts is not None and m.layer_counts.npu == m.layer_counts.total == 3
    assert [(o.name, o.latency_ms, o.row) for o in result.operators] == [
        ("Input", 0.0, "$.execution_detail[0]"),
        ("/down/Conv", 0.211, "$.execution_detail[1]"),
    ]


def test_job_takes_minus_one_for_not_measured(read) -> None:
    assert read(job(estimated_inference_peak_memory=-1)).measurements[0].peak_memory_bytes is None


def test_job_whose_estimate_is_not_among_its_runs_is_remarked(read) -> None:
    result = read(job(all_inference_times=[12, 13, 12.5]))  # milliseconds, where microseconds belong
    assert [(flag.row, flag.refused) for flag in result.flags] == [
        ("$.execution_summary.estimated_inference_time", False)
    ]
    assert "12.5 ms lies outside of all_inference_times, 0.012 to 0.013 ms" in result.flags[0].reason


def test_job_on_two_units_is_remarked(read) -> None:
    text = AIHUB_JOB.replace("@", "12500").replace(
        '"type": "Input", "compute_unit": "NPU"', '"type": "Input", "compute_unit": "CPU"'
    )
    result = read(text)
    assert result.measurements[0].compute_unit == "NPU"
    assert "of 3 layers 1 on CPU, 2 on NPU" in result.flags[0].reason


def test_job_nested_beyond_the_stack_and_numbers_of_thousands_of_digits(read) -> None:
    for value in ("[" * 100_000, "9" * 10_000):
        with pytest.raises(UserError, match=r"\$: not readable as JSON"):
            read('{"execution_summary": ' + value)
