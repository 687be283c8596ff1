from dataclasses import replace

import pytest
import torch

from nas.block_bank import BlockBank, CorruptBlockError
from nas.distill.blocks import distill_blocks, load_blocks, read_results, save_results, surrogate_blocks
from nas.distill.features import relative_loss, stage_context, teacher_targets, upsampled_size
from nas.distill.settings import DistillSettings
from search_spaces.errors import UserError
from search_spaces.space import SearchSpace
from search_spaces.space_file import load_space
from search_spaces.surgery import assemble, build_stage, teacher_candidate

SETTINGS = DistillSettings(steps=6, batch_size=4, checkpoint_every=2, learning_rate=1e-3)


class Killed(Exception):
    pass


def kill_at(step):
    def on_progress(done, total, note):
        if done == step:
            raise Killed

    return on_progress


def weights(bank):
    return {path.name: path.read_bytes() for path in bank.folder.glob("*.safetensors")}


def run(teacher, space, batches, folder, settings=SETTINGS, **kwargs):
    bank = BlockBank(folder / "bank")
    return distill_blocks(teacher, space, batches, settings, bank, folder / "work", "data", **kwargs), bank


@pytest.fixture
def finished(tmp_path, teacher, space, batches):
    results, bank = run(teacher, space, batches, tmp_path)
    batches.steps.clear()
    return results, bank


def test_the_nanosd_preset_has_31_surrogates(teacher):
    blocks = surrogate_blocks(teacher.unet, load_space("nanosd"))
    assert len(blocks) == len(set(blocks)) == 31
    assert ("D3", "RARARA") in blocks and ("D2", "RARARA") not in blocks and ("E3", "RARA") not in blocks


def test_context_matters_only_where_deep_is_always_dropped(teacher):
    nanosd, bk = load_space("nanosd"), load_space("bk-sdm")
    assert [stage_context(nanosd, stage) for stage in nanosd.stages] == ["", "", "", "", "deep=none", "", ""]
    assert not any(stage_context(bk, stage) for stage in bk.stages)
    assert ("D3", "RARARA") not in surrogate_blocks(teacher.unet, bk)
    assert ("deep", "R.RAR.RR") in surrogate_blocks(teacher.unet, bk)
    assert ("deep", "none") not in surrogate_blocks(teacher.unet, bk)


@pytest.mark.parametrize("size", [8, 10])  # 10 is halved to 5 and 3: upsamplers must be told their size
def test_targets_are_what_the_teachers_own_stages_give(teacher, batches, size):
    network = assemble(teacher.unet, teacher_candidate(teacher.unet), copy=False)
    batch, record = next(batches(0)), {}
    latents = torch.randn(4, 4, size, size)
    with torch.no_grad():
        network(latents, batch.timesteps, batch.context, record=record)
        for stage in network.stages:
            inputs, targets = teacher_targets(record, stage, "")
            own = build_stage(teacher.unet, stage, teacher_candidate(teacher.unet).options[stage])
            outputs = own(*inputs, **upsampled_size(stage, inputs[0], targets[0]))
            assert all(torch.equal(a, b) for a, b in zip(outputs, targets, strict=True))
            assert float(relative_loss(outputs, targets, [t.var() for t in targets])) == 0.0
    inputs, targets = teacher_targets(record, "D3", "deep=none")
    assert torch.equal(inputs[0], record["E3"].outputs[-1]) and torch.equal(targets[0], record["D3"].outputs[0])


def test_relative_loss_is_one_for_the_mean():
    targets = [3 * torch.randn(8, 4, 16, 16) + 2, 0.01 * torch.randn(8, 4, 8, 8)]
    means = [torch.full_like(t, float(t.mean())) for t in targets]
    assert float(relative_loss(means, targets, [t.var(correction=0) for t in targets])) == pytest.approx(1.0, rel=1e-5)


def test_blocks_learn_and_go_into_the_bank(tmp_path, teacher, space, batches):
    notes = []
    settings = SETTINGS.model_copy(update={"steps": 16})
    results, bank = run(teacher, space, batches, tmp_path, settings, on_progress=lambda *a: notes.append(a))
    assert list(results) == surrogate_blocks(teacher.unet, space) and len(results) == 6
    for result in results.values():
        assert (result.status, result.num_steps, len(result.losses)) == ("trained", 16, 16)
        assert result.last_loss < result.first_loss
        assert bank.has(result.key)
    assert [done for done, _, _ in notes] == list(range(1, 17)) and {total for _, total, _ in notes} == {16}
    assert batches.steps == list(range(16))  # one batch, one teacher pass a step for all blocks
    assert not (tmp_path / "work" / "distill.safetensors").exists()


