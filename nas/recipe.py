"""The sections of a recipe: every field with its type, default, limits and description; read by `nas.config`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nas.errors import UserError
from nas.fidelity.settings import FEATURES_PATTERN
from search_spaces.vae_option import parse_vae_option


class Section(BaseModel):
    """Base of every part of a recipe: frozen, no unknown keys, no silent conversion, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Data(Section):
    """Which images the blocks are distilled on."""

    source: Literal["photos", "folder", "shards", "teacher"] = Field(
        "photos",
        description="`photos`: crops of the photographs inside the scikit-image and scikit-learn wheels; "
        "`folder`: your own images; `shards`: webdataset tars; `teacher`: no images, latents that the teacher samples",
    )
    folder: str | None = Field(
        None, description="with `source: folder`: the folder of images, each with a caption in a .txt of the same name"
    )
    shards: str | None = Field(
        None, description="with `source: shards`: a folder of .tar files, a pattern, or `data/{000..127}.tar`"
    )
    prompts: str | None = Field(
        None, description="with `source: teacher`: a text file, one prompt a line; null: the empty prompt"
    )
    ddim_steps: int = Field(20, ge=1, le=1000, description="with `source: teacher`: DDIM steps a sample")
    guidance: float = Field(
        2.0, ge=1, le=50, description="with `source: teacher`: guidance scale, where it has prompts"
    )
    num_images: int = Field(512, ge=1, le=1_000_000, description="how many images (crops) are encoded to latents")

    @model_validator(mode="after")
    def _places_go_with_source(self) -> "Data":
        for source, key, what, needed in (
            ("folder", "folder", "the folder of images", True),
            ("shards", "shards", "the .tar files", True),
            ("teacher", "prompts", "a file of prompts", False),
        ):
            value = getattr(self, key)
            if needed and self.source == source and not value:
                raise ValueError(f"data.{key}: null with data.source: {source}; give {what}")
            if value and self.source != source:
                raise ValueError(
                    f"data.{key}: {value!r} is not used with data.source: {self.source}; set data.source: {source}"
                )
        return self


class Calibration(Section):
    """How the latency of each stage option is measured on this machine, or which profile gives it."""

    profile: str | None = Field(
        None,
        description="a device profile (JSON) made before by `nanosd calibrate`, or a shipped NPU profile by name such "
        "as `sm8750-w8a16`; null measures on this machine",
    )
    threads: int = Field(1, ge=1, le=1024, description="onnxruntime threads")
    precision: Literal["float32", "w8a8", "w8a16"] = Field(
        "float32", description="what graphs are quantised to before they are measured"
    )
    warm_up: int = Field(3, ge=1, le=10_000, description="runs of each graph that are not counted")
    min_repeats: int = Field(20, ge=3, le=100_000, description="least counted runs of each graph")
    max_seconds: float = Field(40.0, gt=0, le=86_400, description="time for all measurements of options, about")
    num_fit: int = Field(
        8, ge=3, le=1000, description="whole U-Nets that fit scale and intercept of the sum of options"
    )
    num_check: int = Field(10, ge=1, le=1000, description="unseen whole U-Nets that check the predictions")


class Distill(Section):
    """Feature-wise distillation of all surrogate blocks, with one teacher pass a step."""

    steps: int = Field(250, ge=1, le=10_000_000, description="optimizer steps")
    batch_size: int = Field(32, ge=1, le=65_536, description="latents a step")
    learning_rate: float = Field(4e-3, gt=0, le=1, description="peak learning rate of AdamW, cosine to zero")
    weight_decay: float = Field(0.0, ge=0, le=1, description="weight decay of AdamW")
    clip: float = Field(1.0, gt=0, le=1e6, description="largest gradient norm, for each block by itself")
    checkpoint_every: int = Field(50, ge=1, le=10_000_000, description="steps between checkpoints")
    max_parallel: int | None = Field(
        None,
        ge=1,
        description="blocks in memory at once, 16 bytes a parameter each; null: all. It changes cost, not results",
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of forward and backward passes; weights, moments and losses are float32 in each"
    )
    ema: float | None = Field(
        None, gt=0, lt=1, description="decay of an average of the weights that is kept in their place; null: none"
    )
    plateau_steps: int | None = Field(
        None,
        ge=1,
        description="a block ends early when its loss over so many steps is not 1 % below that of as many before; "
        "null: never",
    )
    min_gain: float = Field(
        0.5, ge=0, le=1, description="options whose loss on held-out batches falls by less than this share are named"
    )
    device: str = Field(
        "cpu", min_length=1, description="where blocks train: `cpu`, `cuda`, `cuda:1`, or `auto`: a GPU if there is one"
    )
    channels_last: bool = Field(False, description="convolutions' weights in that layout; results differ by rounding")
    compile: bool = Field(False, description="blocks through torch.compile; results differ by rounding")
    checkpointing: bool = Field(
        False, description="activations inside a block are computed again for its gradient: less memory, more time"
    )
    workers: int = Field(
        1, ge=1, le=10_000, description="processes that share the blocks out, each with a teacher pass of its own"
    )
    cpus_per_worker: float = Field(1.0, gt=0, le=1024, description="processors of each, with more than one")
    gpus_per_worker: float = Field(0.0, ge=0, le=1024, description="GPUs of each, with more than one")


