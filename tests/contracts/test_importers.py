"""What every importer must do. A new importer is added to SAMPLES and passes, or it is no importer."""

from __future__ import annotations

import hashlib
import json
import math
import re
import string
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latency_predictors.importers import IMPORTERS, Facts, Importer, ImportResult, read_measurements
from latency_predictors.importers.base import MAX_BYTES, load
from search_spaces.errors import UserError
from tests.latency_predictors.importers.samples import SAMPLES, Sample

PLACE = re.compile(r"row [1-9]\d*|\$[.\w\[\]]*")
FUZZ = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=SAMPLES)
def format(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def sample(format: str) -> Sample:
    return SAMPLES[format]


def read_or_refuse(path: Path, format: str) -> ImportResult | None:
    """The result; None after a UserError. Every complaint names a place, in one printable line."""
    try:
        result = read_measurements(path, format)
    except UserError as error:
        complaints = [str(error)]
        result = None
    else:
        complaints = [str(flag) for flag in result.flags]
        num_lines = path.read_text(encoding="utf-8").count("\n") + 1  # of all kinds
        for flag in result.flags:
            assert flag.row in range(1, num_lines + 1) if isinstance(flag.row, int) else flag.row.startswith("$")
        assert result.measurements
        for m in result.measurements:
            assert math.isfinite(m.latency_ms) and m.latency_ms > 0
        for operator in result.operators:
            assert math.isfinite(operator.latency_ms) and operator.latency_ms >= 0
    for complaint in complaints:
        assert PLACE.search(complaint), complaint
        assert complaint.isprintable() and len(complaint) < 800, complaint
    return result


def test_every_importer_has_a_sample() -> None:
    assert set(SAMPLES) == set(IMPORTERS)


def test_is_an_importer(format: str) -> None:
    assert isinstance(IMPORTERS[format], Importer)
    assert IMPORTERS[format].format == format


def test_only_its_importer_recognises_a_file(format: str, sample: Sample, tmp_path: Path) -> None:
    source = load(sample.write(tmp_path))
    assert [name for name, importer in IMPORTERS.items() if importer.recognises(source)] == [format]


def test_reads_its_sample(format: str, sample: Sample, tmp_path: Path) -> None:
    path = sample.write(tmp_path)
    result = read_measurements(path)
    assert not result.flags
    assert len(result.measurements) == sample.num_measurements
    first = result.measurements[0]
    assert first.latency_ms == pytest.approx(sample.latency_ms, rel=1e-12)
    assert (result.source, result.format) == (sample.file, format)
    assert result.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert first.provenance.model_dump() == {
        "file": sample.file, "sha256": result.sha256, "format": format, "row": sample.row,
    }  # fmt: skip
    assert read_measurements(path, format) == result


def test_measurements_survive_json(sample: Sample, tmp_path: Path) -> None:
    for m in read_measurements(sample.write(tmp_path)).measurements:
        assert type(m).model_validate_json(m.model_dump_json()) == m


@given(latency=st.integers(min_value=2_000, max_value=60_000))
@FUZZ
def test_units_are_converted_once(latency: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A literal k times as large is a latency k times as large, of every format."""
    folder = tmp_path_factory.mktemp("units")
    for format, sample in SAMPLES.items():
        factor = latency / 12_500
        literal = repr(float(sample.literal) * factor)
        path = sample.write(folder, sample.with_latency(literal))
        result = read_measurements(path, format)
        assert result.measurements[0].latency_ms == pytest.approx(sample.latency_ms * factor, rel=1e-9)


def test_facts_fill_in_what_the_file_leaves_open(sample: Sample, tmp_path: Path) -> None:
    path = sample.write(tmp_path)
    facts = Facts(device="Another", toolchain="sdk 1.2")
    if sample.states_device:
        with pytest.raises(UserError, match=r"row \d+: device is '.*', wanted is 'Another'"):
            read_measurements(path, facts=facts)
    else:
        for m in read_measurements(path, facts=facts).measurements:
            assert (m.device, m.toolchain) == ("Another", "sdk 1.2")
        assert read_measurements(path).measurements[0].device is None


@pytest.mark.parametrize(
    "literal", ["-12500", "0", "-0.0", "NaN", "Infinity", "1e999", "1e-300", "1e15", "abc", "", "true", "1_000", "٣"]
)
def test_a_latency_that_is_none_is_refused_by_its_row(
    format: str, sample: Sample, literal: str, tmp_path: Path
) -> None:
    result = read_or_refuse(sample.write(tmp_path, sample.with_latency(literal)), format)
    if result is None:
        return
    assert any(flag.refused and flag.row == sample.row for flag in result.flags)
    assert all(m.provenance.row != sample.row for m in result.measurements)


@pytest.mark.parametrize("format", [name for name, sample in SAMPLES.items() if sample.num_measurements == 1])
def test_the_error_of_a_file_with_nothing_left_names_the_row(format: str, tmp_path: Path) -> None:
    sample = SAMPLES[format]
    with pytest.raises(UserError, match=rf"{re.escape(str(sample.row))}: .*greater than zero"):
        read_measurements(sample.write(tmp_path, sample.with_latency("-1")), format)


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends_and_byte_order_mark_do_not_matter(sample: Sample, end: str, tmp_path: Path) -> None:
    plain = read_measurements(sample.write(tmp_path))
    other = read_measurements(sample.write(tmp_path, "\ufeff" + sample.text.replace("\n", end)))
    for one, two in zip(plain.measurements, other.measurements, strict=True):
        assert one.model_copy(update={"provenance": None}) == two.model_copy(update={"provenance": None})
        assert one.provenance.row == two.provenance.row
    assert plain.operators == other.operators


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_byte_that_is_no_text_is_found_by_its_row(end: bytes, tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(end.join([b"\xef\xbb\xbfsubject,latency_ms", b"E1/R,1", b"E2/R\xff,2"]))
    with pytest.raises(UserError, match="row 3: not UTF-8"):
        read_measurements(path)


@pytest.mark.parametrize(
    "unit", ["9", "a", "count=1 ", "footprint (MB): ", "Graph: [", "Inference timings in us: Init: ", '"', "1,"]
)  # fmt: skip
def test_no_text_takes_long(format: str, sample: Sample, unit: str, tmp_path: Path) -> None:
    """Patterns that backtrack, loops in loops: each of these would take minutes."""
    begin = time.perf_counter()
    part = unit * (200_000 // len(unit)) + "x"
    read_or_refuse(sample.write(tmp_path, sample.with_latency(part)), format)
    read_or_refuse(sample.write(tmp_path, sample.text.replace("unet", part).replace("E1", part)), format)
    assert time.perf_counter() - begin < 5.0


@pytest.mark.parametrize(
    "data", [b"", b"\n\n", b" ", b"\xff\xfe\x00", b"a\0b", b"{}", b"[]", b"null", b"a,b\n1,2\n", b"- x"]
)
def test_a_file_of_something_else_is_refused(format: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    assert read_or_refuse(path, format) is None
    with pytest.raises(UserError, match="row 1"):
        read_measurements(path)


def test_a_folder_and_a_missing_file_are_refused(format: str, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match="there is no such file"):
            read_measurements(path, format)


def test_a_file_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.csv"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(UserError, match=r"large\.csv: larger than 128 MiB"):
        read_measurements(path)


# fmt: off
NASTY = st.sampled_from([
    "-1", "0", "nan", "1e999", "1e-999", "9" * 5000, ",", "\n", "\r", "\t", '"', "'", "[", "]", "{", "}", ":", "- ",
    "#", "*a", "&a ", "!!python/object:os.system ", "%", "|", "? ", "\x0c", "\x1b[2J", "\u2028", "\ufeff", "é",
    "STARTING!",
])
# fmt: on
# A small alphabet: hypothesis builds its table of all characters for seconds.
TEXT = st.text(string.printable + "éß\u00a0\u2028\ufeff\U0001f600", max_size=8)
EDIT = st.tuples(st.floats(0, 1), st.integers(0, 40), NASTY | TEXT)


@given(edits=st.lists(EDIT, min_size=1, max_size=4))
@FUZZ
def test_damaged_text_never_crashes(format: str, sample: Sample, edits: list[Any], tmp_path: Path) -> None:
    text = sample.text
    for place, length, new in edits:
        at = int(place * len(text))
        text = text[:at] + new + text[at + length :]
    read_or_refuse(sample.write(tmp_path, text), format)


@given(data=st.binary(max_size=200))
@FUZZ
def test_random_bytes_never_crash(format: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    read_or_refuse(path, format)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(path for key, child in children for path in paths(child, (*here, key)))]


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    value[path[0]] = put(value[path[0]], path[1:], new)
    return value


@given(data=st.data())
@FUZZ
def test_a_value_of_another_type_never_crashes(
    format: str, sample: Sample, data: st.DataObject, tmp_path: Path
) -> None:
    """Any part of a document, or any cell of a table, replaced by anything."""
    if sample.file.endswith((".json", ".yaml")):
        loads, dumps = (json.loads, json.dumps) if ".json" in sample.file else (yaml.safe_load, yaml.safe_dump)
        document = loads(sample.text)
        path = data.draw(st.sampled_from(paths(document)))
        text = dumps(put(document, path, data.draw(JSON)))
    else:
        words = re.split(r"([,\s=:\[\]]+)", sample.text)
        index = data.draw(st.integers(0, len(words) - 1))
        words[index] = data.draw(TEXT | NASTY)
        text = "".join(words)
    read_or_refuse(sample.write(tmp_path, text), format)
