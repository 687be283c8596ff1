"""OpenVINO: what is pinned, what is refused, and that nothing is sent anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latency_predictors.runners import make_runner
from latency_predictors.runners.base import MeasureSettings
from latency_predictors.runners.openvino import OpenVinoRunner
from search_spaces.errors import UserError
from tests.latency_predictors.qnn.conftest import write_conv

needs_openvino = pytest.mark.skipif(
    find_spec("openvino") is None, reason="needs the extra: pip install 'nanosd-nas[openvino]'"
)
QUICK = MeasureSettings(warm_up=1, rounds_per_pass=2, min_repeats=2, max_seconds=0.01, target_ci_pct=1e6)
REPOSITORY = Path(__file__).resolve().parents[2]

# A package of telemetry that tells when it is used, before the true one on the path.
_TELEMETRY = """
import pathlib
pathlib.Path.home().joinpath("used").touch()
class Telemetry:
    def __init__(self, *args, **kwargs): pass
    def send_event(self, *args, **kwargs): pass
"""


@needs_openvino
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "AUTO"}, "device: 'AUTO' leaves the choice to OpenVINO; legal are CPU"),
        ({"device": "HETERO:CPU"}, "device: 'HETERO:CPU' leaves the choice"),
        ({"device": "no-such"}, "device: 'no-such' is not here; legal are CPU"),
        ({"precision": "w8a16"}, "precision: 'w8a16' does not run on OpenVINO; legal are float32"),
    ],
)
def test_options_that_are_not_legal(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_runner("openvino", **options)


@needs_openvino
def test_operators_are_counted_on_the_device(tmp_path: Path) -> None:
    runner = OpenVinoRunner()
    record = runner.measure({"E1/R": write_conv(tmp_path / "conv.onnx", "Relu", [1, 8, 16, 16])}, QUICK)["E1/R"]
    assert list(runner.placement) == ["E1/R"]  # the primer is no subject
    assert runner.placement["E1/R"]["CPU"] >= 1
    assert record.runtime == "openvino-cpu"
    assert record.conditions.runtime_version == runner.versions["openvino"]


@needs_openvino
def test_w8a8_graphs_run_in_integers_or_are_refused(tmp_path: Path) -> None:
    runner = OpenVinoRunner(precision="w8a8")
    graph = write_conv(tmp_path / "conv.onnx", "Relu", [1, 8, 16, 16])
    with pytest.raises(UserError, match="graph of E1/R: no operator of it would run in 8 bits"):
        runner.measure({"E1/R": graph}, QUICK)
    sample = {"x": np.random.default_rng(0).standard_normal((1, 8, 16, 16)).astype(np.float32)}
    assert runner.prepare(graph, [sample]) is not None
    assert runner.measure({"E1/R": graph}, QUICK)["E1/R"].precision == "w8a8"


@needs_openvino
def test_its_telemetry_is_not_even_imported(tmp_path: Path) -> None:
    package = tmp_path / "path" / "openvino_telemetry"
    (package / "backend").mkdir(parents=True)
    (package / "__init__.py").write_text(_TELEMETRY)
    (package / "backend" / "__init__.py").write_text("")
    (package / "backend" / "backend_ga4.py").write_text("")
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        **os.environ,
        "HOME": str(home),
        "PYTHONPATH": os.pathsep.join([str(package.parent), str(REPOSITORY)]),
    }

    def after(code: str) -> list[str]:
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
        return [path.name for path in home.iterdir()]

    assert after("from latency_predictors.runners.openvino import OpenVinoRunner; OpenVinoRunner()") == []
    assert after("import openvino") == ["used"]  # so it would have been


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"OpenVINO is not installed .*pip install 'nanosd-nas\[openvino\]'"):
        OpenVinoRunner()
