"""Exported folders load, with plain diffusers where the words allow it, and compute what was exported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from nas.export import Costs, Latency, VariantCard, annotate_variant, export_diffusers, load_variant, read_variant
from nas.export.inputs import unet_inputs
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.surgery import assemble, teacher_candidate
from search_spaces.unet import StagedUNet

STANDARD = "RA-RA-RA-none-RARA-RARA-RARA"
STAGED = "RARA-RA-R-none-RARARA-RR-R@3"
CARD = VariantCard(name="prime", space="nanosd", seeds={"search": 7}, recipe_hash="abc")


def net_of(teacher: Any, candidate: str) -> StagedUNet:
    return assemble(teacher.unet, Candidate.from_id(candidate)).eval()


def outputs(unet: Any, staged: StagedUNet, num_tokens: int) -> list[torch.Tensor]:
    with torch.no_grad():
        return [
            unet(*unet_inputs(staged, num_tokens, t, batch_size=2, seed=t), return_dict=False)[0] for t in (1, 500, 981)
        ]


def images(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    return pipeline("coins", num_inference_steps=2, height=64, width=64, generator=generator, output_type="np").images


@pytest.mark.parametrize("kept", [False, True])
def test_standard_variant_in_plain_diffusers_is_bit_identical(teacher: Any, tmp_path: Path, kept: bool) -> None:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    candidate = teacher_candidate(teacher.unet).id if kept else STANDARD
    staged = net_of(teacher, candidate)
    variant = export_diffusers(teacher, staged, tmp_path / "v", CARD)
    assert variant.standard and variant.not_standard_because is None and variant.reload_error == 0
    assert variant.loads_with == "diffusers.StableDiffusionPipeline.from_pretrained"

    plain = StableDiffusionPipeline.from_pretrained(tmp_path / "v")
    assert type(plain.unet) is UNet2DConditionModel
    wanted = outputs(staged, staged, teacher.num_tokens)
    for pipeline in (plain, load_variant(tmp_path / "v")):
        for got, expected in zip(outputs(pipeline.unet, staged, teacher.num_tokens), wanted, strict=True):
            assert torch.equal(got, expected)
    assert (images(plain) == images(teacher.pipeline(unet=staged))).all()
    assert variant.costs.num_params == sum(p.numel() for p in plain.unet.parameters())


def test_other_variant_loads_with_our_class_only(teacher: Any, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    staged = net_of(teacher, STAGED)
    variant = export_diffusers(teacher, staged, tmp_path / "v", CARD)
    assert not variant.standard and variant.loads_with == "nas.export.load_variant"
    assert (variant.not_standard_because or "").startswith(("E", "D"))
    readme = (tmp_path / "v" / "README.md").read_text()
    assert "Plain diffusers alone cannot load this folder" in readme and "load_variant(" in readme

    pipeline = load_variant(tmp_path / "v")
    assert isinstance(pipeline, StableDiffusionPipeline)
    assert pipeline.unet.candidate.id == STAGED
    wanted = outputs(staged, staged, teacher.num_tokens)
    for got, expected in zip(outputs(pipeline.unet, staged, teacher.num_tokens), wanted, strict=True):
        assert torch.equal(got, expected)
    assert (images(pipeline) == images(teacher.pipeline(unet=staged))).all()


def test_plain_diffusers_says_what_is_missing(teacher: Any, tmp_path: Path) -> None:
    export_diffusers(teacher, net_of(teacher, STAGED), tmp_path / "v", CARD)
    code = """
import sys
from diffusers import StableDiffusionPipeline
try:
    StableDiffusionPipeline.from_pretrained(sys.argv[1])
except ValueError as error:
    print(error)
import search_spaces.unet
print(type(StableDiffusionPipeline.from_pretrained(sys.argv[1]).unet).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "v")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    first, last = done.stdout.strip().splitlines()
    assert "import search_spaces.unet before calling" in first
    assert last == "StagedUNet"


def test_exporting_the_same_again_does_nothing(teacher: Any, tmp_path: Path) -> None:
    folder = tmp_path / "v"
    first = export_diffusers(teacher, net_of(teacher, STANDARD), folder, CARD)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*")}
    assert export_diffusers(teacher, net_of(teacher, STANDARD), folder, CARD) == first
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*")} == before
    # Other weights, another card or damage are written anew.
    changed = net_of(teacher, STANDARD)
    with torch.no_grad():
        changed.conv_out.bias += 1
    second = export_diffusers(teacher, changed, folder, CARD)
    assert second.content_key != first.content_key and second.weights_key != first.weights_key
    third = export_diffusers(teacher, changed, folder, CARD.model_copy(update={"name": "fastest"}))
    assert third.weights_key == second.weights_key and read_variant(folder).name == "fastest"
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    export_diffusers(teacher, changed, folder, CARD)
    load_variant(folder)
    assert os.listdir(tmp_path) == ["v"]


