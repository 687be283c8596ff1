from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from latency_predictors.importers import Facts, ImportResult, read_measurements
from search_spaces.errors import UserError


@pytest.fixture
def read(tmp_path: Path):
    def read_text(text: str, **facts: object) -> ImportResult:
        path = tmp_path / "measured.csv"
        path.write_text(text, encoding="utf-8")
        return read_measurements(path, facts=Facts(**facts))

    return read_text


@pytest.mark.parametrize(
    ("column", "cell"), [("latency_ms", "12.5"), ("latency_us", "12500"), ("latency_s", "1.25e-2")]
)
def test_the_unit_is_in_the_columns_name(read, column: str, cell: str) -> None:
    assert read(f"subject,{column}\nE1/RA,{cell}\n").measurements[0].latency_ms == pytest.approx(12.5, rel=1e-12)


@pytest.mark.parametrize(
    "column", ["latency", "ms", "latency_ns", "latency_sec", "time_ms", "inference_time", "Latency [ms]"]
)
def test_another_unit_is_refused(read, column: str) -> None:
    with pytest.raises(
        UserError, match=r"row 1: column .* is not known .*unit is part of its column's name.*latency_us"
    ):
        read(f"subject,{column}\nE1/RA,12.5\n")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("subject,device", "needed are subject and one of latency_ms, latency_us, latency_s"),
        ("device,latency_ms", "needed are subject"),
        ("subject,latency_ms,latency_us", "needed are subject and one of"),
        ("subject,latency_ms,latency_ms", "column 'latency_ms' is given twice"),
        ("subject,latency_ms,colour", "column 'colour' is not known; legal are subject, latency_ms"),
        ("subject;latency_ms", "not separated by commas"),
        ("subject\tlatency_ms", "not separated by commas"),
    ],
)
def test_a_header_that_says_too_little_or_too_much(read, header: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"row 1: .*{reason}"):
        read(f"{header}\nE1/RA,1,2,3\n")


def test_all_columns(read) -> None:
    result = read(
        "Subject, device ,runtime,precision,threads,toolchain,compute_unit,peak_memory_mib,num_samples,statistic,note,"
        "latency_ms\n"
        "E1/RA,Phone,qnn,W8A16,2,qairt 2.41,npu,1.5,7,mean,a cool day,3.5\n"
        "E1/R,,,,,,,,,,,2.5\n"
    )
    full, bare = (m.model_dump(exclude={"provenance"}, exclude_none=True) for m in result.measurements)
    assert full == {
        "subject": "E1/RA", "latency_ms": 3.5, "statistic": "mean", "num_samples": 7, "device": "Phone",
        "runtime": "qnn", "precision": "w8a16", "threads": 2, "toolchain": "qairt 2.41", "compute_unit": "NPU",
        "peak_memory_bytes": 3 << 19,
    }  # fmt: skip
    assert bare == {"subject": "E1/R", "latency_ms": 2.5}


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (",1,1,1", "subject is empty"),
        ("E1/R,1,1", "3 cells under 4 columns"),
        ("E1/R,1,1,1,1", "5 cells under 4 columns"),
        ("E1/R,1,0,1", "threads is '0'; a whole number from 1 on"),
        ("E1/R,1,1.5,1", "threads is '1.5'"),
        ("E1/R,1,1,int3", "precision is 'int3': Input should be 'float32'"),
        ('E1/R,"1,5",1,', "latency_ms is '1,5', not a number"),
        ("E1/R,12ms,1,", "latency_ms is '12ms', not a number"),
    ],
)
def test_a_bad_row_is_refused_and_the_next_one_read(read, cells: str, reason: str) -> None:
    result = read(f"subject,latency_ms,threads,precision\n{cells}\nE2/R,2.5,1,fp16\n")
    assert [m.subject for m in result.measurements] == ["E2/R"]
    (flag,) = result.flags
    assert (flag.row, flag.refused) == (2, True)
    assert reason in flag.reason


def test_rows_are_counted_in_lines_of_the_file(read) -> None:
    """Quoted cells go over lines, blank lines count: an editor's numbering is the truth."""
    text = 'subject,latency_ms,note\nE1/R,1.5,"two\nlines"\n\nE2/R,-1,\nE3/R,2,\n'
    result = read(text)
    assert text.splitlines()[4].startswith("E2/R")
    assert [flag.row for flag in result.flags] == [5]
    assert [m.provenance.row for m in result.measurements] == [2, 6]


def test_runs_are_samples_of_one_measurement(read) -> None:
    times = {"E1/R": [4.0, 2.0, 3.5, 9.0], "E2/R": [7.0, 5.0]}
    rows = [f"{name},{run},{ms}" for name, all_ms in times.items() for run, ms in enumerate(all_ms)]
    result = read("\n".join(["subject,run,latency_ms", *rows[::-1]]))
    found = {m.subject: (m.latency_ms, m.statistic, m.num_samples) for m in result.measurements}
    assert found == {name: (median(ms), "median", len(ms)) for name, ms in times.items()}


def test_a_run_in_another_unit_and_one_given_twice_are_refused(read) -> None:
    result = read("subject,run,latency_ms\nE1/R,0,4\nE1/R,1,5\nE1/R,2,4500\nE1/R,1,5\nE1/R,3,6\n")
    assert [(m.latency_ms, m.num_samples) for m in result.measurements] == [(5.0, 3)]
    assert [flag.row for flag in result.flags] == [4, 5]
    assert "its unit is in doubt" in result.flags[0].reason
    assert "run 1 of 'E1/R' is that of row 3" in result.flags[1].reason


