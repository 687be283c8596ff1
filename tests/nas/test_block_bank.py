import subprocess
import sys

import pytest
import torch
from torch import nn

from nas.block_bank import BlockBank, CorruptBlockError
from search_spaces.errors import UserError


def block(seed=0, width=8):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(4, width, 3), nn.GroupNorm(4, width))


def test_round_trip(tmp_path):
    bank, key = BlockBank(tmp_path / "bank"), BlockBank.key("E1", "RA", "t", "d", {"steps": 3})
    assert not bank.has(key)
    with pytest.raises(KeyError):
        bank.get(key, block())
    bank.put(key, block(1), {"stage": "E1", "option": "RA"})
    assert bank.has(key)
    loaded = block(2)
    assert bank.get(key, loaded) == {"stage": "E1", "option": "RA"}
    for name, tensor in block(1).state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])
    assert sorted(path.name for path in bank.folder.iterdir()) == [f"{key}.json", f"{key}.safetensors"]


def test_key_depends_on_everything_that_decides_the_weights():
    base = {
        "stage": "D3",
        "option": "RA",
        "teacher_key": "t",
        "data_key": "d",
        "recipe": {"steps": 3, "lr": 0.1},
        "context": "",
    }
    others = {
        "stage": "D2",
        "option": "RR",
        "teacher_key": "u",
        "data_key": "e",
        "recipe": {"steps": 4, "lr": 0.1},
        "context": "deep=none",
    }
    keys = {BlockBank.key(**base)}
    for name, value in others.items():
        keys.add(BlockBank.key(**{**base, name: value}))
    assert len(keys) == 7
    assert BlockBank.key(**{**base, "recipe": {"lr": 0.1, "steps": 3}}) in keys  # order of the recipe is nothing


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "record", "foreign record"])
def test_a_damaged_file_is_named_with_its_mend(tmp_path, damage):
    bank = BlockBank(tmp_path)
    bank.put("k", block(), {})
    path = bank.record_path("k") if "record" in damage else bank.weights_path("k")
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-5] ^= 1
    path.write_bytes(
        {"truncate": bytes(data[:-7]), "empty": b"", "record": b"{", "foreign record": b"[1]"}.get(damage, bytes(data))
    )
    with pytest.raises(CorruptBlockError) as caught:
        bank.get("k", block())
    message = str(caught.value)
    assert str(path) in message and "delete it" in message and "\n" not in message


def test_weights_of_another_shape_do_not_load(tmp_path):
    bank = BlockBank(tmp_path)
    bank.put("k", block(width=8), {})
    module = block(width=12)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(CorruptBlockError, match="does not fit"):
        bank.get("k", module)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_weights_without_their_record_do_not_count(tmp_path):
    bank = BlockBank(tmp_path)
    bank.put("k", block(), {})
    bank.record_path("k").unlink()  # killed between the two files
    assert not bank.has("k")
    bank.put("k", block(5), {})
    bank.get("k", block())


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "bank", "/proc/nanosd-bank"):
        with pytest.raises(UserError, match="cannot write") as caught:
            BlockBank(folder).put("k", block(), {})
        assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(tmp_path):
    # The file-size limit gives a write that fails half way, as a full disk does, without needing one.
    code = (
        "import resource, sys, torch\n"
        "from nas.block_bank import BlockBank\n"
        "from search_spaces.errors import UserError\n"
        "bank = BlockBank(sys.argv[1])\n"
        "bank.put('small', torch.nn.Linear(2, 2), {})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))\n"
        "try:\n    bank.put('big', torch.nn.Linear(100, 100), {})\n"
        "except UserError as error:\n    print(error)\n"
        "bank.get('small', torch.nn.Linear(2, 2))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("cannot write") and len(done.stdout.splitlines()) == 1
    assert "big.safetensors" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.json", "small.safetensors"]