def test_trained_like_a_plain_loop_over_one_block(tmp_path, teacher, space, batches):
    """An independent implementation: one block alone, the teacher's stage called directly."""
    results, bank = run(teacher, space, batches, tmp_path)
    network = assemble(teacher.unet, teacher_candidate(teacher.unet), copy=False)
    block = build_stage(teacher.unet, "D2", "RR").requires_grad_(True)
    optimizer = torch.optim.AdamW(block.parameters(), lr=0, weight_decay=0.0, foreach=False, fused=False)
    for step in range(6):
        batch, record = next(batches(step)), {}
        noisy = teacher.scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
        with torch.no_grad():
            network(noisy, batch.timesteps, batch.context, record=record)
        (target,) = record["D2"].outputs
        loss = (block(*record["D2"].inputs)[0] - target).pow(2).mean() / target.var()
        if step == 0:
            assert loss.item() == pytest.approx(results["D2", "RR"].first_loss, rel=1e-6)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(block.parameters(), 1.0)
        cosine = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / 6)))
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 11) * float(cosine)
        optimizer.step()
    loaded = load_blocks(teacher.unet, results, bank)["D2", "RR"]
    for ours, theirs in zip(loaded.parameters(), block.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("killed_after", [1, 3, 4])
def test_resume_is_bit_identical(tmp_path, teacher, space, batches, finished, killed_after):
    whole = weights(finished[1])
    with pytest.raises(Killed):
        run(teacher, space, batches, tmp_path / "cut", on_progress=kill_at(killed_after))
    batches.steps.clear()
    results, bank = run(teacher, space, batches, tmp_path / "cut")
    assert batches.steps == list(range(killed_after // 2 * 2, 6))  # from the last checkpoint, not from the start
    assert weights(bank) == whole
    assert results == finished[0]


def test_killed_between_two_puts_trains_nothing_again(tmp_path, teacher, space, batches, finished, monkeypatch):
    put, count = BlockBank.put, []

    def put_twice(self, *args):
        count.append(1)
        if len(count) > 2:
            raise Killed
        return put(self, *args)

    monkeypatch.setattr(BlockBank, "put", put_twice)
    with pytest.raises(Killed):
        run(teacher, space, batches, tmp_path / "cut")
    monkeypatch.undo()
    batches.steps.clear()
    results, bank = run(teacher, space, batches, tmp_path / "cut")
    assert batches.steps == [] and weights(bank) == weights(finished[1])
    assert [r.status for r in results.values()] == ["bank"] * 2 + ["trained"] * 4


def test_a_second_call_finds_everything_and_trains_nothing(tmp_path, teacher, space, batches, finished):
    results, _ = run(teacher, space, batches, tmp_path)
    assert batches.steps == [] and {result.status for result in results.values()} == {"bank"}
    assert [r.model_copy(update={"status": "trained"}) for r in results.values()] == list(finished[0].values())
    # Another recipe, teacher or data finds nothing.
    run(teacher, space, batches, tmp_path, SETTINGS.model_copy(update={"steps": 1}))
    assert batches.steps == [0]
    run(replace(teacher, key="other"), space, batches, tmp_path, SETTINGS.model_copy(update={"steps": 1}))
    assert batches.steps == [0, 0]
    # What only bounds the cost is in no key.
    run(teacher, space, batches, tmp_path, SETTINGS.model_copy(update={"checkpoint_every": 5, "max_parallel": 2}))
    assert batches.steps == [0, 0]


def test_deep_options_are_trained_and_then_d3_keeps_the_teachers_input(tmp_path, teacher, batches):
    own = teacher_candidate(teacher.unet).options
    options = {stage: (word,) for stage, word in own.items()} | {"deep": (own["deep"], "R.x.RR", "none")}
    deep = SearchSpace(name="deep", options=options)
    results, bank = run(teacher, deep, batches, tmp_path, SETTINGS.model_copy(update={"steps": 8}))
    assert list(results) == [("deep", "R.x.RR")]
    result = results["deep", "R.x.RR"]
    assert result.last_loss < result.first_loss and bank.has(result.key)


def test_slimmer_layers_learn_too(tmp_path, teacher, batches):
    words = teacher_candidate(teacher.unet).options
    options = {stage: (word,) for stage, word in words.items()}
    options |= {"E2": ("RARA", "RARA_w0.5_sep", "R_w0.5"), "deep": ("RR.RAR.RRR", "R.RAR.RR_w0.5_self")}
    space = SearchSpace(name="inner", options=options | {"D1": ("RARARA", "RARARA_h0.5_cross")})
    results, bank = run(teacher, space, batches, tmp_path, SETTINGS.model_copy(update={"steps": 20}))
    assert list(results) == [
        ("E2", "RARA_w0.5_sep"), ("E2", "R_w0.5"), ("deep", "R.RAR.RR_w0.5_self"), ("D1", "RARARA_h0.5_cross")
    ]  # fmt: skip
    for result in results.values():
        assert result.status == "trained" and result.last_loss < result.first_loss
    blocks = load_blocks(teacher.unet, results, bank)
    candidate = teacher_candidate(teacher.unet)
    for stage, option in results:
        net = assemble(teacher.unet, candidate.replace(stage, option), blocks)
        assert net.stages[stage] is blocks[stage, option]


def test_groups_of_two_give_the_same_weights(tmp_path, teacher, space, batches, finished):
    settings = SETTINGS.model_copy(update={"max_parallel": 2})
    notes = []
    _, bank = run(teacher, space, batches, tmp_path / "groups", settings, on_progress=lambda *a: notes.append(a[:2]))
    assert batches.steps == list(range(6)) * 3 and notes[-1] == (18, 18)
    assert weights(bank) == weights(finished[1])


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_a_corrupted_bank_file_is_named_and_once_deleted_trained_again_alone(
    tmp_path, teacher, space, batches, finished, damage
):
    results, bank = finished
    before, path = weights(bank), bank.weights_path(results["E3", "RA"].key)
    data = bytearray(path.read_bytes())
    data[-1] ^= 255
    path.write_bytes(bytes(data if damage == "flip" else data[:100]))
    with pytest.raises(CorruptBlockError, match="delete it"):
        load_blocks(teacher.unet, results, bank)
    with pytest.raises(CorruptBlockError, match="delete it") as caught:
        run(teacher, space, batches, tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    path.unlink()
    again, _ = run(teacher, space, batches, tmp_path)
    assert [block for block, r in again.items() if r.status == "trained"] == [("E3", "RA")]
    assert weights(bank) == before


def test_a_non_finite_block_stops_alone(tmp_path, teacher, space, batches, finished, monkeypatch):
    """One block gets weights that overflow; the five others end exactly as without it."""
    import nas.distill.trainer as trainer

    real = trainer.build_stage

    def build(unet, stage, option):
        module = real(unet, stage, option)
        if (stage, option) == ("D2", "RR"):
            with torch.no_grad():
                module.resnets[0].conv1.weight.fill_(torch.inf)
        return module

    monkeypatch.setattr(trainer, "build_stage", build)
    results, bank = run(teacher, space, batches, tmp_path / "bad")
    stopped = results["D2", "RR"]
    assert stopped.status == "stopped" and stopped.reason == "loss is nan at step 1" and stopped.last_loss is None
    assert not bank.has(stopped.key)
    assert {k: v for k, v in weights(finished[1]).items() if stopped.key not in k} == weights(bank)
    assert ("D2", "RR") not in load_blocks(teacher.unet, results, bank)
    save_results(tmp_path / "blocks.json", results)
    assert read_results(tmp_path / "blocks.json") == results
    (tmp_path / "blocks.json").write_text("[{}]")
    with pytest.raises(UserError, match="distil again"):
        read_results(tmp_path / "blocks.json")


def test_assembled_candidates_use_the_trained_blocks(teacher, space, batches, finished):
    loaded = load_blocks(teacher.unet, *finished)
    vector = [len(names) - 1 for names in space.options.values()]
    network = assemble(teacher.unet, space.decode(vector), loaded)
    assert network.stages["D2"] is loaded["D2", "RR"]
    batch = next(batches(0))
    with torch.no_grad():
        assert network(batch.latents, batch.timesteps, batch.context).sample.shape == batch.latents.shape


def test_a_damaged_checkpoint_only_costs_time(tmp_path, teacher, space, batches, finished, caplog):
    with pytest.raises(Killed):
        run(teacher, space, batches, tmp_path / "cut", on_progress=kill_at(3))
    path = tmp_path / "cut" / "work" / "distill.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    batches.steps.clear()
    _, bank = run(teacher, space, batches, tmp_path / "cut")
    assert batches.steps == list(range(6)) and "is damaged" in caplog.text
    assert weights(bank) == weights(finished[1])


def test_a_work_folder_that_cannot_be_written_is_one_line(tmp_path, teacher, space, batches):
    (tmp_path / "work").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        run(teacher, space, batches, tmp_path)
