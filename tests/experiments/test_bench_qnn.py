from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from experiments.bench.qnn import CHECKED, RANDOM, figures, main, render, subjects
from latency_predictors.qnn import CompileReport, CompileSettings, QuantizationSettings, Toolchain
from search_spaces.errors import UserError

needs_qnn = pytest.mark.skipif(
    find_spec("onnxruntime_qnn") is None, reason="needs the extra: pip install 'nanosd-nas[qnn]' (x86-64 Linux)"
)


def report(subject: str, **fields: object) -> CompileReport:
    base = {
        "subject": subject,
        "soc": "SM8750",
        "quantization": QuantizationSettings(),
        "toolchain": Toolchain(onnxruntime="1.32.0", onnxruntime_qnn="2.7.0", qairt="2.51.0"),
    }
    return CompileReport.model_validate({**base, **fields})


def test_every_option_of_nanosd_is_a_subject() -> None:
    found = list(subjects("nanosd", None, None))
    assert len(found) == len(set(found)) == 3 * 4 + 3 * 8
    assert {f"{stage}/{option}" for stage, option in found} >= set(CHECKED)
    assert list(subjects("nanosd", ["D1"], ["R@3", "RR"])) == [("D1", "RR"), ("D1", "R@3")]
    # A kept deep path is compiled, a dropped one has nothing to compile.
    assert [option for _, option in subjects("bk-sdm", ["deep"], None)] == ["RR.RAR.RRR", "R.RAR.RR", "R.x.RR"]


def test_unknown_stages_and_options_are_refused() -> None:
    with pytest.raises(UserError, match=r"stage 'E9' is not in 'nanosd'; legal are E1, E2, E3, deep, D3, D2, D1"):
        list(subjects("nanosd", ["E9"], None))
    with pytest.raises(UserError, match=r"option 'AR' is not in 'nanosd'; legal are RARA, "):
        list(subjects("nanosd", None, ["AR"]))


@needs_qnn
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--soc", "A17"], "SoC 'A17' is not known"),
        (["--stages", "E1", "--options", "RARARA"], "no option is in both"),
        (["--check", "E1"], "--check 'E1' is no subject"),
        (["--timeout-s", "0"], "must be above 0"),
    ],
)
def test_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1
    assert printed.out == ""
    assert not (tmp_path / "out").exists()


@needs_qnn
def test_figures_count_what_became_of_the_options() -> None:
    reports = [
        report("E1/R", status="compiled", num_nodes=138, context_bytes=3_500_000, error_l2={"a": 0.004, "b": 0.002}),
        report("E1/RA", status="compiled", num_nodes=378, context_bytes=7_200_000, error_l2={"a": 0.5}),
        report("E2/R", status="compiled", num_nodes=138, context_bytes=9_000_000),
        report("E2/RA", status="refused", step="compile", reason="operators: 1 Det"),
        report("E3/R", status="timed_out", step="compile", reason="stopped after 9 s", peak_bytes=1 << 30),
    ]
    found = json.loads(json.dumps(figures(reports, CompileSettings(), RANDOM), allow_nan=False))
    assert (found["num_options"], found["num_compiled"], found["num_refused"], found["num_broken"]) == (5, 3, 1, 1)
    assert (found["num_emulated"], found["num_inaccurate"], found["worst_error_l2"]) == (2, 1, 0.5)
    assert found["peak_bytes"] == 1 << 30
    text = render(found)
    assert "refused" in text and "compile: operators: 1 Det" in text and "compile: stopped after 9 s" in text
    assert "3 of 5 options compiled with every node on the NPU, 1 the NPU cannot take, 1 broke" in text
    # What a PC cannot know is not in the figures under any name.
    assert not [key for key in [*found, *found["options"][0]] if "latency" in key or key.endswith("_ms")]


@needs_qnn
@pytest.mark.slow
def test_sd15_blocks_compile_and_are_accurate_and_are_not_done_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--stages", "E3", "--options", "R,RA", "--check", "E3/R,E3/RA", "--out", str(tmp_path), "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["subject"] for row in found["options"]] == ["E3/RA", "E3/R"]
    for row in found["options"]:
        assert row["status"] == "compiled"
        assert row["context_bytes"] > 0
        assert max(row["error_l2"].values()) <= 0.01
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written
    with pytest.raises(SystemExit):
        main(["--soc"])
    assert main([*command, "--seed", "1"]) == 2
    assert "seed is 0, this run's is 1; give another --out" in capsys.readouterr().err


@needs_qnn
@pytest.mark.slow
def test_a_teachers_own_weights_and_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The toy's maps are 8x8, where this compiler errs (docs/qualcomm-npu.md): what is off must be said."""
    command = ["--teacher", "toy", "--stages", "E1,D1", "--options", "R,R@3", "--check", "D1/R@3", "--json"]
    code = main([*command, "--out", str(tmp_path)])
    found = json.loads(capsys.readouterr().out)
    assert found["num_compiled"] == found["num_options"] == 2
    assert found["num_emulated"] == 1
    assert found["num_inaccurate"] == (found["worst_error_l2"] > 0.01) == code
