"""Writes the toy teacher's model card from measured figures: `python -m experiments.toy_teacher.card FOLDER`.

The figures lie in `measured/`: `unet.json` as the training writes it, `vae.json` taken from its log, `release.json` as
`release_test --json` prints it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from experiments.toy_teacher.release_test import MIN_CHANGE_PCT, MIN_PSNR_DB, SHORTEST
from nas.photos import COLUMNS, PHOTOS, ROWS, ZOOMS

FILES = ("vae", "unet", "release")
_SOURCE = {
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}


def card(folder: Path, vae: dict[str, Any], unet: dict[str, Any], release: dict[str, Any]) -> str:
    """The card's Markdown; figures come from the training's and the release test's own output."""
    sizes = {path.parent.name: path.stat().st_size for path in sorted(folder.rglob("*.safetensors"))}
    size_lines = "\n".join(f"| {name} | {size / 1e6:.2f} |" for name, size in sizes.items())
    photos = "\n".join(
        f"| {p.word} | `{p.path.rpartition('/')[2]}` | {_SOURCE[p.package]} | {p.licence} |" for p in PHOTOS
    )
    return f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# Toy teacher

A small Stable-Diffusion-format pipeline with SD 1.5's U-Net topology at small width, for searching and testing
on a CPU: 64x64 images, 8x8 latents. `StableDiffusionPipeline.from_pretrained(<this folder>)` loads it
unchanged. It knows twelve photographs and nothing else, and is of no use for making pictures.

![One column a photograph: a crop, its reconstruction, two samples](samples.png)

Rows: a crop, its reconstruction by the autoencoder, two samples (25 DDIM steps, guidance 2, noise seeds 0 and 1)
for the caption "<photograph> leftish upper far".

## Captions
Four words: photograph, column, row, zoom, for example `coffee left top near`.
Columns: {", ".join(COLUMNS)}. Rows: {", ".join(ROWS)}. Zooms: {", ".join(ZOOMS)}.
The tokenizer is a CLIPTokenizer with these words as single tokens; other words fall apart into letters, which
the text encoder has never seen. Prompts hold 8 tokens.

## Training
Made by `experiments/toy_teacher` from seed 0, on one core of a busy two-core machine in float32, the autoencoder's
convolutions in bfloat16. Random square crops (45 % or 75 % of the short side, mirrored or not), no other data:
600 a photograph for the autoencoder, 800 for the U-Net. The autoencoder was trained by calling `train_vae`; the
command for the same settings, not rerun since, is `python -m experiments.toy_teacher.train` with `--vae-seconds 1380
--num-crops 600`. The U-Net was trained by that command with `--vae vae.safetensors --unet-steps 12000
--unet-seconds 1740 --num-crops 800`.

- Autoencoder: {vae["steps"]} steps of 12 in {vae["seconds"]:.0f} s; AdamW, 200 warm-up steps, cosine
  from 2e-3; L1 + 4 MSE + 0.25 L1 of image gradients + 1e-5 KL; averaged weights (decay 0.998).
- U-Net and text encoder together, on the stored autoencoder's latents: {unet["steps"]} steps of 32 in
  {unet["seconds"]:.0f} s; AdamW, cosine from 1.5e-3, 50 warm-up steps, gradients clipped to 1; noise prediction, weight
  1/SNR clipped to [0.5, 2.5] and normalised; 10 % empty captions. So that the deep stages work:
  skip columns of D2 and of D3's last layer decay by 60 times the learning rate a step, and auxiliary 1x1 heads
  (weight 2, dropped afterwards) predict pooled clean latents from E3 and D3. Last losses: noise
  {unet["noise_loss"]:.4f}, heads {unet["head_loss"]:.4f}.

Both were stopped by time, so another machine makes other weights of the same kind.

| weights (float16) | MB |
| --- | --- |
{size_lines}

## Release test
{_release(release)}
## Licences
The weights are released under Apache-2.0. The photographs are not part of this folder; they come with the named
wheels and carry these terms, as those packages state them:

| word | file | from | terms |
| --- | --- | --- | --- |
{photos}

The crops of the temple and the flower in `samples.png` are adapted from photographs under CC BY 2.0:
<https://www.flickr.com/photos/danielbuechele/6061409035/> and
<https://www.flickr.com/photos/vultilion/6056698931/>.

## Limits
D1 with one layer (`R@3`, `RA@3`) destroys the picture, see the release test: at this width the last stage needs two.
Samples are blurred and recognisable rather than sharp. "Crops not seen" come from the same photographs, at
places drawn with another seed: the autoencoder is not expected to work on other pictures.
"""


def _release(release: dict[str, Any]) -> str:
    rows = "\n".join(
        f"| {stage} -> {SHORTEST[stage]} | {change['guidance 1']:.2f} | {change['guidance 2']:.2f} |"
        for stage, change in release["latent_change_pct"].items()
    )
    verdict = "Passed." if release["passed"] else "Failed: " + ", ".join(release["failed"]) + "."
    return f"""`python -m experiments.toy_teacher.release_test`, teacher key {release["teacher_key"]}. {verdict}

Reconstruction of crops that were not seen exactly: {release["psnr_pooled_db"]:.2f} dB of the pooled error,
{release["psnr_mean_db"]:.2f} dB averaged over crops (bar {MIN_PSNR_DB:g} dB, pooled).

One stage replaced by its shortest option, distilled for 150 steps; change of the paired latents after 10 DDIM
steps in % of the teacher latents' variance (bar {MIN_CHANGE_PCT:g} % without guidance):

| stage | without guidance | guidance 2 |
| --- | --- | --- |
{rows}
"""


def main() -> None:
    """Write FOLDER/README.md."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--measured", type=Path, default=Path(__file__).parent / "measured")
    args = parser.parse_args()
    vae, unet, release = (json.loads((args.measured / f"{name}.json").read_text()) for name in FILES)
    text = card(args.folder, vae, unet, release)
    (args.folder / "README.md").write_text(text)


if __name__ == "__main__":
    main()
