"""SIGKILL of several writers of one store, and a disk that fills up under them: nothing stored is lost or repeated."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from nas.search import CandidateStore

# Three processes append, each its own candidates and some that all of them want, and note each as soon as `append` has
# said that it is stored; the parent kills all three at a random time, and starts the next three.
ROUNDS = """
import os, pathlib, random, signal, sys, time
import pyarrow.parquet
from nas.search import CandidateRecord, CandidateStore
folder, rounds, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def write(name):
    store = CandidateStore(folder + "/store", seal_records=9)
    notes = os.open(f"{folder}/{name}.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    own = dict(options={"E1": "R" * 50}, vector=(0,), outcome="done", latency_ms=1, num_params=1, metrics={"error": 1})
    for i in range(10**9):
        candidate = f"shared-{i}" if i % 3 == 0 else f"{name}-{i}"
        trial = f"{name}-{i}"
        if store.append(CandidateRecord(candidate=candidate, trial=trial, **own)):
            os.write(notes, (trial + chr(10)).encode())

def noted():
    return sum(path.read_bytes().count(b"\\n") for path in pathlib.Path(folder).glob("*.txt"))

pyarrow.set_cpu_count(1)
rng = random.Random(seed)
for number in range(rounds):
    children = []
    for writer in range(3):
        pid = os.fork()
        if pid == 0:
            write(f"{number}-{writer}")
        children.append(pid)
    goal, end = noted() + rng.randint(2, 15), time.monotonic() + 20
    while noted() < goal and time.monotonic() < end:
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.01))
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
"""


def check_rounds(folder: Path, rounds: int, seed: int) -> None:
    subprocess.run([sys.executable, "-c", ROUNDS, str(folder), str(rounds), str(seed)], check=True, timeout=300)
    store = CandidateStore(folder / "store", seal_records=9)
    records = store.records()
    noted = [line for path in folder.glob("*.txt") for line in path.read_text().splitlines()]
    trials = Counter(r.trial for r in records)
    assert len(noted) >= 2 * rounds
    assert set(noted) <= set(trials), "a stored record is lost"
    assert max(trials.values()) == 1 and max(Counter(r.candidate for r in records).values()) == 1
    # At most one record a process was stored whose process died before it could note it.
    assert len(records) - len(noted) <= 3 * rounds
    # The next writer finds everything in order and leaves nothing behind.
    assert store.append(records[0].model_copy(update={"candidate": "last", "trial": "last"}))
    left = [p.name for p in (folder / "store").iterdir() if p.suffix != ".parquet"]
    assert len([name for name in left if name.endswith(".jsonl")]) == 1
    assert CandidateStore(folder / "store").records()[:-1] == records


def test_writers_are_killed_at_random_times(tmp_path):
    check_rounds(tmp_path, rounds=3, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_writers_are_killed_many_times(tmp_path, seed):
    check_rounds(tmp_path, rounds=20, seed=seed)


# Three writers go on until the disk is full, and say how it ended.
FILL = """
import sys
from nas.search import CandidateRecord, CandidateStore
from search_spaces.errors import UserError
store = CandidateStore(sys.argv[1], seal_records=100)
own = dict(options={"E1": "R" * 400}, vector=(0,), outcome="done", latency_ms=1, num_params=1, metrics={"error": 1})
number = 0
try:
    while number < 20_000:
        batch = [CandidateRecord(candidate=f"{sys.argv[2]}-{number + i}", trial=f"{sys.argv[2]}-{number + i}", **own)
                 for i in range(20)]
        number += store.extend(batch)
except UserError as error:
    print(number, error)
"""


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("no right to mount a small file system here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_under_three_writers(small_disk):
    store, ballast = small_disk / "store", small_disk / "ballast"
    ballast.write_bytes(b"\0" * 500_000)
    command = [sys.executable, "-c", FILL, str(store)]
    writers = [subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True) for n in range(3)]
    stored = 0
    for writer in writers:
        output = writer.communicate(timeout=120)[0]
        assert "cannot write" in output and "No space left on device" in output, output
        assert writer.returncode == 0 and output.count("\n") == 1
        stored += int(output.split()[0])
    records = CandidateStore(store).records()
    assert len({r.trial for r in records}) == len(records) and len(records) >= stored > 0
    # The last batch of each writer may be there in part: whole records only.
    assert len(records) - stored <= 3 * 20
    ballast.unlink()
    more = CandidateStore(store, seal_records=100)
    assert more.append(records[0].model_copy(update={"candidate": "last", "trial": "last"}))
    assert CandidateStore(store).records()[:-1] == records
    assert [p.name for p in store.iterdir() if p.name.endswith(".tmp")] == []
    assert os.statvfs(small_disk).f_bavail > 0
