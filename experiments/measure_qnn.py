"""`nanosd measure --runner qnn`: compiles for a Qualcomm NPU and checks numerics; there is no latency in it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.output import print_json, print_rows, say
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from latency_predictors.runners import RunnerSpec
    from nas.measure_plan import Plan

_NUM_SAMPLES = 5
_MAX_ERROR_L2 = 0.01


def compile_all(planned: Plan, spec: RunnerSpec, out: Path, *, check: bool, json: bool, seed: int) -> None:
    """Compiles each subject and prints what became of it; reports stay in `out`, and finished ones are kept."""
    from latency_predictors.qnn import read_report, write_report, write_samples
    from latency_predictors.runners.qnn import QnnRunner
    from nas.atomic import ensure_writable
    from nas.folder_lock import folder_lock
    from nas.progress import Progress

    runner = spec.make()
    assert isinstance(runner, QnnRunner)
    if (out / "measurements.jsonl").exists():
        raise UserError(f"--out {out}: holds measurements of another runner; give another folder for qnn's reports")
    ensure_writable(out)
    with folder_lock(out, f"--out {out}"):
        rng = np.random.default_rng(seed)
        reports = []
        with Progress().phase("compile", len(planned.names)) as phase:
            for name in planned.names:
                kept = out / f"{name.replace('/', '_')}.{runner.device}.{runner.precision}.json"
                report = read_report(kept)
                is_answer = report is not None and report.is_final and not (check and report.error_l2 is None)
                if report is None or not is_answer:
                    with tempfile.TemporaryDirectory(prefix="qnn-") as scratch:
                        graph, samples = Path(scratch) / "float32.onnx", Path(scratch) / "samples.safetensors"
                        given = dict(planned.graphs.write(name, graph)[0])
                        # The last one checks the numerics, so it is one that nothing was calibrated on.
                        others = [
                            {key: _another(value, rng) for key, value in given.items()} for _ in range(_NUM_SAMPLES)
                        ]
                        write_samples(samples, [given, *others])
                        report = runner.compile(
                            name, graph, samples, Path(scratch) / "context.onnx", check_numerics=check
                        )
                    write_report(report, kept)
                reports.append(report)
                phase.advance(1, **{"": f"{name} {report.status}"})
    rows = [
        {
            "subject": r.subject,
            "status": r.status,
            "nodes": r.num_nodes,
            "context_bytes": r.context_bytes,
            "error_pct": None if r.worst_error_l2 is None else 100 * r.worst_error_l2,
            "reason": r.reason,
        }
        for r in reports
    ]
    if json:
        print_json({"soc": runner.device, "precision": runner.precision, "subjects": [r.model_dump() for r in reports]})
    else:
        print_rows(rows)
    compiled = sum(r.status == "compiled" for r in reports)
    far = [r.subject for r in reports if r.worst_error_l2 is not None and r.worst_error_l2 > _MAX_ERROR_L2]
    if far:
        say(
            f"{len(far)} of those emulated are more than {100 * _MAX_ERROR_L2:g} % (relative L2) from float32: "
            f"{', '.join(far[:5])}{' ...' if len(far) > 5 else ''}; see docs/qualcomm-npu.md for small maps"
        )
    say(
        f"{compiled} of {len(reports)} compiled for {runner.device} with every node on the NPU; no latency: this "
        "machine has none of an NPU, measure on the phone"
    )


def _another(value: Any, rng: np.random.Generator) -> Any:
    return rng.standard_normal(value.shape).astype(value.dtype) if np.issubdtype(value.dtype, np.floating) else value