class Fidelity(Section):
    """How close a candidate is to its teacher: errors on the same noise and the same prompts."""

    num_samples: int = Field(128, ge=2, le=1_000_000, description="latents sampled by teacher and candidate")
    num_noise_samples: int = Field(128, ge=2, le=1_000_000, description="noised latents for the noise-prediction error")
    ddim_steps: int = Field(10, ge=1, le=1000, description="DDIM steps a sample")
    batch_size: int = Field(64, ge=1, le=65_536, description="latents in one pass; guidance doubles it")
    guidance: float = Field(2.0, ge=1, le=50, description="classifier-free guidance scale; 1 is none")
    features: str = Field(
        "latents",
        pattern=FEATURES_PATTERN,
        description="what taFID looks at: `latents`, `vae-encoder` or `unet-encoder` of the teacher, `inception:FILE` "
        "(FID's Inception weights) or `clip:FOLDER` (a CLIP image encoder); see [fidelity](fidelity.md)",
    )


class Search(Section):
    """The sweep: Ray Tune workers, Optuna's proposals, objectives fidelity, latency and parameters."""

    num_candidates: int = Field(48, ge=1, le=10_000_000, description="candidates to evaluate")
    workers: int = Field(
        2, ge=1, le=10_000, description="worker processes; with `cpus_per_trial: 1` at most one a processor"
    )
    cpus_per_trial: float = Field(
        1.0, gt=0, le=1024, description="processors of a worker, a thread on each; fractions share one"
    )
    gpus_per_trial: float = Field(0.0, ge=0, le=1024, description="GPUs of a worker; 0.25: four workers share one")
    trial_timeout_s: float | None = Field(
        None,
        gt=0,
        le=31_536_000,
        description="longest evaluation in seconds: its worker is ended, it is tried once more, then it has failed; "
        "null: 20 times the median of those finished, at least a minute (a day until three have finished)",
    )
    worker_memory_gb: float | None = Field(
        None,
        gt=0,
        le=1_000_000,
        description="most memory of a worker in GB, beyond which it is ended as at `trial_timeout_s`; null: 90 % of "
        "the machine's, in equal shares",
    )
    sampler: Literal["random", "nsga2", "tpe", "gp", "qlognehvi", "ehvi"] = Field(
        "ehvi", description="who proposes the next candidate (docs/search.md); `qlognehvi` needs the extra `botorch`"
    )
    distill_steps: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="steps of distillation, with batch size and learning rate of `finalize`, before a candidate is "
        "compared with the teacher; 0: as it is assembled (docs/fidelity.md says what that is worth)",
    )
    early_stopping: Literal["none", "dominance", "moasha"] = Field(
        "none",
        description="what ends an evaluation early: `dominance`: it is not expected to reach the front any more; "
        "`moasha`: it is not among the best at a rung",
    )
    stopping_risk: float = Field(
        0.05,
        gt=0,
        le=0.5,
        description="of `dominance`: probability with which a candidate of the front may be stopped",
    )
    stopping_after: int = Field(
        8, ge=3, le=10_000_000, description="of `dominance`: evaluations to the end before the first is stopped"
    )
    reduction_factor: float = Field(
        3.0, gt=1, le=1000, description="of `moasha`: one candidate in so many goes on at each rung"
    )
    max_failures: int = Field(10, ge=0, le=10_000_000, description="failed candidates after which the sweep stops")


