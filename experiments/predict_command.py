"""`nanosd predict`: latency of candidates, one or millions, from a profile.

A device profile needs neither torch nor a teacher here, so that a million candidates take seconds, start included.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.output import print_json, print_mapping, print_rows, say
from nas.overwriting import refuse_overwriting, refuse_run_files
from search_spaces.errors import UserError
from search_spaces.places import check_file

if TYPE_CHECKING:
    from latency_predictors.latency_table import LatencyTable
    from search_spaces.space import Indices, SearchSpace

#: A terminal has no use for more; a file has.
_MOST_PRINTED = 1000
_SUFFIXES = (".parquet", ".csv")


def predict(
    profile: Annotated[str, typer.Argument(help="Profile: JSON file, or a name such as sm8750-w8a16.")],
    candidates: Annotated[
        list[str] | None, typer.Argument(metavar="[CANDIDATE]...", help="Candidate ids; - reads them, one a line.")
    ] = None,
    from_file: Annotated[Path | None, typer.Option(help="Text file with one candidate id a line.")] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, max=20_000_000, help="So many random candidates; they may repeat.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of --sample.")] = 0,
    all_: Annotated[bool, typer.Option("--all", help="Every candidate of the space.")] = False,
    space: Annotated[
        str | None,
        typer.Option(help="Search-space preset or YAML file that the candidates are of; default: the profile's."),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="For an NPU profile: whose shapes; bundled name, folder, hub id or sd15.")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write .parquet or .csv.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
) -> None:
    """Predict the latency of candidates, with a 90 % interval and whether the profile extrapolates."""
    ways = {"CANDIDATE": bool(candidates), "--from-file": from_file is not None, "--sample": sample is not None}
    given = [name for name, is_given in {**ways, "--all": all_}.items() if is_given]
    if len(given) != 1:
        said = " and ".join(given) or "no candidates"
        raise UserError(
            f"{said} given; give candidate ids such as RARA-RA-R-none-RARARA-RR-R@3, or one of --from-file FILE, "
            "--sample NUMBER, --all"
        )
    if out is not None and out.suffix not in _SUFFIXES:
        raise UserError(f"--out {out}: legal are names that end in {' or '.join(_SUFFIXES)}")
    if out is not None:
        refuse_overwriting(out, [("--from-file", from_file), ("PROFILE", profile)])
        refuse_run_files(out)
        check_file(out, "--out")
    table = _table(profile, space, teacher)
    ids, matrix = _candidates(table.space, candidates or [], from_file, sample, seed)
    if out is None and len(matrix) > _MOST_PRINTED and not json:
        raise UserError(f"{len(matrix):,} candidates are too many to print; give --out FILE.parquet or FILE.csv")
    facts: dict[str, Any] = {"out": out, "num_candidates": len(matrix)}
    if sample is not None:
        facts["num_distinct"] = _num_distinct(table.space, matrix)
        _say_repeats(table.space, sample, facts["num_distinct"])
    found = _frame(table, ids, matrix)
    if out is None:
        rows = found.to_pylist()
        print_json(rows) if json else print_rows(rows)
        return
    _write(found, out)
    print_json(facts) if json else print_mapping(facts)


def _table(name: str, space_name: str | None, teacher: str | None) -> "LatencyTable":
    """The profile for the space that is asked for."""
    from latency_predictors.profile import DeviceProfile
    from latency_predictors.profile_file import load_profile

    profile = load_profile(name)
    if isinstance(profile, DeviceProfile):
        if teacher is not None:
            raise UserError(f"--teacher {teacher}: {name} is a device profile and knows its networks; leave it out")
        space = profile.own_space if space_name is None else _load_space(space_name)
        return profile.tabulate(None, space, profile.latent_size, profile.num_tokens)
    if teacher is None:
        raise UserError(f"{name} is an NPU profile and needs a teacher's shapes; add --teacher FOLDER (or toy, sd15)")
    from nas.quiet import quiet

    quiet()
    from nas.latency import latency_table

    return latency_table(profile, _load_space(space_name or "nanosd"), teacher)


def _load_space(name: str) -> "SearchSpace":
    from search_spaces.space_file import load_space

    return load_space(name)


def _candidates(
    space: "SearchSpace", given: Sequence[str], from_file: Path | None, sample: int | None, seed: int
) -> tuple[Any, "Indices"]:
    """Ids (an Arrow column, None: not written yet) and index matrix of what is asked for."""
    import numpy as np

    from search_spaces.candidate import Candidate
    from search_spaces.id_columns import read_ids

    if from_file is not None:
        try:
            text = from_file.read_bytes()
        except OSError as error:
            raise UserError(f"--from-file {from_file}: {error.strerror}; give a text file") from None
        return read_ids(text, space, str(from_file))
    if list(given) == ["-"]:
        return read_ids(_standard_input(), space, "standard input")
    if "-" in given:
        raise UserError("- reads the candidates from standard input; give it alone, or candidate ids alone")
    if given:
        import pyarrow

        return pyarrow.array(list(given)), np.array(
            [space.encode(Candidate.from_id(text, space.stages)) for text in given]
        )
    matrix = space.enumerate() if sample is None else space.sample(np.random.default_rng(seed), sample)
    return None, matrix


def _frame(table: "LatencyTable", ids: Any, matrix: "Indices") -> Any:
    """The Arrow table of predictions."""
    import pyarrow

    from search_spaces.id_columns import arrow_column, id_column

    found = table.predict(matrix)
    return pyarrow.table(
        {
            "candidate": id_column(table.space, matrix) if ids is None else ids,
            "latency_ms": arrow_column(found.latency_ms),
            "low_ms": arrow_column(found.low_ms),
            "high_ms": arrow_column(found.high_ms),
            "extrapolates": arrow_column(found.extrapolates),
        }
    )


def _write(found: Any, out: Path) -> None:
    """The whole file or none."""
    from pyarrow import csv, parquet

    from search_spaces.atomic import replacing

    with replacing(out) as temporary:
        (csv.write_csv if out.suffix == ".csv" else parquet.write_table)(found, temporary)


def _standard_input() -> bytes:
    closed = "candidate -: standard input is closed; pipe ids into it, or give --from-file FILE"
    if sys.stdin is None:  # as Python has it where the descriptor is closed
        raise UserError(closed)
    try:
        return sys.stdin.buffer.read()
    except (OSError, ValueError):  # open for writing only, or closed since
        raise UserError(closed) from None


def _num_distinct(space: "SearchSpace", matrix: "Indices") -> int:
    import numpy as np

    return len(np.unique(space.rank(matrix)))


def _say_repeats(space: "SearchSpace", num: int, num_distinct: int) -> None:
    if num_distinct < num:
        most = (
            f"; --all gives each of the {space.num_candidates:,} once"
            if num_distinct * 2 > space.num_candidates
            else ""
        )
        say(f"--sample {num}: drawn with replacement, {num_distinct:,} of the {num:,} candidates are distinct{most}")
