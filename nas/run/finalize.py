"""`nanosd finalize`: a candidate of a run with a VAE of its own, aligned as a whole with the teacher and exported.

Everything goes on from what an earlier call made: images and moments, VAE students (checkpoints, then the block bank),
the alignment (a checkpoint in a folder named by all that decides it).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.export.variant import check_variant_place, content_key
from nas.fidelity.errors import FidelityError
from nas.overwriting import run_around
from nas.progress import Progress
from nas.run.context import RunContext
from nas.run.finalize_facts import Scores, vae_part
from nas.run.finish import Finished, card, variant_names
from nas.run.phases import step_counter
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.places import check_folder
from search_spaces.vae_option import TEACHER, VAE_DECODER, VAE_ENCODER, parse_vae_option

if TYPE_CHECKING:
    from nas.data.image_data import ImageData
    from nas.distill.results import Block
    from nas.distill.settings import AlignSettings, VaeSettings
    from nas.export.variant import Variant
    from search_spaces.unet import StagedUNet
    from search_spaces.vae import StagedVAE

FOLDER = "finalized"


@dataclass(frozen=True)
class Wanted:
    """What to finalize; None is what the run's recipe says, and `prime` of its picks.

    `encoder` and `decoder` are options of the VAE, or `teacher`.
    """

    pick: str | None = None
    candidate: str | None = None
    encoder: str | None = None
    decoder: str | None = None
    vae_steps: int | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Finalized:
    """What `finalize` made. `aligned` is false where the alignment did not help, and the weights before it are kept."""

    folder: Path
    variant: Variant
    aligned: bool


def finalize(run_dir: Path | str, wanted: Wanted, out: Path | None, progress: Progress) -> Finalized:
    """Distil the VAE's halves, align, compare before and after, and write a variant.

    Args:
        out: folder of the variant; None: `finalized/<pick or candidate>` in the run, with a suffix for its VAE.

    Raises:
        UserError: no such pick or candidate, an option that the teacher's VAE cannot have, a folder that cannot be
            written, or another process on the run.
    """
    return finalize_run(RunContext.open(run_dir), wanted, out, progress)


def finalize_run(run: RunContext, wanted: Wanted, out: Path | None, progress: Progress) -> Finalized:
    """:func:`finalize` of a run that is open already."""
    name, text = _chosen(run, wanted)
    if out is not None:
        _check_out(run, out)
    with progress.phase("load", 1) as phase:
        candidate = Candidate.from_id(text, run.space.stages)
        run.space.encode(candidate)
        _ = run.latency  # the card needs it: a run that is not calibrated is told now
        blocks = _vae_blocks(run, wanted)
        job = _Job(run, candidate, blocks, _vae_settings(run, wanted), _align_settings(run, wanted))
        phase.advance()
    with run.directory.lock():
        run.directory.check_writable()
        unet_before = job.assembled()
        data = _images(run, progress) if blocks else None
        vae = job.vae(data, progress) if data is not None else None
        suffix = "" if vae is None else f"-vae-{content_key(job.vae_keys)[:8]}"
        folder = out or run.directory.path / FOLDER / f"{name}{suffix}"
        check_variant_place(folder)
        aligned = job.aligned(unet_before, vae, data, progress)
        return job.exported(name, folder, unet_before, aligned, vae, data, progress)


class _Job:
    """One candidate with one choice of VAE and settings."""

    def __init__(
        self, run: RunContext, candidate: Candidate, blocks: list[Block], vae: VaeSettings, align: AlignSettings
    ) -> None:
        self.run, self.candidate, self.blocks = run, candidate, blocks
        self.vae_settings, self.align_settings = vae, align
        self.work = run.directory.work / "finalize"
        self.vae_keys: dict[str, str] = {}

    def assembled(self) -> StagedUNet:
        """The candidate's U-Net of the bank's blocks."""
        from nas.distill.results import read_results
        from search_spaces.surgery import assemble

        blocks = self.run.blocks
        for result in read_results(self.run.directory.blocks).values():
            if result.reason and self.candidate.options.get(result.stage) == result.option:
                raise UserError(
                    f"candidate {self.candidate.id}: block {result.stage} {result.option} was not trained "
                    f"({result.reason}); give another candidate"
                )
        return assemble(self.run.teacher.unet, self.candidate, blocks)

    def vae(self, data: ImageData, progress: Progress) -> StagedVAE:
        """The student VAE, distilled or read back from the bank."""
        from nas.distill.vae import distill_vae, load_vae_stages, student_vae

        settings, run = self.vae_settings, self.run
        with progress.phase("vae", settings.steps) as phase:
            results = distill_vae(run.teacher, self.blocks, data, settings, run.bank, self.work, step_counter(phase))
            phase.skip(settings.steps - phase.done)
        self.vae_keys = {stage: result.key for (stage, _), result in results.items()}
        return student_vae(run.teacher, load_vae_stages(run.teacher, results, run.bank))

    def aligned(
        self, unet: StagedUNet, vae: StagedVAE | None, data: ImageData | None, progress: Progress
    ) -> StagedUNet:
        """The aligned U-Net; behind the teacher's own encoder the alignment is that of the run's picks."""
        from nas.distill.align import align
        from nas.distill.align_whole import align_whole

        run, settings = self.run, self.align_settings
        encoder = self.vae_keys.get(VAE_ENCODER)
        work = self.work / content_key(self.candidate.id, encoder, settings.recipe())
        with progress.phase("finalize", settings.steps) as phase:
            report = step_counter(phase)
            if encoder is None:
                batches = run.batches(settings.batch_size)
                found = align(run.teacher, unet, batches, settings, work, run.dataset.key, report).student
            else:
                assert vae is not None and data is not None
                found = align_whole(run.teacher, unet, vae, data, settings, work, report).student
            phase.skip(settings.steps - phase.done)
        return found

    def exported(
        self,
        name: str,
        folder: Path,
        before: StagedUNet,
        after: StagedUNet,
        vae: StagedVAE | None,
        data: ImageData | None,
        progress: Progress,
    ) -> Finalized:
        """Compare both with the teacher, keep the better one, picture and write it."""
        from nas.export.diffusers import export_diffusers
        from nas.export.side_by_side import picture_reconstructions, picture_samples
        from nas.run.finish import prompts

        run = self.run
        with progress.phase("check", 2) as phase:
            try:
                scores = [Scores(run, before, vae, data)]
            except FidelityError as error:
                raise UserError(f"candidate {self.candidate.id}: {error}; give another candidate") from None
            phase.advance()
            try:
                scores.append(Scores(run, after, vae, data))
            except FidelityError:  # the alignment diverged: the U-Net from before it is kept
                scores.append(scores[0])
            phase.advance()
        is_better = scores[1].decisive < scores[0].decisive
        if not is_better:
            scores[1], after = scores[0], before
        part = None if vae is None or data is None else vae_part(run, vae, data, self.vae_keys)
        described = card(run, name, Finished(after, scores[0].fidelity, scores[1].fidelity, is_better)).model_copy(
            update={
                "fidelity_before": scores[0].values,
                "fidelity_after": scores[1].values,
                "intervals_before": scores[0].intervals,
                "intervals_after": scores[1].intervals,
                "vae": part,
                "settings": self._settings(),
            }
        )
        with progress.phase("export", 2) as phase:
            images = {
                "teacher-before-after": picture_samples(
                    run.teacher,
                    {"before": before, "after": after},
                    vae,
                    prompts(run),
                    self.work,
                    run.recipe.fidelity,
                )
            }
            if vae is not None and data is not None:
                images["image-teacher-student"] = picture_reconstructions(run.teacher.vae, vae, data, self.work)
            phase.advance()
            onnx = "onnx" in run.recipe.export.formats
            variant = export_diffusers(
                run.teacher,
                after,
                folder,
                described,
                onnx=onnx,
                vae_onnx=onnx and vae is not None,
                images=images,
                vae=vae,
            )
            phase.advance()
        return Finalized(folder, variant, is_better)

    def _settings(self) -> dict[str, dict[str, Any]]:
        settings: dict[str, dict[str, Any]] = {"alignment": self.align_settings.recipe()}
        return settings | ({"VAE distillation": self.vae_settings.recipe()} if self.blocks else {})


def _chosen(run: RunContext, wanted: Wanted) -> tuple[str, str]:
    """Name of the variant, and the candidate's id."""
    from nas.picks import load_picks

    if wanted.pick is not None and wanted.candidate is not None:
        raise UserError("--pick and --candidate: give one of them")
    if wanted.candidate is not None:
        return wanted.candidate, wanted.candidate
    if not run.directory.picks.is_file():
        raise UserError(
            f"run {run.directory.path} has no picks yet; finish it with `nanosd resume {run.directory.path}`, or give "
            "--candidate"
        )
    picks = load_picks(run.directory.picks)
    name = wanted.pick or "prime"
    variants = variant_names(picks)
    if name not in picks and name not in variants:
        raise UserError(f"--pick {name}: no such pick in {run.directory.path}; legal are {', '.join(picks)}")
    return name, picks[name].candidate if name in picks else variants[name]


