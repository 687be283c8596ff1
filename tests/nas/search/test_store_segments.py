"""A store of many records: sealed segments and the open file are one sequence, whoever reads it and whenever."""

import json
import os
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.search import CandidateRecord, CandidateStore, Rung, to_frame
from nas.search.key_index import KeyIndex
from nas.search.record import key64
from nas.search.segments import read_segment, records_to_table, table_to_records
from search_spaces.errors import UserError

numbers = st.floats(allow_nan=False, allow_infinity=False)
metrics = st.dictionaries(st.sampled_from(["latent_error", "noise_error", "psnr.db"]), numbers, max_size=3)
rungs = st.lists(st.integers(0, 2**40), unique=True, max_size=3).flatmap(
    lambda steps: st.tuples(
        *(st.builds(Rung, steps=st.just(s), metrics=metrics, seconds=numbers) for s in sorted(steps))
    )
)
any_record = st.builds(
    CandidateRecord,
    candidate=st.text(min_size=1, max_size=5),
    options=st.dictionaries(st.sampled_from(["E1", "D1", "steps"]), st.text(max_size=4), max_size=3),
    vector=st.tuples(st.integers(0, 9), st.integers(0, 200)),
    outcome=st.sampled_from(["done", "failed", "infeasible", "stopped"]),
    reason=st.none() | st.text(max_size=5),
    latency_ms=numbers,
    num_params=st.integers(0, 2**40),
    num_macs=st.none() | st.integers(0, 2**50),
    prior=st.none() | numbers,
    metrics=metrics,
    rungs=rungs,
    trial=st.text(min_size=1, max_size=5),
    reused_from=st.none() | st.text(max_size=5),
    seed=st.none() | st.integers(0, 2**31),
    recipe_hash=st.text(max_size=4),
    worker=st.text(max_size=4),
    seconds=numbers,
    finished_at=st.text(max_size=4),
)


def record(i, candidate=None, outcome="done", **more):
    return CandidateRecord(
        candidate=candidate or f"c{i}",
        options={"E1": f"o{i % 3}", "D1": "R"},
        vector=(i % 3, 0),
        outcome=outcome,
        reason=None if outcome == "done" else "why",
        latency_ms=1 + i % 7,
        num_params=100 - i % 11,
        metrics={"latent_error": 0.5 / (1 + i % 13)} if outcome == "done" else {},
        trial=f"t{i}",
        **more,
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@given(st.lists(any_record, max_size=4))
@settings(max_examples=30, deadline=None)
def test_a_table_gives_its_records_back(records):
    assert table_to_records(records_to_table(records)) == records


def test_rungs_grow():
    with pytest.raises(ValueError, match="steps of rungs must grow"):
        record(0, rungs=[Rung(steps=5, metrics={}), Rung(steps=5, metrics={})])


def test_sealing_changes_nothing_but_the_files(tmp_path):
    sealed, plain = CandidateStore(tmp_path / "sealed", seal_records=5), CandidateStore(tmp_path / "plain")
    early = CandidateStore(tmp_path / "sealed")
    written = []
    for i in range(23):
        # Every fifth fails; every other of these is tried again, in the next segment or in the same.
        outcome = "failed" if i % 5 == 0 else "done"
        written.append(record(i, f"c{i - 2}" if i % 10 == 2 else None, outcome, prior=0.25 if i > 15 else None))
        assert sealed.append(written[-1]) and plain.append(written[-1])
        if i in (3, 11):
            assert early.records() == written
    assert names(tmp_path / "sealed") == [f"candidates-{n:05d}.parquet" for n in range(4)] + ["candidates-00004.jsonl"]
    for store in (sealed, early, CandidateStore(tmp_path / "sealed")):
        assert store.records() == written and len(store) == 23
        assert store.latest() == plain.latest()
        assert (
            store.counts()
            == plain.counts()
            == {**Counter(r.outcome for r in plain.latest()), "infeasible": 0, "stopped": 0}
        )
        assert [store.find_trial(r.trial) for r in written] == written and store.find_trial("t99") is None
        for since in (0, 4, 7, 21, 23):
            rows, values = store.objectives(since=since)
            expected = [(i, r) for i, r in enumerate(written) if r.outcome == "done" and i >= since]
            assert rows.tolist() == [i for i, _ in expected]
            assert values.tolist() == [[r.metrics["latent_error"], r.latency_ms, r.num_params] for _, r in expected]
        assert store.at(np.array([1, 4, 5, 19, 22])) == [written[i] for i in (1, 4, 5, 19, 22)]
        assert to_frame(store).equals(to_frame(plain))
        assert not store.append(record(1)) and not store.append(record(99, "c1"))


def test_many_at_once_are_accepted_as_one_by_one(tmp_path):
    batch = [record(0, "a", "failed"), record(1, "a"), record(2, "a"), record(3, "b"), record(3, "c"), record(4, "d")]
    one, many = CandidateStore(tmp_path / "one"), CandidateStore(tmp_path / "many", seal_records=2)
    accepted = [one.append(r) for r in batch]
    assert accepted == [True, True, False, True, False, True]
    assert many.extend(batch) == sum(accepted) and many.extend(batch) == 0
    assert many.records() == one.records()


def test_a_store_of_an_earlier_version_opens(tmp_path):
    old = [record(i).model_dump(exclude={"rungs", "reused_from"}) for i in range(7)]
    (tmp_path / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in old))
    store = CandidateStore(tmp_path, seal_records=5)
    assert store.records() == [record(i) for i in range(7)]
    store.append(record(7))
    assert names(tmp_path) == ["candidates-00000.parquet", "candidates-00001.jsonl"]
    assert CandidateStore(tmp_path).records() == [record(i) for i in range(8)]


