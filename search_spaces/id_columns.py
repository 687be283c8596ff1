"""Ids of many candidates as Arrow columns: a million are read or written in about a second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.candidate import Candidate
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from search_spaces.space import Indices, SearchSpace

_SEPARATOR = "-"


def read_ids(text: bytes, space: SearchSpace, source: str) -> tuple[Any, Indices]:
    """Candidates of a text with one id a line; empty lines are passed over.

    Returns:
        The ids as an Arrow array of strings (N,), and the index matrix (N, decisions).

    Raises:
        UserError: naming the first line that is no candidate of the space; ``source`` says of what. As quick where that
            line is the last of millions as where there is none.
    """
    text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    try:
        text.decode()
    except UnicodeDecodeError as error:
        before = text[: text.rfind(b"\n", 0, error.start) + 1]
        _read(before, space, source)  # a line before may be wrong, too
        number = before.count(b"\n") + 1
        raise UserError(f"{source}, line {number}: not UTF-8 text; write one candidate id a line") from None
    ids, rows = _read(text, space, source)
    if not len(ids):
        raise UserError(f"{source}: no candidates in it; write one candidate id a line")
    return ids, space.from_stage_rows(rows)


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


def _read(text: bytes, space: SearchSpace, source: str) -> tuple[Any, Indices]:
    """Ids (N,) and option numbers (N, stages) of the lines that are not empty.

    All lines at once against the options of each stage. What is left over is looked at one by one: blanks of kinds that
    Arrow does not know, or the line that is wrong.
    """
    import pyarrow.compute

    lines = _lines(text)
    rows = _stage_rows(lines, space)
    is_empty = pyarrow.compute.equal(lines, "").to_numpy(zero_copy_only=False).astype(bool)
    for line in np.flatnonzero((rows[:, 0] < 0) & ~is_empty):
        name = lines[int(line)].as_py().strip()
        if not name:
            is_empty[line] = True
            continue
        try:
            index = space.encode(Candidate.from_id(name, space.stages))
        except UserError as error:
            raise UserError(f"{source}, line {line + 1}: {error}") from None
        rows[line] = space.stage_rows(index[None])[0]
    if not is_empty.any():
        return lines, rows
    kept = np.flatnonzero(~is_empty)
    return lines.take(arrow_column(kept)), rows[kept]


def _lines(text: bytes) -> Any:
    """Lines of UTF-8 text without the blanks around them, as an Arrow array of strings."""
    import pyarrow.compute

    whole = pyarrow.Array.from_buffers(
        pyarrow.large_string(),
        1,
        [None, pyarrow.py_buffer(np.array([0, len(text)], dtype=np.int64)), pyarrow.py_buffer(text)],
    )
    lines = pyarrow.compute.split_pattern(whole, "\n").flatten()
    return pyarrow.compute.utf8_trim_whitespace(lines)


def _stage_rows(lines: Any, space: SearchSpace) -> Indices:
    """Option numbers (N, stages); -1 throughout for a line that is no candidate of the space."""
    import pyarrow.compute

    num_stages = len(space.stages)
    rows = np.full((len(lines), num_stages), -1, dtype=np.int64)
    split = pyarrow.compute.split_pattern(lines, _SEPARATOR)
    lengths = pyarrow.compute.list_value_length(split).to_numpy(zero_copy_only=False)
    fitting = np.flatnonzero(lengths == num_stages)
    if len(fitting) < len(lines):
        split = split.take(arrow_column(fitting))
    words = split.flatten().dictionary_encode()
    codes = words.indices.to_numpy(zero_copy_only=False).reshape(-1, num_stages)
    found = np.empty(codes.shape, dtype=np.int64)
    texts = words.dictionary.to_pylist()
    for column, stage in enumerate(space.stages):
        numbers = {option: number for number, option in enumerate(space.options[stage])}
        number_of = np.array([numbers.get(word, -1) for word in texts], dtype=np.int64)
        found[:, column] = number_of[codes[:, column]]
    found[(found < 0).any(axis=1)] = -1
    rows[fitting] = found
    return rows
