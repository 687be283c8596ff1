"""ONNX graphs compute what torch computes, or are not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from nas.export import export_onnx_unet, export_onnx_vae_decoder
from nas.export.inputs import unet_inputs
from nas.export.onnx import OnnxMismatch, compare
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.surgery import assemble


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def test_compare_has_the_closed_form() -> None:
    expected, got = np.array([3.0, -4.0]), np.array([3.0, -3.5])
    assert compare(expected, got) == (0.125, 0.1)
    assert compare(expected, expected) == (0.0, 0.0)
    assert compare(np.zeros(2), np.zeros(2)) == (0.0, 0.0)
    assert compare(expected, np.array([3.0, np.nan])) == (float("inf"), float("inf"))
    with pytest.raises(OnnxMismatch, match="shape"):
        compare(expected, got[:1])


@pytest.mark.parametrize(
    ("candidate", "batch"),
    [("RA-R-R-R.x.RR-RA-R-R@3", 1), ("RARA-RA-R-none-RARARA-RR-R@3", 2), ("R-R-R-none-R-R-R@3", 1)],
)
def test_unet_matches_torch(teacher: Any, tmp_path: Path, candidate: str, batch: int) -> None:
    staged = assemble(teacher.unet, Candidate.from_id(candidate))
    staged.train()
    check = export_onnx_unet(staged, tmp_path, num_tokens=teacher.num_tokens, batch_size=batch)
    assert staged.training  # left as it was
    assert check.file == "unet.onnx" and check.num_inputs == 5 and check.batch_size == batch
    assert 0 <= check.relative_l2 <= 1e-5 and 0 <= check.max_relative_error <= 1e-5
    assert check.num_bytes == (tmp_path / "unet.onnx").stat().st_size
    assert os.listdir(tmp_path) == ["unet.onnx"]

    staged.eval()
    graph = session(tmp_path / "unet.onnx")
    # Also for all-R networks, which read no text.
    names = ["sample", "timestep", "encoder_hidden_states"]
    assert [node.name for node in graph.get_inputs()] == names
    inputs = unet_inputs(staged, teacher.num_tokens, 333, batch_size=batch, seed=77)  # none that the export looked at
    got = graph.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})[0]
    with torch.no_grad():
        expected = staged(*inputs).sample.numpy()
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_vae_decoder_matches_the_pipeline(teacher: Any, tmp_path: Path) -> None:
    check = export_onnx_vae_decoder(teacher.vae, tmp_path, latent_size=teacher.latent_size)
    assert check.subject == "vae_decoder" and check.max_relative_error <= 1e-5
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    got = session(tmp_path / "vae_decoder.onnx").run(None, {"latents": latents.numpy()})[0]
    expected = teacher.decode_latents(latents).numpy()
    np.testing.assert_allclose(np.clip(got / 2 + 0.5, 0, 1), expected, rtol=0, atol=1e-5)


def test_a_mismatch_leaves_no_file(teacher: Any, tmp_path: Path) -> None:
    staged = assemble(teacher.unet, Candidate.from_id("R-R-R-none-R-R-R@3"))
    with pytest.raises(OnnxMismatch, match=r"unet.onnx: onnxruntime differs from torch by .* legal is 1e-12"):
        export_onnx_unet(staged, tmp_path, num_tokens=teacher.num_tokens, tolerance=1e-12)
    with torch.no_grad():  # a stage is broken, since the head is the teacher's own
        next(staged.stages["D1"].parameters()).fill_(float("nan"))
    with pytest.raises(OnnxMismatch, match="by inf"):
        export_onnx_unet(staged, tmp_path, num_tokens=teacher.num_tokens)
    assert os.listdir(tmp_path) == []


def test_a_place_that_is_no_folder(teacher: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        export_onnx_vae_decoder(teacher.vae, tmp_path / "file", latent_size=8)