def test_a_row_a_thousandfold_off_its_neighbours_is_refused(read) -> None:
    rows = [f"E{i}/R,{ms},Phone" for i, ms in enumerate([11.5, 12, 0.0131, 14, 9000, 13])]
    result = read("\n".join(["subject,latency_ms,device", *rows, "E1/R,12000,Watch", "E2/R,9000,Watch"]))
    assert [flag.row for flag in result.flags] == [4, 6]
    assert [m.device for m in result.measurements] == ["Phone"] * 4 + ["Watch"] * 2


def test_a_stage_option_is_no_neighbour_of_a_whole_network(read) -> None:
    rows = ["E1/R,0.01", "E2/R,0.02", "E3/R,0.015", "RARA-RA-R-none-RARARA-RR-R,25"]
    assert not read("\n".join(["subject,latency_ms", *rows])).flags


def test_duplicates_are_refused_by_row(read) -> None:
    result = read("subject,latency_ms,device\nE1/R,4,A\nE1/R,4,B\nE1/R,5,A\nE1/R,4,B\n")
    assert [(m.device, m.latency_ms) for m in result.measurements] == [("A", 4.0), ("B", 4.0)]
    assert [(flag.row, flag.reason) for flag in result.flags] == [
        (4, "repeats row 2: 'E1/R' (5 ms against 4); keep one"),
        (5, "repeats row 3: 'E1/R'; keep one"),
    ]


def test_rows_of_another_precision_are_remarked_or_refused(read) -> None:
    text = "subject,latency_ms,precision\nE1/R,4,w8a16\nE2/R,9,fp32\nE3/R,5,w8a16\nE4/R,6,\n"
    result = read(text)
    assert [(flag.row, flag.refused) for flag in result.flags] == [(3, False), (5, False)]
    assert "precision is float32, that of 2 of 4 rows" in result.flags[0].reason
    assert len(result.measurements) == 4
    asked = read(text, precision="w8a16")
    assert [(flag.row, flag.refused) for flag in asked.flags] == [(3, True)]
    assert {m.precision for m in asked.measurements} == {"w8a16"}  # row 5 left it open


@pytest.mark.parametrize(("unit", "factor"), [("ms", 1.0), ("us", 1e-3), ("s", 1e3)])
def test_an_interval_is_in_the_unit_of_its_latency(read, unit: str, factor: float) -> None:
    result = read(f"ci95_high_{unit},subject,latency_{unit},ci95_low_{unit}\n13,E1/RA,12.5,12\n,E1/R,8,\n")
    full, bare = result.measurements
    assert full.ci95_ms == pytest.approx((12 * factor, 13 * factor), rel=1e-12)
    assert full.ci95_half_width_pct == pytest.approx(4.0, rel=1e-12), "half of 13 - 12, of 12.5"
    assert (bare.ci95_ms, bare.ci95_half_width_pct) == (None, None)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ("latency_us,ci95_low_ms,ci95_high_ms", "beside latency_us: needed are ci95_low_us and ci95_high_us, or nei"),
        ("latency_ms,ci95_low_ms,ci95_high_us", "ci95_low_ms, ci95_high_us beside latency_ms: needed are ci95_low_ms"),
        ("latency_ms,ci95_low_ms", "ci95_low_ms beside latency_ms: needed are ci95_low_ms and ci95_high_ms"),
        ("latency_ms,ci95_pct", "column 'ci95_pct' is not known .*unit is part of its column's name.*ci95_low_ms"),
    ],
)
def test_an_interval_in_another_unit_than_its_latency_is_refused(read, columns: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"row 1: .*{reason}"):
        read(f"subject,{columns}\nE1/RA,12.5,12,13\n")


@pytest.mark.parametrize(
    ("low", "high", "reason"),
    [
        ("0.012", "0.013", "latency_ms is '12.5', outside of its 95 % interval '0.012' to '0.013'; check the units"),
        ("13", "12", "outside of its 95 % interval"),
        ("12", "", "ci95_high_ms is empty; give both ends"),
        ("-1", "13", "ci95_low_ms is '-1'; a latency is greater than zero"),
        ("nan", "13", "a finite number is needed"),
    ],
)
def test_an_interval_that_is_none_is_refused_by_its_row(read, low: str, high: str, reason: str) -> None:
    result = read(f"subject,latency_ms,ci95_low_ms,ci95_high_ms\nE1/RA,12.5,{low},{high}\nE1/R,8,7,9\n")
    assert [m.subject for m in result.measurements] == ["E1/R"]
    (flag,) = result.flags
    assert flag.row == 2 and reason in flag.reason


def test_runs_tell_the_interval_of_their_median(read) -> None:
    """Of ten the 2nd and the 9th: outside of them is the median of 2 (1 + 10) / 1024 of all samples, 2.1 %."""
    ten = [3.0, 1.0, 10.0, 4.0, 8.0, 6.0, 9.0, 2.0, 7.0, 5.0]
    rows = [f"E1/R,{run},{ms}" for run, ms in enumerate(ten)] + [f"E2/R,{run},{ms}" for run, ms in enumerate(ten[:5])]
    found = {m.subject: m for m in read("\n".join(["subject,run,latency_ms", *rows])).measurements}
    assert (found["E1/R"].latency_ms, found["E1/R"].ci95_ms) == (5.5, (2.0, 9.0))
    assert found["E2/R"].ci95_ms is None, "the range of five covers the median in 94 % only"
    stated = read("subject,run,latency_ms,ci95_low_ms,ci95_high_ms\nE1/R,0,4,3,5\nE1/R,1,4,,\n")
    assert [flag.row for flag in stated.flags] == [2] and "a single run has no interval" in stated.flags[0].reason