def test_a_crash_between_sealing_and_deleting_the_lines(tmp_path):
    store = CandidateStore(tmp_path, seal_records=5)
    for i in range(5):
        store.append(record(i))
    lines, reader = store.path.read_bytes(), CandidateStore(tmp_path)
    assert len(reader.records()) == 5
    store.append(record(5))
    # As it is when the writer dies in between: the segment is there, its lines too, nothing behind them.
    (tmp_path / "candidates.jsonl").write_bytes(lines)
    (tmp_path / "candidates-00001.jsonl").unlink()
    (tmp_path / ".candidates-00001.parquet.123.tmp").write_text("half")
    for other in (reader, CandidateStore(tmp_path)):
        assert other.records() == [record(i) for i in range(5)]
        assert not other.append(record(3)) and other.counts()["done"] == 5
    assert "candidates.jsonl" not in names(tmp_path)
    writer = CandidateStore(tmp_path, seal_records=5)
    for i in range(5, 12):
        assert writer.append(record(i))
    assert reader.records() == CandidateStore(tmp_path).records() == [record(i) for i in range(12)]
    assert names(tmp_path) == ["candidates-00000.parquet", "candidates-00001.parquet", "candidates-00002.jsonl"]


def test_a_torn_line_is_not_sealed(tmp_path):
    store = CandidateStore(tmp_path, seal_records=3)
    for i in range(3):
        store.append(record(i))
    with open(store.path, "ab") as file:
        file.write(b'{"format_version": 1, "cand')
    writer = CandidateStore(tmp_path, seal_records=3)
    assert writer.append(record(3))
    assert store.records() == [record(i) for i in range(4)]


def test_a_segment_that_cannot_be_written_costs_nothing(tmp_path):
    blocker = tmp_path / f".candidates-00000.parquet.{os.getpid()}.tmp"
    blocker.mkdir()  # where the segment would be written first
    store = CandidateStore(tmp_path, seal_records=4)
    for i in range(6):
        assert store.append(record(i))
    assert names(tmp_path) == [blocker.name, "candidates.jsonl"]
    blocker.rmdir()
    for i in range(6, 9):
        assert store.append(record(i))
    assert "candidates-00000.parquet" in names(tmp_path) and "candidates.jsonl" not in names(tmp_path)
    assert store.records() == CandidateStore(tmp_path).records() == [record(i) for i in range(9)]


def test_a_damaged_segment_is_named_and_can_be_moved_away(tmp_path):
    store = CandidateStore(tmp_path, seal_records=4)
    for i in range(10):
        store.append(record(i))
    path = tmp_path / "candidates-00000.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"candidates-00000\.parquet is damaged .*evaluated again"):
        CandidateStore(tmp_path).records()
    path.rename(tmp_path / "aside")
    fresh = CandidateStore(tmp_path, seal_records=4)
    assert fresh.records() == [record(i) for i in range(4, 10)]
    for i in range(4):
        assert fresh.append(record(i))
    assert CandidateStore(tmp_path).records() == [record(i) for i in [*range(4, 10), *range(4)]]


