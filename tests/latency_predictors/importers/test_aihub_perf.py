from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from latency_predictors.importers import Facts, ImportResult, read_measurements
from latency_predictors.importers.base import Source
from latency_predictors.importers.documents import MAX_YAML_CHARS, Node, load_yaml
from search_spaces.errors import UserError
from tests.latency_predictors.importers.samples import AIHUB_PERF

TEXT = AIHUB_PERF.replace("@", "99.5")


@pytest.fixture
def read(tmp_path: Path):
    def read_text(text: str, **facts: object) -> ImportResult:
        path = tmp_path / "perf.yaml"
        path.write_text(text, encoding="utf-8")
        return read_measurements(path, "aihub-perf", Facts(**facts))

    return read_text


def row_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


def test_all_fields(read) -> None:
    result = read(TEXT)
    first = result.measurements[0].model_dump(exclude={"provenance"})
    assert first == {
        "subject": "unet", "latency_ms": 99.5, "statistic": "estimate", "num_samples": None, "ci95_ms": None,
        "device": "Samsung Galaxy S25", "runtime": "qnn_context_binary", "precision": "w8a16", "threads": None,
        "toolchain": "qairt 2.41.0.251128145156_191518", "compute_unit": "NPU",
        "layer_counts": {"cpu": 0, "gpu": 0, "npu": 438}, "peak_memory_bytes": 18 << 20, "job_id": "j1",
    }  # fmt: skip
    assert [m.latency_ms for m in result.measurements] == [99.5, 102.75, 250.0]
    assert result.measurements[1].toolchain == "qairt 2.37.1.250807093845_124904, onnx_runtime 1.23.0"
    for m in result.measurements:
        assert m.provenance.row == row_of(TEXT, f"inference_time_milliseconds: {m.latency_ms:g}")


@pytest.mark.parametrize(
    ("old", "new", "at", "reason"),
    [
        ("job_status: Passed", "job_status: Failed", "99.5", "job_status is 'Failed', not 'Passed'"),
        (
            "inference_time_milliseconds: 99.5\n",
            "tokens_per_second: 12\n",
            "job_id: j1",
            "inference_time_milliseconds is missing",
        ),
        ("99.5", "null", "null", "inference_time_milliseconds is missing"),
        ("99.5", "[1, 2]", "[1, 2]", "inference_time_milliseconds is missing"),
        ("npu: 438", "npu: 437", "99.5", "layer_counts.total is '438', the units' sum is 437"),
        ("npu: 438", "npu: many", "99.5", "layer_counts.npu is 'many', not a number"),
        ("unit: NPU", "unit: TPU", "99.5", "primary_compute_unit is 'TPU'; legal are CPU, GPU, NPU"),
        ("max: 18", "max: x", "99.5", "estimated_peak_memory_range_mb.max is 'x'"),
        ("w8a16:", "w3a3:", "99.5", "precision is 'w3a3': Input should be"),
    ],
)
def test_a_bad_entry_is_refused_by_its_line(read, old: str, new: str, at: str, reason: str) -> None:
    text = TEXT.replace(old, new, 1)
    if new.startswith("w3a3"):  # one precision that is known, so that something is left
        text += text[text.index("  w3a3") :].replace("w3a3", "float").replace("j1", "j4").replace("j2", "j5")
    result = read(text)
    assert (flag := result.flags[0]).refused
    assert flag.row == row_of(text, at)
    assert reason in flag.reason


def test_the_path_in_the_file_is_named_too(read) -> None:
    flag = read(TEXT.replace("99.5", "-1")).flags[0]
    assert flag.reason.startswith("w8a16.unet.Samsung Galaxy S25.qnn_context_binary: ")


def test_layers_on_several_units_are_remarked(read) -> None:
    result = read(TEXT.replace("npu: 438", "npu: 400\n                cpu: 38", 1))
    (flag,) = result.flags
    assert not flag.refused
    assert "of 438 layers 38 on CPU, 400 on NPU" in flag.reason


def test_a_job_under_two_devices_is_one_measurement(read) -> None:
    result = read(TEXT.replace("job_id: j3", "job_id: j1"))
    (flag,) = result.flags
    assert (flag.row, flag.refused) == (row_of(TEXT, "inference_time_milliseconds: 250"), False)
    assert "job j1 of 'SA7255P ADP' is that of 'Samsung Galaxy S25'" in flag.reason


def test_a_device_can_be_chosen(read) -> None:
    result = read(TEXT, device="SA7255P ADP")
    assert [m.subject for m in result.measurements] == ["vae"]
    assert result.num_refused == 2


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(12)
)


@pytest.mark.parametrize(
    ("text", "row", "reason"),
    [
        (BOMB, 2, "a YAML alias"),
        ("precisions:\n  - &x {<<: *x}\n", 2, "a YAML alias"),
        (
            "precisions: !!python/object/apply:os.system [ls]\n",
            1,
            "tag 'tag:yaml.org,2002:python/object/apply:os.system'",
        ),
        ("precisions:\n  " + "[" * 40 + "]" * 40, 2, "nested more than 32 levels"),
        ("precisions:\n  a: 1\n  a: 2\n", 3, "key 'a' is given twice"),
        ("precisions: 1\n---\nprecisions: 2\n", 3, "a second YAML document"),
        ("precisions:\n  ? [a]\n  : 1\n", 2, "a key that is no text"),
        ("precisions:\n\ta: 1\n", 2, "not readable as YAML"),
        ("precisions: 'a\n", 2, "not readable as YAML"),
        ("a: 1\nprecisions: \x07\n", 2, "not readable as YAML"),
        ("precisions: 3\n", 1, "precisions is missing or no mapping"),
    ],
)
def test_yaml_that_is_no_plain_document_is_refused(read, text: str, row: int, reason: str) -> None:
    begin = time.perf_counter()
    with pytest.raises(UserError, match=rf"perf\.yaml, row {row}: ") as caught:
        read(text)
    assert reason in str(caught.value)
    assert time.perf_counter() - begin < 2.0


def test_deep_nesting_costs_no_time(read) -> None:
    begin = time.perf_counter()
    with pytest.raises(UserError, match="nested more than 32 levels"):
        read("precisions:\n  " + "[" * 1_000_000)
    assert time.perf_counter() - begin < 5.0


def test_more_yaml_than_a_model_has_is_refused(read) -> None:
    with pytest.raises(UserError, match=r"row 2: YAML of more than 16 Mi characters"):
        read("precisions:\n" + "#" * MAX_YAML_CHARS)


def plain(node: Node) -> object:
    """A node without its lines."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    return [plain(child) for child in node.value] if isinstance(node.value, list) else node.value


@pytest.mark.parametrize("text", [TEXT, "a: [1, {b: '2', c: }]\nd:\n- - x\n  - y\n- {}\n- []\n"])
def test_the_tree_is_that_of_pyyaml(text: str) -> None:
    """Against PyYAML's own constructor, with every scalar as text."""
    expected = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - of this test's own text
    assert plain(load_yaml(Source("f", "f", "", text))) == expected
