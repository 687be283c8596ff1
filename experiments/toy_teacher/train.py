"""Makes the toy teacher: `python -m experiments.toy_teacher.train OUT --work DIR`.

Everything comes from the photographs inside the scikit-image and scikit-learn wheels and from the seed.
`--vae FILE` goes on with an autoencoder trained before. The learning rates follow the share of steps or of
time used, whichever is further: only a run without time limits (`--vae-seconds inf --unet-seconds inf`) is
repeatable number for number.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.toy_teacher.unet_training import train_unet
from experiments.toy_teacher.vae_training import psnr_db, reconstruct, train_vae
from nas.photos import PHOTOS, crop, photo_crops, vocabulary
from nas.random_teacher import SCHEDULER, TOY_TEXT, TOY_UNET, TOY_VAE, write_model_index
from nas.sampling import alphas_cumprod, ddim_sample
from nas.whole_word_tokenizer import write_tokenizer

HELD_OUT_SEED = 2  # crops that no training sees exactly
GUIDANCE = 2.0


def images_tensor(images: np.ndarray) -> Tensor:
    """uint8 (N, H, W, 3) to uint8 (N, 3, H, W)."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def as_signal(images: Tensor) -> Tensor:
    """uint8 to float32 in [-1, 1]."""
    return images.float().div(127.5).sub(1)


def held_out_crops(per_photo: int = 16) -> Tensor:
    """Crops from the same photographs, at places drawn with another seed: (N, 3, 64, 64) in [-1, 1]."""
    images, _ = photo_crops(len(PHOTOS) * per_photo, HELD_OUT_SEED)
    return as_signal(images_tensor(images))


def round_to_half(module: torch.nn.Module) -> None:
    """Round the weights to what a float16 file holds: everything downstream is judged on these."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter.half().float())


def write_folder(folder: Path, vae: Any, unet: Any, text_encoder: Any) -> None:
    """Write the diffusers folder with float16 weights; replaces what is there."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel

    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    for name, cls, module in (("vae", AutoencoderKL, vae), ("unet", UNet2DConditionModel, unet)):
        copy = cls.from_config(module.config)
        copy.load_state_dict(module.state_dict())
        copy.half().save_pretrained(part / name)
    text = CLIPTextModel(text_encoder.config)
    text.load_state_dict(text_encoder.state_dict())
    text.half().save_pretrained(part / "text_encoder")
    # transformers loads in the stored precision unless the config says otherwise; half would not run on CPUs.
    config = part / "text_encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": "float32"}, indent=2) + "\n")
    write_tokenizer(part / "tokenizer", vocabulary(), TOY_TEXT["max_position_embeddings"])
    DDIMScheduler(**SCHEDULER).save_config(part / "scheduler")
    write_model_index(part, "DDIMScheduler")
    for path in part.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def sample_grid(teacher: Any, path: Path) -> None:
    """One column a photograph: a crop, its reconstruction, two samples for the crop's caption (guidance 2)."""
    from PIL import Image

    crops = as_signal(images_tensor(np.stack([crop(photo, 0.4, 0.4, "far", 64) for photo in PHOTOS])))
    rows = [crops / 2 + 0.5, teacher.decode_latents(teacher.encode_images(crops))]
    context = teacher.encode_prompts([f"{photo.word} leftish upper far" for photo in PHOTOS])
    null = teacher.encode_prompts([""])
    for seed in (0, 1):
        noise = torch.randn((len(PHOTOS), 4, 8, 8), generator=torch.Generator().manual_seed(seed))
        latents = ddim_sample(teacher.unet, teacher.scheduler.config, noise, context, null, 25, GUIDANCE)
        rows.append(teacher.decode_latents(latents))
    picture = torch.stack(rows).permute(0, 3, 1, 4, 2).reshape(4 * 64, len(PHOTOS) * 64, 3)
    Image.fromarray(picture.clamp(0, 1).mul(255).round().byte().numpy()).save(path, optimize=True)


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write, replaced if it exists")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and logs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vae", type=Path, help="vae.safetensors of an earlier run: skips that training")
    parser.add_argument("--vae-steps", type=int, default=12_000)
    parser.add_argument("--vae-seconds", type=float, default=1500)
    parser.add_argument("--unet-steps", type=int, default=8000)
    parser.add_argument("--unet-seconds", type=float, default=1800)
    parser.add_argument("--num-crops", type=int, default=600, help="training crops per photograph")
    args = parser.parse_args()

    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import load_file
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    images, captions = photo_crops(args.num_crops * len(PHOTOS), args.seed + 1)
    pixels, held_out = images_tensor(images), held_out_crops()
    if args.vae:
        vae = AutoencoderKL(**TOY_VAE)
        vae.load_state_dict(load_file(args.vae))
    else:
        vae = train_vae(
            pixels,
            held_out,
            steps=args.vae_steps,
            batch_size=12,
            seed=args.seed,
            work_dir=args.work,
            max_seconds=args.vae_seconds,
        )
    vae.eval().requires_grad_(False)
    round_to_half(vae)
    print(
        "stored VAE: held-out PSNR {:.2f} dB pooled, {:.2f} dB mean".format(
            *psnr_db(held_out, reconstruct(vae, held_out))
        )
    )

    with torch.no_grad():
        raw = torch.cat([vae.encode(as_signal(x)).latent_dist.mean for x in pixels.split(64)])
    # SD's rule: scaled latents have unit variance.
    vae.register_to_config(scaling_factor=round(1 / float(raw.std()), 5))
    latents = raw * vae.config.scaling_factor
    print(f"latents {tuple(latents.shape)}, scaling factor {vae.config.scaling_factor}", flush=True)

    torch.manual_seed(args.seed)
    unet = UNet2DConditionModel(**TOY_UNET)
    vocab_size = write_tokenizer(args.work / "tokenizer", vocabulary(), TOY_TEXT["max_position_embeddings"])
    text = CLIPTextModel(
        CLIPTextConfig(vocab_size=vocab_size, **TOY_TEXT, bos_token_id=0, eos_token_id=1, pad_token_id=1)
    )
    tokenizer = CLIPTokenizer.from_pretrained(args.work / "tokenizer")

    def tokens(prompts: list[str]) -> Tensor:
        length = TOY_TEXT["max_position_embeddings"]
        ids: Tensor = tokenizer(prompts, padding="max_length", max_length=length, return_tensors="pt").input_ids
        return ids

    def checkpoint(step: int) -> None:
        write_folder(args.work / "checkpoint", vae, unet, text)
        print(f"checkpoint after {step} steps", flush=True)

    result = train_unet(
        unet,
        text,
        latents,
        tokens(captions),
        tokens([""]),
        alphas_cumprod(SCHEDULER),
        steps=args.unet_steps,
        batch_size=32,
        seed=args.seed,
        max_seconds=args.unet_seconds,
        checkpoint=checkpoint,
    )
    write_folder(args.out, vae, unet, text)
    (args.work / "unet.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result), time.strftime("%H:%M:%S"), flush=True)

    from nas.teacher import load_teacher

    sample_grid(load_teacher(args.out), args.out / "samples.png")


if __name__ == "__main__":
    main()
