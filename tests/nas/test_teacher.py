"""Loading and writing teachers. Truth: diffusers' pipeline, published parameter counts."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from nas.photos import vocabulary
from nas.random_teacher import SD15_TEXT, SD15_UNET, SD15_VAE, write_random_teacher
from nas.teacher import folder_key, load_shapes, load_teacher, num_text_tokens
from nas.whole_word_tokenizer import write_tokenizer
from search_spaces.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_teacher("toy", tmp_path_factory.mktemp("teacher") / "toy", seed=5)


def test_sd15_shapes_have_the_published_parameter_counts() -> None:
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel(**SD15_UNET), AutoencoderKL(**SD15_VAE)
        text = CLIPTextModel(CLIPTextConfig(**SD15_TEXT))
    count = [sum(p.numel() for p in m.parameters()) for m in (unet, vae, text)]
    assert count == [859_520_964, 83_653_863, 123_060_480]


def test_random_teacher_runs_in_the_plain_pipeline_and_matches_ours(folder: Path) -> None:
    plain = StableDiffusionPipeline.from_pretrained(folder)
    teacher = load_teacher(str(folder))
    assert teacher.unet.dtype == teacher.vae.dtype == teacher.text_encoder.dtype == torch.float32
    assert (teacher.latent_size, teacher.latent_channels, teacher.num_tokens) == (8, 4, 8)
    assert (teacher.vae_scale, teacher.image_size) == (8, 64)
    prompt = "cat left top near"
    embedded, null = plain.encode_prompt(prompt, "cpu", 1, True, "")
    assert torch.equal(teacher.encode_prompts([prompt]), embedded)
    assert torch.equal(teacher.encode_prompts([""]), null)
    images = []
    for pipeline in (plain, teacher.pipeline()):
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        images.append(pipeline(prompt, num_inference_steps=2, generator=generator, output_type="pt").images)
    assert torch.equal(*images) and images[0].shape == (1, 3, 64, 64)


def test_same_seed_same_key_and_copies_keep_it(folder: Path, tmp_path: Path) -> None:
    same, other = (write_random_teacher("toy", tmp_path / str(seed), seed=seed) for seed in (5, 6))
    assert folder_key(same) == folder_key(folder) != folder_key(other)
    (same / "README.md").write_text("another card")
    assert folder_key(same) == folder_key(folder)
    path = same / "scheduler" / "scheduler_config.json"
    path.write_text(path.read_text().replace("0.012", "0.013"))
    assert folder_key(same) != folder_key(folder)


def test_streamed_weights_are_ordinary_safetensors_without_gradients(folder: Path) -> None:
    with safe_open(folder / "unet" / "diffusion_pytorch_model.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    unet = load_teacher(folder).unet
    assert stored.keys() == unet.state_dict().keys()
    assert all(torch.equal(stored[name].float(), value) for name, value in unet.state_dict().items())
    assert not unet.training and not any(p.requires_grad for p in unet.parameters())


def test_encode_and_decode_follow_sd_scaling(folder: Path) -> None:
    teacher = load_teacher(folder)
    x = torch.rand((3, 3, 64, 64), generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = teacher.encode_images(x)
    assert torch.allclose(latents / 0.18215, teacher.vae.encode(x).latent_dist.mode(), atol=1e-6)
    images = teacher.decode_latents(latents)
    assert torch.allclose(images, (teacher.vae.decode(latents / 0.18215).sample / 2 + 0.5).clamp(0, 1), atol=1e-6)


def test_whole_words_are_one_token(tmp_path: Path) -> None:
    words = (*vocabulary(), "near", "nearer", "earn", "banana", "aaaa")
    write_tokenizer(tmp_path, tuple(dict.fromkeys(words)), 8)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    for word in words:
        assert len(tokenizer(word).input_ids) == 3, word
    ids = tokenizer("A Dog, 3!", padding="max_length", max_length=8, truncation=True).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "adog,3!"[: len("adog,3")]


def _drop(name: str):
    return lambda p: shutil.rmtree(p / name) if (p / name).is_dir() else (p / name).unlink()


def _set_class(p: Path) -> None:
    index = json.loads((p / "model_index.json").read_text())
    (p / "model_index.json").write_text(json.dumps({**index, "unet": ["diffusers", "FluxTransformer2DModel"]}))


def _truncate(p: Path) -> None:
    path = p / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop("model_index.json"), "has no model_index.json"),
        (_drop("vae"), "has no vae/"),
        (_drop("unet/config.json"), "has no unet/config.json; restore the file"),
        (_drop("scheduler/scheduler_config.json"), "has no scheduler/scheduler_config.json; restore the file"),
        (_drop("unet/diffusion_pytorch_model.safetensors"), "has no .safetensors weights"),
        (_set_class, "unet is 'FluxTransformer2DModel'"),
        (_truncate, "cannot be loaded"),
        (lambda p: (p / "model_index.json").write_text("{"), "cannot be read"),
    ],
)
def test_damaged_folder_is_one_line(folder: Path, tmp_path: Path, damage: object, message: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(copy)  # type: ignore[operator]
    with pytest.raises(UserError, match=message) as error:
        load_teacher(copy)
    assert "\n" not in str(error.value)


def test_unknown_spec_is_one_line(tmp_path: Path) -> None:
    for spec in ("no such", str(tmp_path / "missing" / "folder"), "unknown-name"):
        with pytest.raises(UserError, match="not found") as error:
            load_teacher(spec)
        assert "\n" not in str(error.value)


def test_random_teacher_refuses_what_it_cannot_do(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="legal are sd15, toy"):
        write_random_teacher("sdxl", tmp_path / "x")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="not empty"):
        write_random_teacher("toy", folder)


@pytest.mark.parametrize("damage", ["missing weight", "not finite", "no vocabulary"])
def test_damaged_weights_and_vocabularies_are_named(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "teacher"
    write_random_teacher("toy", folder, seed=0)
    path = next((folder / "unet").glob("*.safetensors"))
    tensors = load_file(path)
    if damage == "missing weight":
        del tensors["conv_in.weight"]
    elif damage == "not finite":
        tensors["conv_in.weight"][0, 0, 0, 0] = float("nan")
    else:
        for vocabulary in (folder / "tokenizer").iterdir():
            vocabulary.unlink()
    save_file(tensors, path, metadata={"format": "pt"})
    expected = {"missing weight": "conv_in.weight", "not finite": "not finite", "no vocabulary": "no vocabulary"}
    with pytest.raises(UserError, match=expected[damage]) as caught:
        load_teacher(folder)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_may_make_fewer_tokens_than_the_text_encoder_takes(folder: Path, tmp_path: Path) -> None:
    short = tmp_path / "short"
    shutil.copytree(folder, short)
    config = short / "tokenizer" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "model_max_length": 4}))
    assert (num_text_tokens(folder), num_text_tokens(short)) == (8, 4)
    assert load_teacher(short).num_tokens == 4
    shutil.rmtree(short / "tokenizer")
    assert num_text_tokens(short) == 8  # there is none that says otherwise


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as serves the files of one repository, toys/toy."""

    folder: Path
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self.wfile.write(self._answer())

    def _answer(self) -> bytes:
        self.asked.append(f"{self.command} {self.path}")
        file = self.folder / self.path.removeprefix("/toys/toy/resolve/main/")
        content = file.read_bytes() if self.path.startswith("/toys/toy/resolve/main/") and file.is_file() else None
        self.send_response(404 if content is None else 200)
        if content is not None:
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        return content or b""

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_of_a_hub_id_shapes_need_configurations_only(folder: Path, tmp_path: Path) -> None:
    asked: list[str] = []
    handler = type("ToyHub", (Hub,), {"folder": folder, "asked": asked})
    script = """
from nas.teacher import load_shapes, num_text_tokens
from search_spaces.errors import UserError
for _ in range(2):
    print(sum(p.numel() for part in load_shapes("toys/toy") for p in part.parameters()), num_text_tokens("toys/toy"))
try:
    load_shapes("toys/other")
except UserError as error:
    print(error)
"""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        run = subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, **hub}, capture_output=True, text=True, check=True
        )
        server.shutdown()
    teacher = load_teacher(folder)
    size = sum(p.numel() for part in (teacher.unet, teacher.vae) for p in part.parameters())
    first, again, error = run.stdout.splitlines()
    assert first == again == f"{size} {num_text_tokens(folder)}"
    fetched = [path.partition("/toys/toy/resolve/main/")[2] for path in asked if path.startswith("GET /toys/toy/")]
    configs = ["text_encoder/config.json", "tokenizer/tokenizer_config.json", "unet/config.json", "vae/config.json"]
    assert sorted(fetched) == configs
    assert not [path for path in asked if "safetensors" in path]
    assert "teacher 'toys/other' is no local folder, and unet/config.json is not in the local cache and could" in error


def test_without_a_connection_a_hub_id_is_refused_in_one_line() -> None:
    for load in (load_shapes, num_text_tokens, load_teacher):
        with pytest.raises(
            UserError, match=r"could not be fetched from the hub .* check the name and the con"
        ) as caught:
            load("nobody/nothing")  # the tests' environment is offline
        assert "\n" not in str(caught.value)
