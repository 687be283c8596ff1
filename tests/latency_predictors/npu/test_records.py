"""The table of public NPU measurements: what is kept, what is dropped and counted, what is refused."""

from pathlib import Path

import numpy as np
import pytest

from latency_predictors.npu.records import COLUMNS, read_latency_table
from search_spaces.errors import UserError

HEADER = ",".join(COLUMNS)


def write(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "figures.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def row(model: str, device: str, ms: object, component: str = "net", **other: str) -> str:
    fields = {"precision": "w8a16", "path": "qnn_dlc", "unit": "NPU", "layers": "10", "npu": "10"} | other
    values = {"model": model, "component": component, "device": device, "ms": str(ms)} | fields
    return ",".join(values[name] for name in COLUMNS)


def test_figures_lie_at_their_network_and_device(tmp_path):
    table = read_latency_table(write(tmp_path, row("a", "x", 2), row("b", "x", 3), row("b", "y", 5)))
    assert [network.model for network in table.networks] == ["a", "b"]
    assert table.devices == ("x", "y")
    np.testing.assert_array_equal(table.latency_ms, [[2, np.nan], [3, 5]])


def test_rows_not_wholly_on_the_npu_are_dropped_and_counted(tmp_path):
    rows = [row("a", "x", 2), row("b", "x", 3, npu="9"), row("c", "x", 3, unit="CPU", npu=""), row("a", "x", 4)]
    table = read_latency_table(write(tmp_path, *rows, row("d", "x", -1), row("e", "x", "nan")))
    assert [network.model for network in table.networks] == ["a"]
    assert table.dropped == {"layers outside of the NPU": 2, "repeated": 1, "latency not a positive number": 2}


def test_of_one_graph_measured_under_two_names_the_slow_one_is_dropped(tmp_path):
    rows = [row("stable_diffusion_v1_5", "x", 100, "vae"), row("controlnet_canny", "x", 201, "vae")]
    rows += [row("stable_diffusion_v2_1", "x", 199, "vae"), row("controlnet_canny", "x", 300, "unet")]
    table = read_latency_table(write(tmp_path, *rows))
    assert [(device, network.model, ms, fastest) for device, network, ms, fastest in table.slowed] == [
        ("x", "controlnet_canny", 201.0, 100.0)
    ]
    assert np.nansum(table.latency_ms) == 100 + 199 + 300


def test_devices_with_identical_figures_are_one(tmp_path):
    rows = [row(f"m{i}", device, i + 1) for i in range(12) for device in ("p", "q")]
    rows += [row("more", "q", 9), *(row(f"m{i}", "other", i + 1.5) for i in range(12))]
    table = read_latency_table(write(tmp_path, *rows))
    assert table.devices == ("other", "q")
    assert table.twins == {"other": "other", "p": "q", "q": "q"}
    assert table.column("p") == table.column("q")


def test_paths_that_differ_more_than_twofold_contradict(tmp_path):
    rows = [row("a", "x", 1), row("a", "x", 2.1, path="onnx"), row("b", "x", 1), row("b", "x", 1.9, path="onnx")]
    table = read_latency_table(write(tmp_path, *rows, row("c", "x", 50)))
    assert {n.model for n, bad in zip(table.networks, table.contradictory([0]), strict=True) if bad} == {"a"}


def test_of_paths_that_differ_more_than_twofold_the_slow_one_is_superseded(tmp_path):
    rows = [row("a", "x", 1), row("a", "x", 2.1, path="onnx"), row("b", "x", 1), row("b", "x", 1.9, path="onnx")]
    rows += [row("a", "y", 3), row("a", "y", 2, path="onnx"), row("a", "z", 1), row("a", "z", 9, path="onnx")]
    table = read_latency_table(write(tmp_path, *rows))

    def slow(*devices):
        found = table.superseded([table.column(device) for device in devices])
        return {(n.model, n.path) for n, bad in zip(table.networks, found, strict=True) if bad}

    assert slow("x") == slow("x", "y", "z") == {("a", "onnx")}
    assert slow("y") == set()


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        ([row("a", "x", "fast")], HEADER, ["line 2", "'fast'", "ms"]),
        ([row("a", "x", 1), "a,b"], HEADER, ["line 3", "fields"]),
        ([row("a", "x", 1, layers="many")], HEADER, ["line 2", "layers"]),
        ([], HEADER.replace("unit,", ""), ["lacks column unit"]),
        ([row("a", "x", 1, precision="float")], HEADER, ["no row of precision w8a16"]),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, rows, header, words):
    with pytest.raises(UserError) as error:
        read_latency_table(write(tmp_path, *rows, header=header))
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.csv"):
        read_latency_table(tmp_path / "absent.csv")
