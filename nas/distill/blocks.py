"""Feature-wise generative distillation (FwGD) of all surrogate blocks, one teacher pass a step.

Each surrogate is trained alone to map the teacher's features into the teacher's features (NanoSD,
arXiv 2601.09823): loss = mean over the stage's outputs of |student(F) - teacher(F)|^2 / Var(teacher(F)),
so 1 is what predicting the mean would cost and losses of different stages compare. The teacher runs
once a step for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from nas.atomic import ensure_writable
from nas.block_bank import BlockBank, CorruptBlockError
from nas.distill.features import stage_context
from nas.distill.results import BatchSource, Block, BlockResult, OnProgress, read_results, save_results
from nas.distill.settings import DistillSettings
from nas.distill.trainer import BlockTrainer, block_key
from search_spaces.errors import UserError
from search_spaces.options import NONE
from search_spaces.surgery import build_stage, teacher_candidate

if TYPE_CHECKING:
    from nas.teacher import Teacher
    from search_spaces.space import SearchSpace

__all__ = [
    "Block",
    "BlockResult",
    "block_key",
    "distill_blocks",
    "load_blocks",
    "missing_blocks",
    "read_results",
    "save_results",
    "select_blocks",
    "surrogate_blocks",
]


def surrogate_blocks(unet: nn.Module, space: SearchSpace) -> list[Block]:
    """The (stage, option) pairs that need training, in decision order.

    All options but the teacher's own, which copies weights exactly, and `none`, which has none. The
    teacher's word of a stage whose input changed (`stage_context`) is trained too: 31 for `nanosd`.
    """
    own = teacher_candidate(unet).options
    return [
        (stage, option)
        for stage in space.stages
        for option in space.options[stage]
        if option != NONE and (option != own[stage] or stage_context(space, stage))
    ]


def select_blocks(blocks: Sequence[Block], patterns: str) -> list[Block]:
    """The blocks that `patterns` names: `E1/RA,D2/*`, by commas; `*` and `?` stand for any text and any letter.

    Raises:
        UserError: a pattern that names none.
    """
    names = {block: f"{block[0]}/{block[1]}" for block in blocks}
    chosen: set[Block] = set()
    for pattern in (text.strip() for text in patterns.split(",")):
        # The name itself first: an option's own letters never count as wildcards, and case matters.
        found = {block for block, name in names.items() if name == pattern or fnmatchcase(name, pattern)}
        if not found:
            raise UserError(
                f"--blocks: {pattern!r} names no surrogate block; legal are {', '.join(names.values())}, "
                "and patterns such as D2/*"
            )
        chosen |= found
    return [block for block in blocks if block in chosen]


def missing_blocks(
    teacher: Teacher,
    blocks: Sequence[Block],
    space: SearchSpace,
    settings: DistillSettings,
    bank: BlockBank,
    data_key: str,
) -> tuple[dict[Block, BlockResult], list[Block]]:
    """Results of the blocks that the bank holds, each read and checked, and the blocks that it does not hold.

    Raises:
        CorruptBlockError: a damaged bank file; names the file and the mend.
    """
    results: dict[Block, BlockResult] = {}
    missing: list[Block] = []
    for block in blocks:
        found = _from_bank(teacher, bank, block, block_key(space, block, teacher.key, data_key, settings))
        if found is None:
            missing.append(block)
        else:
            results[block] = found
    return results, missing


def distill_blocks(
    teacher: Teacher,
    space: SearchSpace,
    batches: BatchSource,
    settings: DistillSettings,
    bank: BlockBank,
    work_dir: Path,
    data_key: str,
    on_progress: OnProgress | None = None,
    blocks: Sequence[Block] | None = None,
) -> dict[Block, BlockResult]:
    """Train every surrogate block of `space` that the bank does not hold, and store it there.

    Of several calls with parts of the `blocks` (None: all) each block comes out as of one call with all.

    Blocks found in the bank are not trained; a block whose file was deleted is trained again, alone.
    Killed and called again with the same arguments it goes on from `work_dir/distill.safetensors`, with
    the same result bit for bit on one thread.

    Raises:
        CorruptBlockError: a damaged bank file, before anything is trained; names the file and the mend.
        UserError: the bank or `work_dir` cannot be written.
    """
    blocks = surrogate_blocks(teacher.unet, space) if blocks is None else blocks
    results, missing = missing_blocks(teacher, blocks, space, settings, bank, data_key)
    if not missing:
        return results
    trainer = BlockTrainer(teacher, space, batches, settings, bank, Path(work_dir), data_key)
    groups = trainer.groups(missing)
    ensure_writable(bank.folder)
    ensure_writable(Path(work_dir))
    for number, group in enumerate(groups):

        def report(done: int, note: str, number: int = number) -> None:
            if on_progress is not None:
                on_progress(number * settings.steps + done, len(groups) * settings.steps, note)

        results |= trainer.train(group, report)
    return {block: results[block] for block in blocks}


def load_blocks(unet: nn.Module, results: Mapping[Block, BlockResult], bank: BlockBank) -> dict[Block, nn.Module]:
    """The trained modules of `results` (stopped blocks left out), frozen, for `assemble`.

    Raises:
        CorruptBlockError: a bank file was damaged since; the message names it and the mend.
    """
    loaded = {}
    for (stage, option), result in results.items():
        if result.status == "stopped":
            continue
        module = build_stage(unet, stage, option)
        try:
            bank.get(result.key, module)
        except KeyError:
            raise UserError(
                f"block {stage} {option} ({result.key}) is not in the bank {bank.folder}; distil again"
            ) from None
        loaded[stage, option] = module.eval().requires_grad_(False)
    return loaded


def _from_bank(teacher: Teacher, bank: BlockBank, block: Block, key: str) -> BlockResult | None:
    if not bank.has(key):
        return None
    try:
        meta = bank.get(key, build_stage(teacher.unet, *block))
        return BlockResult.model_validate({**meta, "key": key, "status": "bank"})
    except UserError:
        raise
    except ValueError:
        raise CorruptBlockError(
            f"block bank file {bank.record_path(key)} is damaged: its results cannot be read; delete it, "
            "it will be trained again"
        ) from None
