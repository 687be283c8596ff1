"""Ids of many candidates as Arrow columns: a million are read or written in about a second."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.candidate import Candidate
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from search_spaces.space import Indices, SearchSpace

_SEPARATOR = "-"
# One that no text has: a line is one value.
_NO_DELIMITER = "\x1f"


def read_ids(text: bytes, space: SearchSpace, source: str) -> tuple[Any, Indices]:
    """Candidates of a text with one id a line; empty lines are passed over.

    Returns:
        The ids as an Arrow array of strings (N,), and the index matrix (N, decisions).

    Raises:
        UserError: naming the first line that is no candidate of the space; ``source`` says of what.
    """
    lines = _lines(text)
    if lines is not None:
        rows = _stage_rows(lines, space)
        if rows is not None:
            return lines, space.from_stage_rows(rows)
    return _read_one_by_one(text, space, source)


def id_column(space: SearchSpace, matrix: Indices) -> Any:
    """Ids (N,) of an index matrix (N, decisions), as an Arrow array of strings."""
    import pyarrow.compute

    rows = space.stage_rows(matrix)
    names = [_text_column(space.options[stage]) for stage in space.stages]
    columns = [options.take(arrow_column(rows[:, column])) for column, options in enumerate(names)]
    return pyarrow.compute.binary_join_element_wise(*columns, _SEPARATOR)


def arrow_column(values: NDArray[Any]) -> Any:
    """A numpy array (N,) of float64, int64 or bool as an Arrow array.

    Not by ``pyarrow.array``, which imports pandas to look whether it was given something of its: half a second.
    """
    import pyarrow

    is_bool = values.dtype == bool
    data = np.packbits(values, bitorder="little") if is_bool else np.ascontiguousarray(values)
    kind = pyarrow.bool_() if is_bool else {"f": pyarrow.float64(), "i": pyarrow.int64()}[values.dtype.kind]
    assert is_bool or data.itemsize == 8
    return pyarrow.Array.from_buffers(kind, len(values), [None, pyarrow.py_buffer(data)])


def _text_column(texts: Sequence[str]) -> Any:
    """Strings as an Arrow array, without pandas."""
    import pyarrow

    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    buffers = [None, pyarrow.py_buffer(offsets), pyarrow.py_buffer(b"".join(encoded))]
    return pyarrow.Array.from_buffers(pyarrow.string(), len(encoded), buffers)


def _lines(text: bytes) -> Any | None:
    """Lines that are not empty; None for text that is none."""
    import pyarrow
    from pyarrow import csv

    if not text.strip():
        return None
    try:
        table = csv.read_csv(
            BytesIO(text),
            read_options=csv.ReadOptions(column_names=["candidate"]),
            parse_options=csv.ParseOptions(delimiter=_NO_DELIMITER, quote_char=False),
            convert_options=csv.ConvertOptions(column_types={"candidate": pyarrow.string()}, strings_can_be_null=False),
        )
    except pyarrow.ArrowInvalid:
        return None
    return table["candidate"].combine_chunks()


def _stage_rows(lines: Any, space: SearchSpace) -> Indices | None:
    """Option numbers (N, stages); None unless every line is a candidate of the space, written without blanks."""
    import pyarrow
    import pyarrow.compute

    split = pyarrow.compute.split_pattern(lines, _SEPARATOR)
    num_stages = len(space.stages)
    if not pyarrow.compute.all(pyarrow.compute.equal(pyarrow.compute.list_value_length(split), num_stages)).as_py():
        return None
    words = split.flatten().dictionary_encode()
    codes = words.indices.to_numpy(zero_copy_only=False).reshape(-1, num_stages)
    rows = np.empty(codes.shape, dtype=np.int64)
    for column, stage in enumerate(space.stages):
        numbers = {option: number for number, option in enumerate(space.options[stage])}
        number_of = np.array([numbers.get(word, -1) for word in words.dictionary.to_pylist()], dtype=np.int64)
        rows[:, column] = number_of[codes[:, column]]
    return None if (rows < 0).any() else rows


def _read_one_by_one(text: bytes, space: SearchSpace, source: str) -> tuple[Any, Indices]:
    import pyarrow

    ids, rows = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            name = line.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise UserError(f"{source}, line {number}: not UTF-8 text; write one candidate id a line") from None
        if not name:
            continue
        try:
            rows.append(space.encode(Candidate.from_id(name, space.stages)))
        except UserError as error:
            raise UserError(f"{source}, line {number}: {error}") from None
        ids.append(name)
    if not ids:
        raise UserError(f"{source}: no candidates in it; write one candidate id a line")
    return pyarrow.array(ids), np.array(rows)
