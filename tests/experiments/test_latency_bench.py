"""The few-shot latency benchmark: its spaces against other implementations, its figures on the public tables."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from experiments.bench import latency
from experiments.bench.latency_spaces import SPACES, fbnet, nasbench201
from experiments.bench.latency_spaces.table import read_table
from latency_predictors.models.base import group_sums
from search_spaces.errors import UserError

DATA = os.environ.get("NANOSD_DATA")
needs_data = pytest.mark.skipif(
    DATA is None, reason="NANOSD_DATA does not name a folder with the public latency tables"
)


def fbnet_convolutions(digits: list[int]) -> list[tuple[nn.Conv2d, int]]:
    """The network's convolutions outside stem and head as torch modules, each with its input size."""
    found: list[tuple[nn.Conv2d, int]] = []
    c_in, size = 16, 32
    widths = [16] + [24] * 4 + [32] * 4 + [64] * 4 + [112] * 4 + [184] * 4 + [352]
    for layer, (digit, c_out) in enumerate(zip(digits, widths, strict=True)):
        stride = 2 if layer in (5, 9, 17) else 1
        if digit == 8:
            if c_in != c_out or stride == 2:
                found.append((nn.Conv2d(c_in, c_out, 1, stride, bias=False, device="meta"), size))
        else:
            kernel = 3 if digit < 4 else 5
            expansion, groups = [(1, 1), (1, 2), (3, 1), (6, 1)][digit % 4]
            wide = c_in * expansion
            found += [
                (nn.Conv2d(c_in, wide, 1, groups=groups, bias=False, device="meta"), size),
                (nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False, device="meta"), size),
                (nn.Conv2d(wide, c_out, 1, groups=groups, bias=False, device="meta"), size // stride),
            ]
        c_in, size = c_out, size // stride
    return found


def test_fbnet_kernel_sums_are_those_of_torch_convolutions() -> None:
    structure = np.random.default_rng(0).integers(0, 9, (20, 22))
    structure[0], structure[1] = 8, 1
    names, totals = group_sums(fbnet.KERNEL_NAMES, fbnet.kernels(structure))
    assert [name.split("_")[0] for name in names[:4]] == ["pointwise", "depthwise", "activation", "weight"]
    for digits, sums in zip(structure, totals, strict=True):
        macs = {"pointwise": 0, "depthwise": 0}
        elements = weights = count = 0
        for conv, size in fbnet_convolutions(digits.tolist()):
            given = torch.empty(1, conv.in_channels, size, size, device="meta")
            out = conv(given)
            kind = "pointwise" if conv.kernel_size == (1, 1) else "depthwise"
            macs[kind] += out.numel() * conv.weight[0].numel()
            elements += given.numel() + out.numel()
            weights += conv.weight.numel()
            count += 1
        shuffles = int(np.isin(digits, (1, 5)).sum())
        assert sums.tolist() == [macs["pointwise"], macs["depthwise"], elements, weights, count, shuffles]


@pytest.mark.parametrize(("layer", "size"), [(0, 32), (5, 32), (6, 16), (9, 16), (10, 8), (17, 8), (18, 4), (21, 4)])
def test_fbnet_kernel_sums_are_at_the_size_that_the_layer_reads(layer: int, size: int) -> None:
    structure = np.full((2, 22), 1)
    structure[1, layer] = 7
    before, after = fbnet.kernels(structure)
    changed = {name.split("@")[1] for name, a, b in zip(fbnet.KERNEL_NAMES, before, after, strict=True) if a != b}
    assert changed == {str(size)}


def test_nasbench201_kernel_sums_of_one_cell() -> None:
    arch = "|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|none~0|skip_connect~1|nor_conv_3x3~2|"
    structure = nasbench201.read([arch])
    assert structure.tolist() == [[3, 2, 4, 0, 1, 3]]
    macs = elements = 0
    for channels, size in ((16, 32), (32, 16), (64, 8)):
        out = nn.Conv2d(channels, channels, 1, bias=False, device="meta")(
            torch.empty(1, channels, size, size, device="meta")
        )
        macs += 5 * out.numel() * channels
        elements += 5 * out.numel()
    assert nasbench201.kernels(structure).tolist() == [[2 * 9 * macs, macs, elements, elements]]


