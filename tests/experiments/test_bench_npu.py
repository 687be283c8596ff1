"""The NPU benchmark on devices made by a law, and on the public figures where they are."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from experiments.bench.npu import Task, main
from latency_predictors.npu.records import COLUMNS, read_latency_table

DIFFUSION = [
    ("stable_diffusion_v1_5", "unet", 4.0),
    ("stable_diffusion_v1_5", "vae", 5.2),
    ("controlnet_canny", "controlnet", 3.8),
]
DIFFUSION += [("stable_diffusion_v2_1", "unet", 3.9), ("stable_diffusion_v2_1", "text_encoder", 1.5)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Thirty networks and five diffusion components on six devices; ``bare`` has no diffusion component."""
    rng = np.random.default_rng(0)
    networks = [(f"m{i}", "net", size) for i, size in enumerate(rng.uniform(-1, 4, 30))] + DIFFUSION
    lines = [",".join(COLUMNS)]
    for number in range(6):
        offset, slope = rng.normal(0, 0.8), rng.normal(0, 0.03)
        for model, component, size in networks:
            if number == 5 and (model, component, size) in DIFFUSION:
                continue
            ms = np.exp(size + offset + slope * size + rng.normal(0, 0.03))
            values = {"model": model, "component": component, "precision": "w8a16", "path": "dlc", "unit": "NPU"}
            values |= {"device": "bare" if number == 5 else f"d{number}", "ms": f"{ms:.5f}", "layers": "9", "npu": "9"}
            lines.append(",".join(values[name] for name in COLUMNS))
    path = tmp_path / "npu.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("choice", ["designed", "random"])
def test_devices_of_one_law_are_predicted_within_noise(data, capsys, choice):
    assert main(["--data", str(data), "--n", "1,10", "--choice", choice, "--draws", "3", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures["targets"]) == {f"d{i}" for i in range(5)}
    assert set(figures["not_judged"]) == {"bare"}
    for scores in figures["targets"].values():
        assert scores["10"]["mape"] < 12
        assert scores["10"]["spearman"] > 0.8
        assert scores["10"]["num_asked"] == 5
    assert figures["mean"]["10"]["mape"] < 7
    assert figures["mean"]["10"]["coverage90"] > 0.7
    assert figures["mean"]["10"]["mape"] == pytest.approx(
        np.mean([scores["10"]["mape"] for scores in figures["targets"].values()])
    )
    assert figures["median"]["10"]["mape"] == pytest.approx(
        np.median([scores["10"]["mape"] for scores in figures["targets"].values()])
    )


def test_no_diffusion_network_may_be_measured_and_only_they_are_asked_for(data):
    task = Task(read_latency_table(data), 0)
    assert not any(task.networks[i].is_diffusion for i in task.pool)
    assert all(task.networks[i].is_diffusion for i in task.queries)
    assert len(task.pool) == 30


def test_predictions_do_not_depend_on_what_is_asked_for(data):
    table = read_latency_table(data)
    task = Task(table, 0)
    before = task.predict(task.pool[:10]).mean
    task.target[task.queries] += 1.0
    np.testing.assert_array_equal(task.predict(task.pool[:10]).mean, before)


def test_the_mean_with_contradicted_figures_stands_beside_the_one_without(data, capsys):
    """A text encoder of d2 runs four times slower than the same graph in another model."""
    lines = []
    for line in data.read_text().splitlines():
        values = dict(zip(COLUMNS, line.split(","), strict=True))
        if (values["model"], values["component"]) != ("stable_diffusion_v1_5", "unet"):
            continue
        for model in ("stable_diffusion_v1_5", "controlnet_canny"):
            slower = 4 if (model, values["device"]) == ("controlnet_canny", "d2") else 1
            added = {"model": model, "component": "text_encoder", "ms": str(0.2 * slower * float(values["ms"]))}
            lines.append(",".join((values | added)[name] for name in COLUMNS))
    data.write_text(data.read_text() + "\n".join(lines) + "\n")
    assert main(["--data", str(data), "--n", "10", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    without, with_slowed = figures["targets"]["d2"]["10"], figures["targets_with_slowed"]["d2"]["10"]
    assert list(figures["targets_with_slowed"]) == ["d2"]
    assert (without["num_asked"], with_slowed["num_asked"]) == (6, 7)
    # Predicted about right, a figure that is four times too high is off by three quarters.
    assert with_slowed["mape"] == pytest.approx((6 * without["mape"] + 75) / 7, abs=3)
    scores = {**figures["targets"], **figures["targets_with_slowed"]}
    assert figures["mean_with_slowed"]["10"]["mape"] == pytest.approx(
        np.mean([s["10"]["mape"] for s in scores.values()])
    )
    assert main(["--data", str(data), "--n", "10"]) == 0
    shown = capsys.readouterr().out
    assert "mean, with slowed" in shown and "slowed: d2: controlnet_canny/text_encoder" in shown


def test_targets_can_be_named(data, capsys):
    assert main(["--data", str(data), "--targets", "d1, d3", "--n", "2", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["targets"]) == ["d1", "d3"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--targets", "phone"], ["'phone'", "d1"]), (["--n", "0"], ["--n", "'0'"]), (["--n", "ten"], ["'ten'"])],
)
def test_a_users_mistake_is_one_line(data, capsys, arguments, words):
    assert main(["--data", str(data), *arguments]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert all(word in message for word in words)


@pytest.mark.slow
def test_public_figures_ranks_and_one_anchor(capsys):
    folder = os.environ.get("NANOSD_DATA")
    if not folder:
        pytest.skip("NANOSD_DATA names no folder with aihub_npu_latency.csv")
    targets = "Samsung Galaxy S24,Samsung Galaxy S25"
    data = str(Path(folder) / "aihub_npu_latency.csv")
    assert main(["--data", data, "--targets", targets, "--n", "1,10,20", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    for scores in figures["targets"].values():
        assert scores["1"]["mape"] <= 12
        assert scores["10"]["mape"] <= 8
        assert scores["20"]["mape"] <= 7
        assert scores["20"]["spearman"] > 0.95
    assert figures["same_device"] == {"SA7255P ADP": "QCS8275 (Proxy)"}
