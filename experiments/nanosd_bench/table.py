"""The table: read as shipped, or put together from the job's shards with costs.

One row a candidate in the order of `SearchSpace.enumerate()`. Columns: `arch` (an option number a stage, E1 to D1
without `deep`), the option of every stage, `latency_ms`, `num_params`, `num_macs`, `noise_error`, `latent_error`,
`latent_error_se` (its standard error over the samples), `single_swap_sum` (of :func:`single_swap_prior`), and
`distilled_latent_error` and `distilled_noise_error` (of the candidates that were distilled briefly, else missing).
The file's metadata say what it was made with: :func:`facts`.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from experiments.nanosd_bench.shards import NOISE, PREFIX, SAMPLES
from search_spaces.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from experiments.nanosd_bench.job import Job
    from experiments.nanosd_bench.shards import Part

Floats = npt.NDArray[np.float64]
PATH = Path(__file__).with_name("nanosd_bench.parquet")
"""The shipped table."""
STAGES = ("E1", "E2", "E3", "D3", "D2", "D1")
_METADATA = b"nanosd_bench"


def load(path: Path = PATH) -> pd.DataFrame:
    """The table as a frame.

    Raises:
        UserError: no such file, or another kind of file.
    """
    return _read(path).to_pandas()


def facts(path: Path = PATH) -> dict[str, Any]:
    """What a table was made with: recipe, number of samples, device profile, keys, versions.

    Raises:
        UserError: no such file, or another kind of file.
    """
    return dict(json.loads(_read(path).schema.metadata[_METADATA]))


def _read(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    path = Path(path)
    if not path.is_file():
        raise UserError(f"table {path}: no such file; make it with `python -m experiments.nanosd_bench combine`")
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"table {path}: is no Parquet file ({str(error).splitlines()[0]}); restore it") from None
    if _METADATA not in (table.schema.metadata or {}):
        raise UserError(f"table {path}: is not a table of NanoSD-Bench; give one that `combine` wrote")
    return table


def single_swap_prior(frame: pd.DataFrame, column: str = "latent_error") -> Floats:
    """Predicted errors (N,) of all rows from 31 of them: the least compressed candidate and every single swap of it.

    The sum of what each option adds alone, as :meth:`nas.fidelity.swap.SwapTable.prior` has it; what it is made from
    costs 31 evaluations of a network that is not trained further.
    """
    options = frame[list(STAGES)]
    base = {stage: "RARARA" if stage.startswith("D") else "RARA" for stage in STAGES}
    same = np.stack([(options[stage] == option).to_numpy() for stage, option in base.items()])
    errors = frame[column].to_numpy(dtype=np.float64)
    (start,) = np.flatnonzero(same.all(axis=0))
    total = np.full(len(frame), errors[start])
    for number, stage in enumerate(STAGES):
        alone = np.delete(same, number, axis=0).all(axis=0)
        added = {options[stage].iloc[i]: max(errors[i] - errors[start], 0.0) for i in np.flatnonzero(alone)}
        total += options[stage].map(added).to_numpy(dtype=np.float64)
    return total


def complete_parts(job: Job) -> list[Part]:
    """The leading blocks of samples that every candidate has."""
    parts = []
    for part in job.latent_parts:
        if not all(job.shards.has(part, unit) for unit in job.units):
            break
        parts.append(part)
    return parts


def combine(job: Job) -> pd.DataFrame:
    """The frame of what the job has: samples that every candidate has, and whatever was distilled so far.

    Raises:
        UserError: errors of some candidates are not there yet, or of other blocks.
    """
    import pandas as pd

    from experiments.nanosd_bench.distilled import read_distilled

    parts = complete_parts(job)
    if not parts or not all(job.shards.has(NOISE, unit) for unit in job.units):
        raise UserError(f"{job.folder}: not every candidate is evaluated yet; go on with `run {job.folder}`")
    space, run = job.run.space, job.run
    matrix = space.enumerate()
    rows = space.stage_rows(matrix)
    kept = [stage for stage in space.stages if stage in STAGES]
    columns = {stage: np.array(space.options[stage])[rows[:, space.stages.index(stage)]] for stage in kept}
    digits = rows[:, [space.stages.index(stage) for stage in kept]]
    frame = pd.DataFrame(
        {
            "arch": ["".join(map(str, row)) for row in digits],
            **{stage: pd.Categorical(columns[stage], categories=list(space.options[stage])) for stage in kept},
            "latency_ms": run.latency.latency_ms(matrix).astype(np.float32),
            "num_params": run.costs.params(matrix).astype(np.int32),
            "num_macs": run.costs.macs(matrix).astype(np.int32),
        }
    )
    noise, shares = np.full(len(frame), np.nan), np.full((len(frame), SAMPLES * len(parts)), np.nan)
    for unit in job.units:
        where = np.logical_and.reduce([columns[stage] == unit.options[stage] for stage in PREFIX])
        # Rows of a unit are in the order of the space: D2 outer, D1 inner, as the shards have them.
        noise[where] = _part(job, NOISE, unit).ravel()
        found = [_part(job, part, unit) for part in parts]
        shares[where] = np.concatenate(found, axis=2).reshape(-1, shares.shape[1])
    frame["noise_error"] = noise.astype(np.float32)
    frame["latent_error"] = shares.mean(axis=1).astype(np.float32)
    frame["latent_error_se"] = (shares.std(axis=1, ddof=1) / np.sqrt(shares.shape[1])).astype(np.float32)
    frame["single_swap_sum"] = single_swap_prior(frame).astype(np.float32)
    ids = {space.decode(row).id: number for number, row in enumerate(matrix)}
    for column in ("distilled_latent_error", "distilled_noise_error"):
        frame[column] = np.full(len(frame), np.nan, dtype=np.float32)
    for found_candidate in read_distilled(job.folder):
        row = ids[found_candidate.candidate]
        frame.loc[row, "distilled_latent_error"] = found_candidate.latent_error
        frame.loc[row, "distilled_noise_error"] = found_candidate.noise_error
    return frame


def _part(job: Job, part: Part, unit: Any) -> Floats:
    found = job.shards.read(part, unit)
    if found is None:
        path = job.shards.path(part, unit)
        raise UserError(f"{path}: is missing or of other blocks; delete it and go on with `run {job.folder}`")
    return found


def write(job: Job, path: Path) -> dict[str, Any]:
    """Combine and write the Parquet file, atomically; returns what :func:`facts` will say.

    Raises:
        UserError: as :func:`combine`, or the file cannot be written.
    """
    import io

    import pyarrow
    import pyarrow.parquet

    from nas.atomic import write_bytes

    frame = combine(job)
    recipe, judged = job.run.recipe, getattr(job.run.profile, "judgement", None)
    device = job.run.device
    said = {
        "format_version": 1,
        "space": recipe.space,
        "teacher": recipe.teacher,
        "teacher_key": job.run.teacher.key,
        "key": job.shards.key,
        "num_samples": SAMPLES * len(complete_parts(job)),
        "num_distilled": int(frame["distilled_latent_error"].notna().sum()),
        "recipe": recipe.model_dump(mode="json", include={"seed", "data", "distill", "fidelity", "finalize"}),
        "latency": {
            "device": device.title,
            "runtime": device.runtime,
            "median_error_pct": None if judged is None else judged.median_error_pct,
            "spearman": None if judged is None else judged.spearman,
        },
        "versions": {name: version(name) for name in ("torch", "diffusers", "numpy")},
    }
    table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _METADATA: json.dumps(said)})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd", compression_level=19)
    write_bytes(Path(path), buffer.getvalue())
    return said
