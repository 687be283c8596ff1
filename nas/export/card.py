"""README.md of an exported variant, made from variant.json alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nas.export.variant import VARIANT_FILE, Variant

_STANDARD = """\
The U-Net is a standard `UNet2DConditionModel`; plain diffusers loads the folder, nothing of NanoSD is needed:

```python
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained("path/to/this/folder")
```
"""

_STAGED = """\
**Plain diffusers alone cannot load this folder.** {reason} Install NanoSD and load it with

```python
from nas.export import load_variant

pipeline = load_variant("path/to/this/folder")  # a StableDiffusionPipeline
```

or `import {modules}` before `StableDiffusionPipeline.from_pretrained`. Without that import diffusers
stops with an error that names the module. The folder holds no code, and `trust_remote_code` is not needed.
"""


def render_card(variant: Variant) -> str:
    """Markdown text of the model card; the same variant gives the same text."""
    parts = [
        "---\nlibrary_name: diffusers\npipeline_tag: text-to-image\ntags:\n- stable-diffusion\n- nanosd\n---\n",
        f"# {variant.name}\n",
        (variant.summary or _summary(variant)) + "\n",
        "## Loading\n",
        _STANDARD if variant.standard else _staged(variant),
        f"Read back from this folder, the U-Net differs from the one exported by {_error(variant.reload_error)}.\n",
        *_images(variant),
        "## Figures\n",
        _table(("", "this variant", "teacher"), _figures(variant)),
        *_vae(variant),
        *_fidelity(variant),
        "## Stages\n",
        "R is a residual block, A a transformer block; `deep` is E4, the middle block and D4.\n",
        _table(("stage", "word"), ((stage, f"`{word}`") for stage, word in variant.lineage.words.items())),
        *_onnx(variant),
        "## Where it comes from\n",
        _table(("", ""), _lineage(variant)),
        *_limits(variant),
        f"All of this, with hashes of all files, is in `{VARIANT_FILE}`.\n",
    ]
    return "\n".join(parts)


def _staged(variant: Variant) -> str:
    if variant.vae is None:
        reason = f"No `UNet2DConditionModel` has these stages ({variant.not_standard_because})."
        classes = "The U-Net is NanoSD's `StagedUNet`."
        return _STAGED.format(reason=f"{reason}\n{classes}", modules="search_spaces.unet")
    reason = f"diffusers has no class for this network ({variant.not_standard_because})."
    return _STAGED.format(reason=reason, modules="search_spaces.unet, search_spaces.vae")


def _summary(variant: Variant) -> str:
    others = (
        "VAE, text encoder, tokenizer and scheduler" if variant.vae is None else "Text encoder, tokenizer and scheduler"
    )
    vae = "" if variant.vae is None else " Its VAE is distilled from the teacher's."
    return (
        f"A U-Net for Stable Diffusion found by neural architecture search: candidate `{variant.lineage.candidate}` "
        f"of the search space `{variant.lineage.space}`, distilled from its teacher.{vae} {others} are "
        "the teacher's."
    )


def _figures(variant: Variant) -> Iterable[Sequence[str]]:
    costs, teacher, latency = variant.costs, variant.teacher_costs, variant.latency
    yield "U-Net parameters", f"{costs.num_params:,}", f"{teacher.num_params:,}" if teacher else ""
    if costs.num_macs is not None:
        macs = teacher.num_macs if teacher else None
        yield "MACs of one U-Net call", f"{costs.num_macs:,}", f"{macs:,}" if macs is not None else ""
    where = f" on {latency.device}" if latency.device else ""
    if latency.predicted_ms is not None:
        yield f"predicted latency{where}", f"{latency.predicted_ms:.2f} ms", ""
    if latency.measured_ms is not None:
        where = f" on {latency.measured_device}" if latency.measured_device else where
        of_teacher = latency.teacher_measured_ms
        yield (
            f"measured latency{where}",
            f"{latency.measured_ms:.2f} ms",
            f"{of_teacher:.2f} ms" if of_teacher is not None else "",
        )
        if of_teacher is not None:
            yield "speed-up, measured", f"{of_teacher / latency.measured_ms:.2f} x", "1 x"


def _fidelity(variant: Variant) -> Iterable[str]:
    before, after = variant.fidelity_before or {}, variant.fidelity_after or {}
    if not before and not after:
        return
    yield "## Fidelity to the teacher\n"
    yield (
        "Distances to the teacher, so lower is better (of PSNR and SSIM higher); before and after the end-to-end "
        "alignment.\n"
    )
    names = [*before, *(name for name in after if name not in before)]
    yield _table(
        ("measure", "before", "after"),
        (
            (
                name,
                _number(before, name) + _interval(variant.intervals_before, name),
                _number(after, name) + _interval(variant.intervals_after, name),
            )
            for name in names
        ),
    )
    if variant.intervals_before or variant.intervals_after:
        yield "In brackets: 95 % intervals over other noise and prompts.\n"


def _vae(variant: Variant) -> Iterable[str]:
    part = variant.vae
    if part is None:
        return
    yield "## VAE\n"
    yield "MACs are of one image of the size that the teacher was made for.\n"
    rows = [("encoder", part.encoder), ("decoder", part.decoder)]
    yield _table(
        ("", "option", "parameters", "MACs", "the teacher's parameters", "the teacher's MACs"),
        (
            (
                name,
                f"`{half.option}`",
                f"{half.costs.num_params:,}",
                f"{half.costs.num_macs or 0:,}",
                f"{half.teacher_costs.num_params:,}",
                f"{half.teacher_costs.num_macs or 0:,}",
            )
            for name, half in rows
        ),
    )
    yield (
        f"On {part.num_images} images that nothing was trained on, against the teacher's VAE: its reconstructions and "
        "its latents.\n"
    )
    yield _table(("measure", "value"), ((name, _number(part.quality, name)) for name in part.quality))


def _interval(intervals: Mapping[str, tuple[float, float]], name: str) -> str:
    return f" ({intervals[name][0]:.3g} to {intervals[name][1]:.3g})" if name in intervals else ""


def _onnx(variant: Variant) -> Iterable[str]:
    if not variant.onnx:
        return
    yield "## ONNX\n"
    yield "onnxruntime (CPU) against torch on the same inputs; errors are the worst over all inputs.\n"
    yield _table(
        ("file", "max relative error", "relative L2", "inputs", "batch", "size"),
        (
            (
                f"`{check.file}`",
                f"{check.max_relative_error:.1e}",
                f"{check.relative_l2:.1e}",
                str(check.num_inputs),
                str(check.batch_size),
                f"{check.num_bytes / 1e6:.1f} MB",
            )
            for check in variant.onnx
        ),
    )


def _lineage(variant: Variant) -> Iterable[Sequence[str]]:
    lineage = variant.lineage
    yield "teacher", f"`{lineage.teacher}` (key `{lineage.teacher_key}`)"
    yield "search space", f"`{lineage.space}`"
    yield "candidate", f"`{lineage.candidate}`"
    if variant.recipe_hash is not None:
        yield "recipe", f"`{variant.recipe_hash}`"
    for name, seed in variant.seeds.items():
        yield f"seed ({name})", str(seed)
    for name, settings in variant.settings.items():
        yield name, ", ".join(f"{key} {value:g}" for key, value in settings.items())
    yield "U-Net weights", f"`{variant.weights_key}`"
    if variant.vae is not None:
        yield "VAE weights", f"`{variant.vae.weights_key}`"
    yield "versions", ", ".join(f"{name} {version}" for name, version in variant.versions.items())


def _limits(variant: Variant) -> Iterable[str]:
    yield "## Limits\n"
    if not variant.has_attention:
        yield "- No stage has a transformer block: **this U-Net does not read the prompt.**"
    yield "- There is no safety checker."
    yield "- The teacher's licence and the teacher's biases apply.\n"


def _images(variant: Variant) -> Iterable[str]:
    if not variant.images:
        return
    yield "## Samples\n"
    yield "\n".join(f"![{_stem(name)}]({name})" for name in variant.images) + "\n"


def _stem(name: str) -> str:
    return name.rsplit("/", 1)[-1].removesuffix(".png")


def _error(value: float) -> str:
    return "nothing: the outputs are equal bit for bit" if value == 0 else f"{value:.1e} of its largest output"


def _number(values: Mapping[str, float], name: str) -> str:
    return f"{values[name]:.4g}" if name in values else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