def _check_out(run: RunContext, out: Path) -> None:
    check_variant_place(out)
    check_folder(out, "--out")
    around = run_around(out)
    if around is not None and not out.resolve().is_relative_to((around / FOLDER).resolve()):
        raise UserError(
            f"--out {out}: is in the folder of run {around}, which has it for its own files; give one outside, or "
            f"below {run.directory.path / FOLDER}"
        )


def _vae_blocks(run: RunContext, wanted: Wanted) -> list[Block]:
    """The VAE's halves that are to be distilled; checked against the teacher's VAE."""
    from search_spaces.vae import check_vae_supported, num_vae_levels

    recipe = run.recipe.vae
    blocks = []
    for stage, flag, given, default in (
        (VAE_ENCODER, "encoder", wanted.encoder, recipe.encoder),
        (VAE_DECODER, "decoder", wanted.decoder, recipe.decoder),
    ):
        where = f"--vae-{flag}" if given is not None else f"vae.{flag}"
        option = default if given is None else given
        if option is not None and option != TEACHER:
            check_vae_supported(run.teacher.vae)
            blocks.append((stage, parse_vae_option(where, option, num_vae_levels(run.teacher.vae)).text))
    return blocks


def _vae_settings(run: RunContext, wanted: Wanted) -> VaeSettings:
    from nas.distill.settings import VaeSettings

    fields = run.recipe.vae.model_dump(exclude={"encoder", "decoder", "num_images"})
    fields |= {} if wanted.vae_steps is None else {"steps": wanted.vae_steps}
    return VaeSettings(seed=run.recipe.seed, device=run.recipe.distill.device, **fields)


def _align_settings(run: RunContext, wanted: Wanted) -> AlignSettings:
    settings = run.align_settings
    return settings if wanted.steps is None else settings.model_copy(update={"steps": wanted.steps})


def _images(run: RunContext, progress: Progress) -> ImageData:
    from nas.run.dataset import cached_pixels

    num = run.recipe.vae.num_images
    with progress.phase("images", num) as phase:
        return cached_pixels(
            run.teacher, run.recipe, run.directory.work, lambda done: phase.advance(max(done - phase.done, 0))
        )