def test_another_parquet_file_is_no_segment(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"candidate": ["a"]}), tmp_path / "candidates-00000.parquet")
    with pytest.raises(UserError, match="is no segment of a store"):
        CandidateStore(tmp_path).records()


def test_a_file_cut_by_hand_is_read_again(tmp_path):
    store, reader = CandidateStore(tmp_path, seal_records=3), CandidateStore(tmp_path)
    for i in range(6):
        store.append(record(i))
    assert len(reader.records()) == 6
    lines = store.path.read_bytes().splitlines(keepends=True)
    store.path.write_bytes(lines[0])
    assert reader.records() == store.records() == [record(i) for i in range(4)]
    assert reader.counts() == {"done": 4, "failed": 0, "infeasible": 0, "stopped": 0}


def test_rungs_and_sources_are_columns_of_the_table(tmp_path):
    store = CandidateStore(tmp_path, seal_records=2)
    store.append(
        record(0, rungs=[Rung(steps=50, metrics={"latent_error": 0.5}), Rung(steps=100, metrics={"psnr": 9.0})])
    )
    store.append(record(1, reused_from="other"))
    store.append(record(2, rungs=[Rung(steps=50, metrics={"latent_error": 0.25, "psnr": 3.0})]))
    frame = to_frame(store)
    assert [c for c in frame if "@" in c] == ["latent_error@50", "psnr@50", "psnr@100"]
    assert frame["latent_error@50"].fillna(-1).tolist() == [0.5, -1, 0.25]
    assert frame["psnr@50"].fillna(-1).tolist() == [-1, -1, 3] and frame["psnr@100"].fillna(-1).tolist() == [9, -1, -1]
    assert frame["reused_from"].fillna("").tolist() == ["", "other", ""]


WRITER = """
import sys
from nas.search import CandidateRecord, CandidateStore
store = CandidateStore(sys.argv[1], seal_records=7)
own = dict(options={"E1": "R"}, vector=(0,), outcome="done", latency_ms=1, num_params=1, metrics={"error": 1})
for i in range(40):
    store.append(CandidateRecord(candidate=f"{sys.argv[2]}-{i}", trial=f"{sys.argv[2]}-{i}", **own))
    store.append(CandidateRecord(candidate=f"shared-{i}", trial=f"shared-{sys.argv[2]}-{i}", **own))
"""


def test_readers_see_a_growing_prefix_while_two_writers_seal(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(n)]) for n in range(2)]
    reader, seen = CandidateStore(tmp_path), []
    while any(writer.poll() is None for writer in writers):
        trials = [r.trial for r in reader.records()]
        assert trials[: len(seen)] == seen
        seen = trials
        time.sleep(0.01)
    assert [writer.returncode for writer in writers] == [0, 0]
    found = [r.candidate for r in reader.records()]
    assert len(found) == len(set(found)) == 120
    assert [r.candidate for r in CandidateStore(tmp_path).records()] == found
    assert len(names(tmp_path)) >= 120 // 7


@given(st.lists(st.lists(st.integers(0, 30), max_size=8), max_size=12), st.data())
@settings(max_examples=60)
def test_the_index_finds_the_last_row_of_each_key(batches, data):
    index, expected, row = KeyIndex(), {}, 0
    for batch in batches:
        keys = [key64(str(name)) for name in batch]
        if data.draw(st.booleans()):
            index.extend(np.array(keys, np.uint64), row)
        else:
            for place, key in enumerate(keys):
                index.add(key, row + place)
        expected |= {key: row + place for place, key in enumerate(keys)}
        row += len(batch)
        if data.draw(st.booleans()):
            assert all(index.find(key64(str(name))) == expected.get(key64(str(name))) for name in range(31))
    assert index.rows().tolist() == sorted(expected.values())


def test_segments_carry_their_format(tmp_path):
    store = CandidateStore(tmp_path, seal_records=1)
    store.append(record(0))
    store.append(record(1))
    table = read_segment(tmp_path / "candidates-00000.parquet", ["candidate_key", "metric.none"])
    assert table.column_names == ["candidate_key"] and table["candidate_key"].to_pylist() == [key64("c0")]
