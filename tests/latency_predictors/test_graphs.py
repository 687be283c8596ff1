from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from latency_predictors import graphs
from latency_predictors.graphs import data_path, export_onnx, graph_bytes, remove_onnx
from latency_predictors.subjects import BASE, Subjects
from latency_predictors.teacher_graphs import TeacherGraphs
from search_spaces.space import SearchSpace


@pytest.mark.parametrize("name", [BASE, "E1/RARA", "E2/R", "deep/RR.RAR.RRR", "D1/R@3", "RARA-R-R-none-R-R-RARARA"])
def test_onnxruntime_gives_what_torch_gives(
    unet: UNet2DConditionModel, space: SearchSpace, tmp_path: Path, name: str
) -> None:
    module, inputs, input_names, output_names = Subjects(unet, space, 8, 5, 8).build(name)
    path = export_onnx(module, inputs, tmp_path / "g.onnx", input_names, output_names)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [o.name for o in session.get_outputs()] == list(output_names)
    feed = {n: t.numpy() for n, t in zip(input_names, inputs, strict=True)}
    got = session.run(None, {i.name: feed[i.name] for i in session.get_inputs()})
    with torch.no_grad():
        wanted = module(*inputs)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    for g, w in zip(got, wanted, strict=True):
        np.testing.assert_allclose(g, w.numpy(), rtol=1e-3, atol=1e-4)


def test_nothing_is_printed(
    unet: UNet2DConditionModel, space: SearchSpace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    module, inputs, input_names, output_names = Subjects(unet, space, 8, 5, 8).build("R-R-R-none-R-R-R@3")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        export_onnx(module, inputs, tmp_path / "g.onnx", input_names, output_names)
    captured = capfd.readouterr()
    assert (captured.out, captured.err, caught) == ("", "", [])
    assert sys.stderr is not None


def test_the_batch_may_be_free(tmp_path: Path) -> None:
    conv = nn.Conv2d(2, 3, 3).eval()
    path = export_onnx(
        conv, (torch.zeros(1, 2, 5, 5),), tmp_path / "g.onnx", ["x"], ["y"], dynamic_axes={"x": {0: "n"}, "y": {0: "n"}}
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.zeros((4, 2, 5, 5), np.float32)})
    assert y.shape == (4, 3, 3, 3)


def test_weights_outside_the_graph_are_gathered_in_one_file(tmp_path: Path) -> None:
    """The exporter scatters tensors above 2 GB only: scatter a small model by hand."""
    lin = nn.Linear(64, 64).eval()
    path = export_onnx(lin, (torch.ones(1, 64),), tmp_path / "whole.onnx", ["x"], ["y"])
    scatter = tmp_path / "scatter"
    scatter.mkdir()
    onnx.save_model(
        onnx.load(str(path)), str(scatter / "s.onnx"), save_as_external_data=True,
        all_tensors_to_one_file=False, size_threshold=16,
    )  # fmt: skip
    assert len(list(scatter.iterdir())) == 3
    gathered = graphs._gather(scatter / "s.onnx", tmp_path / "gathered", "g.onnx")
    assert {p.name for p in gathered.parent.iterdir()} == {"g.onnx", "g.onnx.data"}
    assert graph_bytes(gathered) == gathered.stat().st_size + data_path(gathered).stat().st_size
    x = np.ones((1, 64), np.float32)
    outputs = [
        onnxruntime.InferenceSession(str(p), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for p in (path, gathered)
    ]
    np.testing.assert_array_equal(*outputs)
    remove_onnx(gathered)
    assert graph_bytes(gathered) == 0


def test_a_failed_export_leaves_nothing(tmp_path: Path) -> None:
    class Fails(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        export_onnx(Fails().eval(), (torch.ones(1),), tmp_path / "g.onnx", ["x"], ["y"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("large", [False, True])
def test_the_reference_of_large_networks_is_a_stage(
    unet: UNet2DConditionModel, space: SearchSpace, large: bool
) -> None:
    """From 100 million parameters on (SD 1.5's shapes without weights here); a whole network stays behind it."""
    if large:
        with torch.device("meta"):
            unet = UNet2DConditionModel(cross_attention_dim=768, norm_num_groups=32, attention_head_dim=8)
    subjects = Subjects(unet, space, 8, 5, 768 if large else 8)
    names = TeacherGraphs(subjects).primers
    assert names == (["E3/RA", subjects.primer.id] if large else [subjects.primer.id])