@pytest.mark.parametrize("space", ["fbnet", "nasbench201"])
@pytest.mark.parametrize("text", ["", "9" * 22, "1" * 21, "|none~0|", "nan"])
def test_a_wrong_architecture_is_refused_by_line(space: str, text: str) -> None:
    with pytest.raises(UserError, match="line 2: "):
        SPACES[space].read([text])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NAS-Bench-201 cells on four made-up devices; one has corrupt values, one text."""
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 5, (1900, 6))
    sums = nasbench201.kernels(cells)
    lines = ["arch,a,b,c,broken"]
    rates = np.exp(rng.normal(0, 0.3, (4, 3))) / sums.mean(0)[:, None]
    columns = (sums @ rates + 2.0) * np.exp(0.03 * rng.standard_normal((1900, 3)))
    for row, (cell, values) in enumerate(zip(cells, columns, strict=True)):
        ops = [nasbench201.OPERATORS[digit] for digit in cell]
        arch = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|".format(*ops)
        second = {5: "0.001", 6: "-1", 7: "wrong", 8: "1e9"}.get(row, f"{values[1]:.5g}")
        lines.append(f"{arch},{values[0]:.5g},{second},{values[2]:.5g},failed")
    path = tmp_path_factory.mktemp("table") / "latency.csv"
    path.write_text("\n".join(lines))
    return path


def test_document_has_every_figure_and_says_what_was_dropped(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(table), "--space", "nasbench201", "--n", "5,10", "--draws", "2"]
    assert latency.main([*arguments, "--targets", "a,b", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["targets"]) == {"a", "b"}
    for by_n in (*document["targets"].values(), document["mean"]):
        assert set(by_n) == {"5", "10"}
        for by_name in by_n.values():
            assert {"ours", "flops", "onehot", "nnls"} <= set(by_name)
            assert all(set(row) == {"spearman", "mape", "within10", "coverage90"} for row in by_name.values())
    scores = [document["targets"][device]["10"]["ours"]["mape"] for device in "ab"]
    assert document["mean"]["10"]["ours"]["mape"] == pytest.approx(np.mean(scores))
    # Noise of 3 % has a mean absolute value of 2.4 %.
    assert 2.4 < scores[0] < 5
    dropped = document["dropped"]
    assert dropped["b"]["num_rows"] == 4 and sorted(dropped["b"]["why"].values()) == [1, 1, 2]
    assert dropped["broken"]["num_rows"] == 1900
    assert latency.main([*arguments, "--targets", "a"]) == 0
    shown = capsys.readouterr().out
    assert "dropped 4 rows of b" in shown
    assert "beats, n = 5: MAPE " in shown and "beats, n = 10: MAPE " in shown
    ours, nnls = (document["mean"]["10"][name]["mape"] for name in ("ours", "nnls"))
    better = sum(by_n["10"]["ours"]["mape"] < by_n["10"]["nnls"]["mape"] for by_n in document["targets"].values())
    line = latency.beats(document)[1]
    assert f"MAPE {ours:.2f} against" in line and f"nnls {nnls:.2f} ({better} of 2 targets)" in line


def test_the_same_seed_gives_the_same_figures(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--data", str(table), "--space", "nasbench201", "--targets", "a", "--n", "6", "--draws", "1", "--json"]
    printed = [(latency.main([*command, "--seed", seed]), capsys.readouterr().out)[1] for seed in "001"]
    assert printed[0] == printed[1] != printed[2]


@pytest.mark.parametrize("targets", ["b,c", "a,b,c"])
def test_one_source_and_one_measurement_are_enough(
    table: Path, targets: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--data", str(table), "--space", "nasbench201", "--targets", targets, "--n", "1,2,5", "--draws", "2"]
    assert latency.main([*command, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["mean"]
    assert figures["5"]["ours"]["mape"] < figures["1"]["ours"]["mape"] < 100
    assert all(0 <= value <= 1 for n in "125" for value in (figures[n]["ours"]["coverage90"],))


def test_no_source_devices_is_no_reason_to_stop(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--data", str(table), "--space", "nasbench201", "--targets", "a,b,c", "--n", "1,12", "--draws", "2"]
    assert latency.main([*command, "--choose", "d-optimal", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["mean"]
    assert figures["12"]["ours"]["mape"] < figures["12"]["flops"]["mape"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--targets", "d"], "device 'd': not in the table; there are a, b, c, broken"),
        (["--targets", "broken"], "no latency of its pool rows is usable"),
        (["--targets", "a", "--n", "800"], "--n 800: the pool of a has 720 rows"),
        (["--targets", "a", "--sources", "broken"], "device 'broken': no latency of its pool rows"),
        (["--space", "fbnet"], "no column 'ops'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    table: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert latency.main(["--data", str(table), "--space", "nasbench201", "--draws", "1", *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out


@needs_data
@pytest.mark.parametrize(("space", "target"), [("fbnet", "pixel3"), ("nasbench201", "silver_4210r")])
def test_beats_the_baselines_on_a_public_device(space: str, target: str) -> None:
    table = read_table(Path(str(DATA)) / f"{space}_latency_ms.csv", SPACES[space])
    sources = [device for device in table.devices if device != target]
    figures = latency.evaluate_target(table, target, sources, [20], 10, seed=0)[20]
    assert figures["ours"]["spearman"] > max(figures[name]["spearman"] for name in ("flops", "onehot"))
    assert figures["ours"]["spearman"] > figures["nnls"]["spearman"] - 0.01
    assert 0.85 < figures["ours"]["coverage90"] <= 1.0


@needs_data
def test_corrupt_values_of_a_public_table_are_counted() -> None:
    table = read_table(Path(str(DATA)) / "nasbench201_latency_ms.csv", SPACES["nasbench201"])
    assert set(table.dropped) == {"pixel3"} and table.dropped["pixel3"]["num_rows"] == 30
