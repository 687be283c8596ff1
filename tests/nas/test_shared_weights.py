"""Weights that processes share are not in any process's own memory, and are the same weights."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nas.block_bank import BlockBank
from nas.shared_weights import share_weights

ROOT = Path(__file__).parents[2]
SIZE = 40_000_000  # bytes: much more than what else a process takes meanwhile


def module():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(1000, 5000), torch.nn.Linear(5000, 1000)).requires_grad_(False)


CHILD = """
import sys, torch
from pathlib import Path
from nas.block_bank import BlockBank
from nas.shared_weights import share_weights
def own():
    found = [line.split() for line in open("/proc/self/smaps_rollup") if line.startswith("Anonymous:")]
    return int(found[0][1]) * 1024
folder = Path(sys.argv[1])
def module():
    return torch.nn.Sequential(torch.nn.Linear(1000, 5000), torch.nn.Linear(5000, 1000)).requires_grad_(False)
start = own()
copy, blocks, teacher = module(), module(), module()
three = own() - start
BlockBank(folder).get("k", blocks)
assert share_weights(teacher, folder / "shared.safetensors")
totals = [sum(float(weight.sum()) for weight in net.parameters()) for net in (blocks, teacher)]
print(three, own() - start, *totals)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's account of memory")
def test_shared_weights_are_not_in_a_process_s_own_memory(tmp_path):
    net = module()
    BlockBank(tmp_path).put("k", net, {})
    assert share_weights(net, tmp_path / "shared.safetensors")
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    three, after, *totals = (float(word) for word in child.stdout.split())
    assert three > 2.9 * SIZE and after < 1.4 * SIZE  # one of the three is left as it was
    assert totals == [sum(float(weight.sum()) for weight in net.parameters())] * 2


def test_writing_to_a_shared_weight_changes_neither_file_nor_others(tmp_path):
    first, second = module(), module()
    path = tmp_path / "shared.safetensors"
    assert share_weights(first, path) and share_weights(second, path)
    data = path.read_bytes()
    first[0].weight.zero_()
    assert path.read_bytes() == data and torch.equal(second[0].weight, module()[0].weight)
    assert not first[0].weight.requires_grad


def test_another_module_s_file_and_a_damaged_one_are_left_alone(tmp_path):
    path = tmp_path / "shared.safetensors"
    assert share_weights(torch.nn.Linear(2, 2), path)
    net = module()
    assert not share_weights(net, path) and torch.equal(net[0].weight, module()[0].weight)
    path.write_bytes(b"rubbish")
    assert not share_weights(net, path) and torch.equal(net[0].weight, module()[0].weight)
    (tmp_path / "file").touch()
    assert not share_weights(net, tmp_path / "file" / "shared.safetensors")
