"""Options of how blocks are computed give the same within the tolerance that docs/distilling.md states."""

from __future__ import annotations

import copy

import pytest
import torch

from nas.block_bank import BlockBank
from nas.distill import trainer
from nas.distill.blocks import distill_blocks, load_blocks, select_blocks, surrogate_blocks
from nas.distill.execution import LossScale, torch_device
from nas.distill.results import little_gain
from nas.distill.settings import DistillSettings
from search_spaces.errors import UserError
from search_spaces.surgery import build_stage

SETTINGS = DistillSettings(steps=5, batch_size=4, checkpoint_every=2, learning_rate=1e-3)
BLOCKS = [("E1", "R"), ("E3", "RA"), ("D2", "RR")]


class Killed(Exception):
    pass


def run(teacher, space, batches, folder, blocks=BLOCKS, on_progress=None, settings=SETTINGS, **changes):
    bank = BlockBank(folder / "bank")
    settings = settings.model_copy(update=changes)
    results = distill_blocks(
        teacher, space, batches, settings, bank, folder / "work", "data", on_progress=on_progress, blocks=blocks
    )
    return results, load_blocks(teacher.unet, results, bank)


def values(blocks):
    return {b: torch.cat([p.flatten() for p in module.parameters()]) for b, module in blocks.items()}


def moved(teacher, blocks):
    """How far (relative L2) each block's weights went from the inherited ones, and the ways."""
    inherited = values({b: build_stage(teacher.unet, *b) for b in blocks})
    return {b: v - inherited[b] for b, v in values(blocks).items()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory, teacher, space, data):
    from tests.nas.distill.conftest import CountingBatches

    return run(teacher, space, CountingBatches(teacher, data), tmp_path_factory.mktemp("plain"))


# Of the way that the weights went, not of the weights, which hardly move in five steps.
@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({"checkpointing": True}, 0.0),
        ({"channels_last": True}, 1e-2),
        pytest.param({"compile": True}, 1e-2, marks=pytest.mark.slow),
        ({"precision": "bfloat16"}, 0.35),
        ({"precision": "float16"}, 0.1),
    ],
)
def test_an_option_gives_the_same_within_its_tolerance(tmp_path, teacher, space, batches, plain, changes, tolerance):
    # Compiling takes half a minute a block.
    chosen = BLOCKS[:1] if "compile" in changes else BLOCKS
    results, blocks = run(teacher, space, batches, tmp_path, chosen, **changes)
    assert {r.status for r in results.values()} == {"trained"}
    ways, others = moved(teacher, plain[1]), moved(teacher, blocks)
    for block in chosen:
        assert float((ways[block] - others[block]).norm() / ways[block].norm()) <= tolerance, block
        assert results[block].end_loss == pytest.approx(plain[0][block].end_loss, rel=max(tolerance / 10, 1e-12))


def test_held_out_losses_are_those_of_the_stored_weights(tmp_path, teacher, space, batches, plain):
    """A second implementation: the inherited and the stored module, called on the held-out batches."""
    from nas.distill.features import stage_context, teacher_targets
    from search_spaces.surgery import assemble, teacher_candidate

    results, blocks = plain
    network = assemble(teacher.unet, teacher_candidate(teacher.unet), copy=False)
    source = batches(trainer.HELD_OUT_STEP)
    found = {block: [0.0, 0.0] for block in BLOCKS}
    for _ in range(trainer.HELD_OUT_BATCHES):
        batch, record = next(source), {}
        noisy = teacher.scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
        with torch.no_grad():
            network(noisy, batch.timesteps, batch.context, record=record)
            for block in BLOCKS:
                inputs, targets = teacher_targets(record, block[0], stage_context(space, block[0]))
                for i, module in enumerate((build_stage(teacher.unet, *block), blocks[block])):
                    terms = [(o - t).pow(2).mean() / t.var() for o, t in zip(module(*inputs), targets, strict=True)]
                    found[block][i] += float(sum(terms) / len(terms)) / trainer.HELD_OUT_BATCHES
    for block in BLOCKS:
        assert [results[block].start_loss, results[block].end_loss] == pytest.approx(found[block], rel=1e-5)
        assert results[block].gain == pytest.approx(1 - found[block][1] / found[block][0], rel=1e-4)


def test_weights_that_got_worse_are_not_kept(tmp_path, teacher, space, batches):
    results, blocks = run(teacher, space, batches, tmp_path, [("D2", "RR")], learning_rate=0.9, clip=1e6)
    result = results["D2", "RR"]
    assert result.status == "trained" and result.kept_inherited and result.end_loss > result.start_loss
    inherited = build_stage(teacher.unet, "D2", "RR")
    assert all(torch.equal(a, b) for a, b in zip(blocks["D2", "RR"].parameters(), inherited.parameters(), strict=True))
    assert result.gain == 0.0 and little_gain(results, 0.5) == {("D2", "RR"): 0.0}


