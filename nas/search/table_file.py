"""Tables of candidates as files: CSV or Parquet, one row an architecture, read into plain columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas.search.settings import Floats, Indices
from search_spaces.errors import UserError, shown

if TYPE_CHECKING:
    import pandas as pd

_SEPARATORS = re.compile(r"[-,;:|/_\s]+")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


def read_frame(path: Path | str, text_columns: Sequence[str]) -> pd.DataFrame:
    """A CSV or Parquet file as a frame whose `text_columns` are text, leading zeros kept.

    Raises:
        UserError: no such file, another kind of file, an unreadable or empty one, or a missing text column.
    """
    import pandas as pd
    import pyarrow

    file = Path(path)
    kind = file.suffix.lower()
    if kind not in (".csv", ".parquet"):
        raise UserError(f"table {file}: a file of kind {kind or 'without a suffix'!r}; legal are .csv and .parquet")
    try:
        frame = (
            pd.read_csv(file, dtype=dict.fromkeys(text_columns, str), encoding="utf-8-sig")
            if kind == ".csv"
            else pd.read_parquet(file)
        )
    except OSError as error:
        # pyarrow reports a broken file as an OSError without a number.
        reason = error.strerror or "it is no Parquet file"
        raise UserError(f"table {file}: {reason}; give a file that can be read") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise UserError(f"table {file}: cannot be read as {kind[1:]} ({str(error).splitlines()[0]})") from None
    for name in text_columns:
        need_column(frame, name, file)
        if frame[name].isna().any():
            row = int(np.flatnonzero(frame[name].isna())[0])
            raise UserError(f"table {file}: data row {row + 1} has no {name}; fill it in or delete the row")
        if pd.api.types.is_integer_dtype(frame[name]) and len(text_columns) == 1:
            raise UserError(
                f"table {file}: column {name} holds whole numbers, which lose leading zeros; write it as text"
            )
        frame[name] = frame[name].astype(str).str.strip()
    if frame.empty:
        raise UserError(f"table {file}: has no rows")
    return frame


def need_column(frame: pd.DataFrame, name: str, file: Path | str) -> None:
    """Raise a UserError that lists the columns unless `name` is one of them."""
    if name not in frame.columns:
        raise UserError(f"table {file}: has no column {name!r}; it has {', '.join(map(str, frame.columns))}")


def numbers(frame: pd.DataFrame, name: str, file: Path | str) -> Floats:
    """A column as floats (N,), missing values as NaN.

    Raises:
        UserError: no such column, or a value that is no number.
    """
    import pandas as pd

    need_column(frame, name, file)
    found = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(np.isnan(found) & frame[name].notna().to_numpy())
    if len(wrong):
        value = frame[name].iloc[int(wrong[0])]
        raise UserError(f"table {file}: {name} in data row {wrong[0] + 1} is {shown(str(value))}, no number")
    return found


def split_architectures(texts: Sequence[str], file: Path | str) -> tuple[tuple[str, ...], list[list[str]]]:
    """Names and values of the decisions of architecture strings.

    A string is one digit (or letter) a decision, `0120`, or numbers with something between them, `0-12-0`.

    Raises:
        UserError: strings of different numbers of decisions.
    """
    parted = any(_SEPARATORS.search(text) for text in texts)
    rows = [[part for part in _SEPARATORS.split(text) if part] if parted else list(text) for text in texts]
    lengths = {len(row) for row in rows}
    if len(lengths) > 1 or lengths == {0}:
        usual = max(lengths, key=[len(row) for row in rows].count)
        odd = next(i for i, row in enumerate(rows) if len(row) != usual or not row)
        raise UserError(
            f"table {file}: architecture {shown(texts[odd])} in data row {odd + 1} has {len(rows[odd])} decisions, "
            f"others have {usual}; every architecture is one digit a decision, or numbers separated by '-'"
        )
    width = len(str(len(rows[0]) - 1))
    return tuple(f"d{i:0{width}}" for i in range(len(rows[0]))), rows


def index_columns(rows: Sequence[Sequence[str]]) -> tuple[list[tuple[str, ...]], Indices]:
    """Values of each decision in order (numbers by size, else as text), and the rows as an index matrix (N, D)."""
    columns = [np.array(column, dtype=object) for column in zip(*rows, strict=True)]
    values: list[tuple[str, ...]] = []
    indices = np.empty((len(rows), len(columns)), dtype=np.int64)
    for number, column in enumerate(columns):
        present = sorted(set(column), key=_natural)
        position = {value: i for i, value in enumerate(present)}
        values.append(tuple(present))
        indices[:, number] = [position[value] for value in column]
    return values, indices


def _natural(text: str) -> tuple[int, float, str]:
    return (0, float(text), text) if _NUMBER.fullmatch(text) else (1, 0.0, text)