class Picks(Section):
    """Budgets: candidates beyond them are never evaluated, and the most faithful within them is a further pick."""

    max_latency_ms: float | None = Field(None, gt=0, description="largest predicted U-Net latency in milliseconds")
    max_params: int | None = Field(None, gt=0, description="largest number of U-Net parameters")
    max_error: float = Field(
        0.5,
        gt=0,
        le=100,
        description="fastest, smallest and prime are taken among candidates with at most this latent error",
    )


class Finalize(Section):
    """End-to-end alignment of each pick with its teacher."""

    steps: int = Field(
        100, ge=0, le=10_000_000, description="optimizer steps; 0 leaves the assembled blocks as they are"
    )
    batch_size: int = Field(32, ge=1, le=65_536, description="latents a step")
    learning_rate: float = Field(3e-4, gt=0, le=1, description="peak learning rate; 1e-3 harms picks near the teacher")


class Vae(Section):
    """Students of the teacher's VAE, distilled by `nanosd finalize`; the search is not concerned."""

    encoder: str | None = Field(
        None,
        description="the encoder's option, `width x depth` a level such as `64x2.64x5.64x5.64x5`; null: the teacher's",
    )
    decoder: str | None = Field(None, description="the decoder's, as for the encoder")
    steps: int = Field(1000, ge=1, le=10_000_000, description="optimizer steps")
    batch_size: int = Field(16, ge=1, le=65_536, description="images a step")
    learning_rate: float = Field(2e-3, gt=0, le=1, description="peak learning rate of AdamW, cosine to zero")
    perceptual_weight: float = Field(
        0.25, ge=0, le=1000, description="weight of the distance in the teacher's VAE encoder, beside the decoder's L1"
    )
    num_images: int = Field(
        1024, ge=2, le=1_000_000, description="images of the recipe's data, at most 64 of them held out for measuring"
    )
    checkpoint_every: int = Field(50, ge=1, le=10_000_000, description="steps between checkpoints")

    @model_validator(mode="after")
    def _options(self) -> "Vae":
        for name in ("encoder", "decoder"):
            if (option := getattr(self, name)) is not None:
                try:
                    parse_vae_option(f"vae.{name}", option)
                except UserError as error:
                    raise ValueError(str(error)) from None
        return self


class Export(Section):
    """What is written for each pick."""

    formats: tuple[Literal["diffusers", "onnx"], ...] = Field(
        ("diffusers", "onnx"), min_length=1, description="`diffusers`: a pipeline folder; `onnx`: the U-Net's graph"
    )


class Recipe(Section):
    """A run's whole configuration.

    The defaults are a run on the bundled toy teacher that two CPU cores finish in minutes.
    """

    name: str = Field(
        "nanosd",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=100,
        description="the run's folder is `runs/<name>`",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="every random choice of the run comes from it")
    teacher: str = Field(
        "toy", min_length=1, description="a bundled name, a Stable-Diffusion-format diffusers folder, or a hub id"
    )
    space: str = Field("nanosd", min_length=1, description="a search-space preset by name, or the path of a YAML file")
    data: Data = Field(Data(), description="Which images the blocks are distilled on.")
    calibration: Calibration = Field(Calibration(), description="How the latency of each stage option is measured.")
    distill: Distill = Field(
        Distill(), description="Training of the surrogate blocks, all with one teacher pass a step."
    )
    fidelity: Fidelity = Field(Fidelity(), description="How a candidate's distance to the teacher is measured.")
    search: Search = Field(Search(), description="The sweep over candidates.")
    picks: Picks = Field(
        Picks(), description="Budgets of the search, with one more pick beside fastest, smallest and prime."
    )
    finalize: Finalize = Field(Finalize(), description="Alignment of each pick with the teacher, end to end.")
    vae: Vae = Field(Vae(), description="Students of the teacher's VAE, for `nanosd finalize`.")
    export: Export = Field(Export(), description="What is written for each pick.")
    reuse: tuple[str, ...] = Field(
        (),
        description="folders of runs whose trained blocks and evaluated candidates are taken over where they match",
    )