def test_little_gain_is_judged_by_held_out_losses(plain):
    results = {b: r.model_copy(update={"start_loss": 1.0, "end_loss": e}) for (b, r), e in zip(
        plain[0].items(), (0.6, 0.5, 0.1), strict=True)}  # fmt: skip
    assert little_gain(results, 0.5) == {("E1", "R"): pytest.approx(0.4)}
    exact = results["E1", "R"].model_copy(update={"start_loss": 0.0, "end_loss": 0.0})
    old = results["E1", "R"].model_copy(
        update={"start_loss": None, "end_loss": None, "first_loss": 1.0, "last_loss": 0.2}
    )
    assert exact.gain == 1.0 and old.gain == pytest.approx(0.8)


def test_averaged_weights_are_the_recursion_and_survive_a_kill(tmp_path, teacher, space, batches):
    block, steps = ("E1", "R"), 4
    path = [build_stage(teacher.unet, *block)]
    for n in range(1, steps + 1):  # the weights after n steps, of the same schedule
        seen = {}

        def stop(done, total, note, n=n):
            if done == n:
                raise Killed

        with pytest.raises(Killed):
            run(teacher, space, batches, tmp_path / f"{n}", [block], stop, steps=steps, checkpoint_every=1)
        from nas.atomic import read_tensors
        from nas.distill.trainer import BlockTrainer

        settings = SETTINGS.model_copy(update={"steps": steps, "checkpoint_every": 1})
        made = BlockTrainer(teacher, space, batches, settings, BlockBank(tmp_path), tmp_path / f"{n}" / "work", "data")
        _, seen = read_tensors(made.path, made.run_key)
        module = copy.deepcopy(path[0])
        for name, parameter in module.named_parameters():
            parameter.data.copy_(seen[f"E1/R|{name}|value"])
        path.append(module)
    expected = [p.detach().clone() for p in path[0].parameters()]
    for step in range(steps):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = [decay * a + (1 - decay) * p for a, p in zip(expected, path[step + 1].parameters(), strict=True)]

    def kill(done, total, note):
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        run(teacher, space, batches, tmp_path / "ema", [block], kill, steps=steps, ema=0.9)
    results, blocks = run(teacher, space, batches, tmp_path / "ema", [block], steps=steps, ema=0.9)
    assert not results[block].kept_inherited
    for a, b in zip(blocks[block].parameters(), expected, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-5, atol=1e-7)


def test_a_block_on_a_plateau_ends_early_and_alone(tmp_path, teacher, space, batches, monkeypatch):
    monkeypatch.setattr(trainer, "PLATEAU_GAIN", 0.9)  # nothing falls by 90 % in a step: all end at the first look
    results, _ = run(teacher, space, batches, tmp_path, plateau_steps=1)
    assert {r.num_steps for r in results.values()} == {2} and batches.steps == [0, 1]
    assert all(r.status == "trained" and r.end_loss < r.start_loss for r in results.values())
    # What is learned makes a key, how it is computed does not.
    changed = ({}, {"plateau_steps": 1}, {"precision": "bfloat16"}, {"compile": True, "device": "auto"})
    recipes = [SETTINGS.model_copy(update=update).recipe() for update in changed]
    assert len({BlockBank.key("E1", "R", "t", "d", recipe) for recipe in recipes}) == 3
    assert recipes[3] == recipes[0]


def test_loss_scale_halves_and_recovers():
    scale = LossScale.first(SETTINGS.model_copy(update={"precision": "float16"}))
    assert scale.overflowed() and scale.scale == 2.0**15
    for _ in range(2000):
        scale.succeeded()
    assert scale.scale == 2.0**16 and not LossScale.first(SETTINGS).overflowed()


def test_parts_are_named_by_patterns(teacher, space):
    every = surrogate_blocks(teacher.unet, space)
    assert select_blocks(every, "*/*") == every and select_blocks(every, "D1/R@3,E1/*") == [("E1", "R"), ("D1", "R@3")]
    assert select_blocks(every, "D?/R*") == [b for b in every if b[0][0] == "D"]
    with pytest.raises(UserError, match="--blocks: 'E1/r' names no surrogate block; legal are E1/R, "):
        select_blocks(every, "E1/R,E1/r")


def test_a_device_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match=r"distill.device: 'cuda:9' cannot"):
        torch_device("cuda:9")
    assert torch_device("cpu").type == "cpu" == torch_device("cpu").type
