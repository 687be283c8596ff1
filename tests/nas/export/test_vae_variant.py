"""Variants with a VAE of their own: read back, run and exported to ONNX they compute what was exported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from nas.distill.vae import student_vae
from nas.export import Costs, VariantCard, export_diffusers, load_variant, read_variant
from nas.export.variant import VaeHalf, VaePart
from search_spaces.candidate import Candidate
from search_spaces.surgery import assemble
from search_spaces.vae import StagedVAE, build_vae_stage

HALVES = {"VE": "8x1.4x1.4x1.8x1", "VD": "4x1.4x1.4x1.8x1"}
STANDARD = "RA-RA-RA-none-RARA-RARA-RARA"


def card_of(vae: StagedVAE) -> VariantCard:
    costs = Costs(num_params=7, num_macs=11)
    halves = [VaeHalf(option=option, costs=costs, teacher_costs=costs) for option in vae.options.values()]
    part = VaePart(encoder=halves[0], decoder=halves[1], quality={"psnr_db": 21.5, "latent_cosine": 0.9}, num_images=3)
    return VariantCard(
        name="prime",
        space="nanosd",
        fidelity_before={"latent_error": 0.3},
        fidelity_after={"latent_error": 0.2},
        intervals_after={"latent_error": (0.1, 0.25)},
        vae=part,
        settings={"alignment": {"steps": 5}},
    )


@pytest.mark.parametrize("mix", [("VD",), ("VE", "VD")], ids="-".join)
def test_a_variant_keeps_its_vae(teacher: Any, tmp_path: Path, mix: tuple[str, ...]) -> None:
    stages = {(s, HALVES[s]): build_vae_stage(teacher.vae, s, HALVES[s], seed=3).eval() for s in mix}
    vae = student_vae(teacher, stages)
    staged = assemble(teacher.unet, Candidate.from_id(STANDARD)).eval()
    variant = export_diffusers(teacher, staged, tmp_path / "v", card_of(vae), vae=vae, vae_onnx=True)
    assert variant == read_variant(tmp_path / "v")
    assert variant.vae is not None and variant.vae.reload_error == 0
    assert not variant.standard and all(HALVES[s] in str(variant.not_standard_because) for s in mix)

    pipeline = load_variant(tmp_path / "v")
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mean = vae.encode(x).latent_dist.mean
        assert torch.equal(pipeline.vae.encode(x).latent_dist.mean, mean)
        assert torch.equal(pipeline.vae.decode(mean).sample, vae.decode(mean).sample)
    assert {check.subject for check in variant.onnx} == {"vae_encoder", "vae_decoder"}
    scale = teacher.vae.config.scaling_factor
    latents = run(tmp_path / "v" / "vae_encoder.onnx", images=x[:1].numpy())
    np.testing.assert_allclose(latents, (mean[:1] * scale).numpy(), rtol=0, atol=1e-5 * float(mean.abs().max()))
    decoded = run(tmp_path / "v" / "vae_decoder.onnx", latents=latents)
    expected = vae.decode(mean[:1]).sample.detach().numpy()
    np.testing.assert_allclose(decoded, expected, rtol=0, atol=1e-4 * np.abs(expected).max())

    text = (tmp_path / "v" / "README.md").read_text()
    for said in ("search_spaces.vae", "0.2 (0.1 to 0.25)", "steps 5", "21.5", *(HALVES[s] for s in mix)):
        assert said in text
    written = (tmp_path / "v" / "variant.json").stat().st_mtime_ns
    assert export_diffusers(teacher, staged, tmp_path / "v", card_of(vae), vae=vae, vae_onnx=True) == variant
    assert (tmp_path / "v" / "variant.json").stat().st_mtime_ns == written


def run(path: Path, **inputs: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def test_variants_with_the_teachers_vae_keep_their_content_key() -> None:
    """What earlier versions wrote is still known as the same content: later fields count only where they are used."""
    card = VariantCard(name="prime", space="nanosd")
    assert set(card.content()) == {
        *("name", "space", "summary", "seeds", "recipe_hash", "num_macs", "teacher_costs", "latency"),
        *("fidelity_before", "fidelity_after"),
    }
    assert "settings" in card.model_copy(update={"settings": {"alignment": {"steps": 1}}}).content()


@pytest.mark.slow
def test_diffusers_alone_names_the_module_to_import(teacher: Any, tmp_path: Path) -> None:
    vae = student_vae(teacher, {("VD", HALVES["VD"]): build_vae_stage(teacher.vae, "VD", HALVES["VD"])})
    staged = assemble(teacher.unet, Candidate.from_id(STANDARD)).eval()
    export_diffusers(teacher, staged, tmp_path / "v", card_of(vae), vae=vae)
    load = f"from diffusers import StableDiffusionPipeline as P; p = P.from_pretrained({str(tmp_path / 'v')!r})"
    alone = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True, check=False)
    assert alone.returncode != 0 and "search_spaces.vae" in alone.stderr
    both = f"import search_spaces.unet, search_spaces.vae; {load}; print(type(p.vae).__name__)"
    found = subprocess.run([sys.executable, "-c", both], capture_output=True, text=True, check=False)
    assert found.stdout.strip().endswith("StagedVAE"), found.stderr


@pytest.mark.parametrize("mix", [("VE",), ("VD",), ("VE", "VD")], ids="-".join)
def test_every_mix_runs_in_pipelines_with_the_teachers_unet(teacher: Any, mix: tuple[str, ...]) -> None:
    """Text to image goes through the decoder, image to image through both; the other half is the teacher's."""
    from diffusers import StableDiffusionImg2ImgPipeline

    stages = {(s, HALVES[s]): build_vae_stage(teacher.vae, s, HALVES[s], seed=3).eval() for s in mix}
    pipeline = teacher.pipeline(vae=student_vae(teacher, stages))
    pipeline.set_progress_bar_config(disable=True)
    how: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 1.0}
    seed = torch.Generator().manual_seed
    latents = pipeline("a", **how, generator=seed(0), output_type="latent").images
    got = torch.as_tensor(pipeline("a", **how, generator=seed(0), output_type="pt").images)
    scaled = latents / teacher.vae.config.scaling_factor
    with torch.no_grad():
        decoder = stages.get(("VD", HALVES["VD"]))
        expected = teacher.vae.decode(scaled).sample if decoder is None else decoder(scaled)
    torch.testing.assert_close(got, (expected / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)

    other = StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    image = torch.rand(1, 3, 64, 64, generator=seed(1))
    again = [torch.as_tensor(other("a", image=image, strength=1.0, **how, generator=seed(0), output_type="pt").images)]
    assert again[0].shape == image.shape and bool(torch.isfinite(again[0]).all())
