"""SIGKILL at random moments: the resumed run ends with the very bytes of an uninterrupted one."""

from __future__ import annotations

import os
import random
import select
import signal
import time

import pytest

from nas.block_bank import BlockBank
from nas.distill.blocks import distill_blocks
from nas.distill.settings import DistillSettings

SETTINGS = DistillSettings(steps=6, batch_size=2, checkpoint_every=1, learning_rate=1e-3, ema=0.9)
BLOCKS = [("E1", "R"), ("D1", "R@3")]


def run(teacher, space, batches, folder, on_progress=None):
    return distill_blocks(
        teacher, space, batches, SETTINGS, BlockBank(folder / "bank"), folder / "work", "data", on_progress, BLOCKS
    )


def killed(teacher, space, batches, folder, steps, delay_s):
    """Run in a child that is killed so long after so many steps; whether that was before its end."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.write(writer, b".")
            run(teacher, space, batches, folder, lambda *args: os.write(writer, b"."))
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    heard = 0
    while heard <= steps and select.select([reader], [], [], 60)[0] and os.read(reader, 1):
        heard += 1
    time.sleep(delay_s)
    os.kill(pid, signal.SIGKILL)
    os.close(reader)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed by itself"
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("num_kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_an_uninterrupted_one(tmp_path, teacher, space, batches, num_kills):
    rng = random.Random(num_kills)
    start = time.monotonic()
    run(teacher, space, batches, tmp_path / "whole")
    a_step = (time.monotonic() - start) / SETTINGS.steps
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole" / "bank").iterdir()}
    assert len(whole) == 4
    in_time = 0
    for kill in range(num_kills):
        folder = tmp_path / f"{kill}"
        in_time += killed(teacher, space, batches, folder, rng.randrange(SETTINGS.steps), rng.random() * a_step)
        run(teacher, space, batches, folder)
        found = {path.name: path.read_bytes() for path in (folder / "bank").iterdir() if path.suffix != ".tmp"}
        assert found == whole, f"kill {kill}"
    assert in_time >= num_kills // 2  # most moments are before the end