def test_two_exports_have_the_same_bytes_and_no_machine_paths(teacher: Any, tmp_path: Path) -> None:
    teacher.pipeline().save_pretrained(tmp_path / "teacher")
    from dataclasses import replace

    from diffusers import AutoencoderKL

    loaded = replace(teacher, vae=AutoencoderKL.from_pretrained(tmp_path / "teacher" / "vae"))
    files = [
        export_diffusers(loaded, net_of(teacher, candidate), tmp_path / name, CARD).files
        for candidate in (STANDARD, STAGED)
        for name in ("one", "two")
    ]
    assert files[0] == files[1] and files[2] == files[3]
    for path in (tmp_path / "one").rglob("*.json"):
        assert str(tmp_path) not in path.read_text()


def test_damage_is_one_line_with_the_mend(teacher: Any, tmp_path: Path) -> None:
    folder = tmp_path / "v"
    export_diffusers(teacher, net_of(teacher, STANDARD), folder, CARD)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    record = folder / "variant.json"

    def refusal() -> str:
        with pytest.raises(UserError) as caught:
            load_variant(folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert "is damaged" in refusal() and str(weights) in refusal() and "export the pick again" in refusal()
    weights.write_bytes(good[:-4])
    assert f"{len(good)} were written" in refusal()
    weights.unlink()
    assert "is missing" in refusal()
    weights.write_bytes(good)
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    assert "is a pickle" in refusal()
    (folder / "unet" / "diffusion_pytorch_model.bin").unlink()

    text = record.read_text()
    for bad, said in (
        (text.replace('"format_version": 1', '"format_version": 2'), "format_version"),
        (text.replace('"reload_error": 0.0', '"reload_error": NaN'), "reload_error"),
        (text.replace('"seeds"', '"sedes"'), "seeds"),
        (text[:-40], "the file is not valid"),
    ):
        assert bad != text
        record.write_text(bad)
        assert said in refusal()
    record.unlink()
    assert "is not an exported variant" in refusal()
    record.write_text(text)
    load_variant(folder)


def test_card_tells_figures_lineage_and_limits(teacher: Any, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "coins.png")
    card = VariantCard(
        name="fastest",
        space="nanosd",
        seeds={"search": 7},
        recipe_hash="abc",
        num_macs=1234,
        teacher_costs=Costs(num_params=10**6, num_macs=10**7),
        latency=Latency(device="this CPU", predicted_ms=2.5),
        fidelity_before={"latent_error": 0.5},
        fidelity_after={"latent_error": 0.25},
    )
    all_r = "R-R-R-none-R-R-R@3"
    folder = tmp_path / "v"
    variant = export_diffusers(teacher, net_of(teacher, all_r), folder, card, images={"coins": tmp_path / "coins.png"})
    readme = (folder / "README.md").read_text()
    for wanted in (
        "![coins](images/coins.png)",
        "1,234",
        "1,000,000",
        "2.50 ms",
        "| latent_error | 0.5 | 0.25 |",
        all_r,
        "`random` (key `0123456789abcdef`)",
        "does not read the prompt",
        variant.weights_key,
    ):
        assert wanted in readme
    assert (folder / "images" / "coins.png").read_bytes() == (tmp_path / "coins.png").read_bytes()

    annotated = annotate_variant(
        folder, latency=Latency(device="this CPU", predicted_ms=2.5, measured_ms=2.0, teacher_measured_ms=8.0)
    )
    assert "4.00 x" in (folder / "README.md").read_text()
    assert read_variant(folder) == annotated and annotated.content_key == variant.content_key
    again = export_diffusers(teacher, net_of(teacher, all_r), folder, card, images={"coins": tmp_path / "coins.png"})
    assert again == annotated


def test_unknown_image_and_wrong_card(teacher: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"image .* cannot be read"):
        export_diffusers(teacher, net_of(teacher, STANDARD), tmp_path / "v", CARD, images={"a": tmp_path / "no.png"})
    with pytest.raises(ValueError, match="finite"):
        Latency(measured_ms=float("nan"))


def test_variant_json_is_plain_json(teacher: Any, tmp_path: Path) -> None:
    export_diffusers(teacher, net_of(teacher, STAGED), tmp_path / "v", CARD)
    data = json.loads((tmp_path / "v" / "variant.json").read_text())
    assert data["lineage"]["candidate"] == STAGED
    assert data["lineage"]["words"]["D1"] == "R@3"
    assert data["loads_with"] == "nas.export.load_variant"
    assert set(data["files"]) >= {"model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"}
