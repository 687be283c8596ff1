"""The store survives torn writes, full disks and several writers."""

import json
import resource
import subprocess
import sys
import time

import numpy as np
import pytest

from nas.search import CandidateRecord, CandidateStore, export_tables
from search_spaces.errors import UserError


def record(name, trial=None, outcome="done", error=0.1, **more):
    return CandidateRecord(
        candidate=name,
        options={"E1": name, "D1": "R"},
        vector=(1, 0),
        outcome=outcome,
        latency_ms=1.5,
        num_params=12,
        metrics={"latent_error": error} if outcome == "done" else {},
        trial=trial or name,
        **more,
    )


def test_records_come_back_in_order_and_other_readers_see_them(tmp_path):
    writer, reader = CandidateStore(tmp_path), CandidateStore(tmp_path)
    assert reader.records() == []
    first, second = record("a"), record("b", outcome="failed", reason="latent_error is nan")
    assert writer.append(first)
    assert reader.records() == [first]
    assert writer.append(second)
    assert reader.records() == [first, second]
    assert reader.counts() == {"done": 1, "failed": 1, "infeasible": 0, "stopped": 0}
    assert reader.find_trial("b") == second and reader.find_trial("c") is None


def test_a_candidate_is_done_once_and_an_evaluation_stored_once(tmp_path):
    one, other = CandidateStore(tmp_path), CandidateStore(tmp_path)
    assert one.append(record("a", "t1", outcome="failed", reason="x"))
    assert not other.append(record("a", "t1"))
    assert other.append(record("a", "t2"))
    assert not one.append(record("a", "t3"))
    assert [r.outcome for r in one.latest()] == ["done"]
    assert one.counts() == {"done": 1, "failed": 0, "infeasible": 0, "stopped": 0}


@pytest.mark.parametrize("keep", [1, 40, -1])
def test_a_torn_last_line_is_skipped_and_repaired(tmp_path, keep):
    store = CandidateStore(tmp_path)
    store.append(record("a"))
    whole = store.path.read_bytes()
    line = (record("b").model_dump_json() + "\n").encode()
    store.path.write_bytes(whole + line[:keep])
    fresh = CandidateStore(tmp_path)
    assert [r.candidate for r in fresh.records()] == ["a"]
    fresh.append(record("c"))
    # All but the newline was there: the record is whole and kept.
    expected = ["a", "b", "c"] if keep == -1 else ["a", "c"]
    assert [r.candidate for r in CandidateStore(tmp_path).records()] == expected
    assert [r.candidate for r in store.records()] == expected


def test_a_damaged_line_is_named(tmp_path):
    store = CandidateStore(tmp_path)
    store.append(record("a"))
    data = json.loads(store.path.read_text())
    with open(store.path, "a") as file:
        file.write(json.dumps(data | {"latency_ms": None}) + "\n")
    with pytest.raises(UserError, match=r"record 2 is damaged: latency_ms.*delete that line"):
        CandidateStore(tmp_path).records()


def test_not_finite_numbers_cannot_enter():
    with pytest.raises(ValueError, match="finite"):
        record("a", error=float("nan"))


def test_a_full_disk_is_one_line_and_leaves_whole_lines(tmp_path):
    store = CandidateStore(tmp_path)
    store.append(record("a"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The next write stops after 10 bytes, as on a disk that fills up.
    resource.setrlimit(resource.RLIMIT_FSIZE, (store.path.stat().st_size + 10, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*candidates\.jsonl: No space left on device"):
            store.append(record("b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.append(record("b"))
    assert [r.candidate for r in CandidateStore(tmp_path).records()] == ["a", "b"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        CandidateStore(tmp_path / "file").append(record("a"))


WRITER = """
import sys
from nas.search import CandidateRecord, CandidateStore
store = CandidateStore(sys.argv[1])
for i in range(40):
    own = dict(options={"E1": "R"}, vector=(0,), outcome="done", latency_ms=1, num_params=1, metrics={"error": 1})
    store.append(CandidateRecord(candidate=f"{sys.argv[2]}-{i}", trial=f"{sys.argv[2]}-{i}", **own))
    store.append(CandidateRecord(candidate=f"shared-{i}", trial=f"shared-{sys.argv[2]}-{i}", **own))
"""


def test_two_processes_write_at_the_same_time(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(n)]) for n in range(2)]
    assert [w.wait(60) for w in writers] == [0, 0]
    names = [r.candidate for r in CandidateStore(tmp_path).records()]
    assert len(names) == len(set(names)) == 120


def test_tables(tmp_path):
    import pandas as pd

    store = CandidateStore(tmp_path / "store")
    store.append(record("a", error=0.2, num_macs=5, prior=0.3))
    store.append(record("b", error=0.1))
    store.append(record("c", outcome="failed", reason="latent_error is nan"))
    parquet, csv = export_tables(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["candidates.csv", "candidates.parquet", "store"]
    frame = pd.read_parquet(parquet)
    assert frame["id"].tolist() == ["a", "b", "c"] and frame["E1"].tolist() == ["a", "b", "c"]
    assert frame["on_front"].tolist() == [False, True, False]
    assert frame["latent_error"].tolist()[:2] == [0.2, 0.1] and np.isnan(frame["latent_error"][2])
    assert frame["order"].tolist() == [0, 1, 2] and frame["num_params"].tolist() == [12, 12, 12]
    assert pd.read_csv(csv)["outcome"].tolist() == ["done", "done", "failed"]


def test_an_empty_store_has_tables_too(tmp_path):
    import pandas as pd

    parquet, _ = export_tables(tmp_path)
    assert len(pd.read_parquet(parquet)) == 0


def test_many_records_are_read_quickly_and_once(tmp_path):
    store = CandidateStore(tmp_path)
    store.append(record("a"))
    line = store.path.read_text()
    with open(store.path, "a") as file:
        file.writelines(line.replace('"a"', f'"a{i}"') for i in range(20_000))
    start = time.process_time()
    assert len(CandidateStore(tmp_path).records()) == 20_001
    store.records()
    again = time.process_time()
    assert again - start < 4
    for i in range(50):
        store.append(record(f"b{i}"))
        store.counts()
    assert time.process_time() - again < 2  # not read from the start again
