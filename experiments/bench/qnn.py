"""Compile every stage option of a search space for a Qualcomm NPU, on this machine.

    python -m experiments.bench.qnn [--json] [--stages E1,D1] [--options R,RA] [--soc SM8750] [--check E1/R,E1/RA]

By default the options of `nanosd` in SD 1.5's shapes with random weights; `--teacher` takes a teacher's own. Each
step (export, quantise, compile, emulate) runs in a process of its own. Finished options are kept in `--out` and not
done again. There is no latency in what is printed: a PC has none of an NPU.

Exit code 0: every option compiled, or is one the NPU cannot take (with the reason), and none that was emulated is more
than 1 % (relative L2) from float32; 1: an option's compilation broke, or its numerics are off; 2: something given
cannot be used.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from latency_predictors import isolated
from latency_predictors.qnn import (
    CompileReport,
    CompileSettings,
    QuantizationSettings,
    Steps,
    compile_subject,
    find_soc,
    read_report,
    toolchain,
    write_report,
)
from latency_predictors.qnn.steps import remove_compiled
from search_spaces.errors import UserError
from search_spaces.options import DEEP, NONE

OUT = Path("runs/qnn")
RANDOM = "random weights, SD 1.5 shapes"
#: Emulated by default: R and A at 64x64, 32x32 and 16x16, encoder and decoder. Others take minutes each.
CHECKED = ("E1/R", "E1/RA", "E2/RA", "E3/RA", "D3/R")
MAX_ERROR_L2 = 0.01
_SUBJECTS = "experiments.bench.qnn_subjects"


def subjects(space_name: str, stages: Sequence[str] | None, options: Sequence[str] | None) -> Iterator[tuple[str, str]]:
    """The (stage, option) pairs of a space that are asked for; a dropped path has nothing to compile.

    Raises:
        UserError: a stage or an option that the space does not have.
    """
    from search_spaces.space_file import load_space

    space = load_space(space_name)
    unet_stages = {stage: names for stage, names in space.options.items() if stage[0] in "ED" or stage == DEEP}
    for stage in stages or ():
        if stage not in unet_stages:
            raise UserError(f"stage {stage!r} is not in {space_name!r}; legal are {', '.join(unet_stages)}")
    known = dict.fromkeys(name for names in unet_stages.values() for name in names)
    for option in options or ():
        if option not in known:
            raise UserError(f"option {option!r} is not in {space_name!r}; legal are {', '.join(known)}")
    for stage, names in unet_stages.items():
        for option in names:
            if (not stages or stage in stages) and (not options or option in options) and option != NONE:
                yield stage, option


class Bench:
    """Compiles options one after another; keeps a report of each in `out`."""

    def __init__(
        self, out: Path, space: str, teacher: str | None, settings: CompileSettings, *, seed: int, keep: bool
    ) -> None:
        self._out, self._space, self._teacher, self._settings = out, space, teacher, settings
        self._seed, self._keep = seed, keep
        self._inputs = out / "inputs"
        conditions = {"space": space, "weights": teacher or RANDOM, "seed": seed, "soc": settings.soc}
        path = out / "conditions.json"
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            changed = sorted(key for key in conditions if found.get(key) != conditions[key])
            if changed:
                key = changed[0]
                raise UserError(
                    f"{path}: {key} is {found.get(key)!r}, this run's is {conditions[key]!r}; give another --out"
                )
        else:
            out.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps(conditions, indent=1) + "\n", encoding="utf-8")
            temporary.replace(path)

    def report_path(self, stage: str, option: str) -> Path:
        """Where an option's report lies."""
        return self._out / f"{stage}_{option}.json"

    def finished(self, stage: str, option: str, *, check: bool, retry: bool) -> CompileReport | None:
        """The kept report, if it answers what is asked now."""
        report = read_report(self.report_path(stage, option))
        if report is None or report.toolchain != toolchain():
            return None
        if (report.quantization, report.optimization) != (self._settings.quantization, self._settings.optimization):
            return None
        if (not report.is_final and retry) or (check and report.status == "compiled" and report.error_l2 is None):
            return None
        return report

    def compile(self, stage: str, option: str, *, check: bool) -> CompileReport:
        """Compiles one option and keeps its report."""
        context = self._out / f"{stage}_{option}.onnx"
        steps = Steps(f"{stage}/{option}", self._settings)
        with tempfile.TemporaryDirectory(prefix="qnn-") as scratch:
            graph = Path(scratch) / "float32.onnx"
            if self._teacher is None:
                samples = Path(scratch) / "samples.safetensors"
                steps.run(
                    "export",
                    f"{_SUBJECTS}:export_random",
                    space=self._space,
                    stage=stage,
                    option=option,
                    seed=self._seed,
                    graph=str(graph),
                    samples=str(samples),
                )
            else:
                samples = self._record(stage)
                steps.run(
                    "export",
                    f"{_SUBJECTS}:export_teachers",
                    teacher=self._teacher,
                    stage=stage,
                    option=option,
                    samples=str(samples),
                    graph=str(graph),
                )
            report = compile_subject(steps, graph, samples, context, self._settings, check_numerics=check)
        if not self._keep:
            remove_compiled(context)
        write_report(report, self.report_path(stage, option))
        return report

    def _record(self, stage: str) -> Path:
        """The teacher's inputs of a stage, recorded once for all."""
        path = self._inputs / f"{stage}.safetensors"
        if not path.exists():
            outcome = isolated.call(
                f"{_SUBJECTS}:record",
                {"teacher": self._teacher, "space": self._space, "folder": str(self._inputs), "seed": self._seed},
                timeout_s=self._settings.timeout_s,
                memory_limit_bytes=self._settings.memory_limit_bytes,
            )
            if outcome.status != "ok":
                raise UserError(f"teacher {self._teacher}: its inputs cannot be recorded: {outcome.reason}")
        return path


def figures(reports: Sequence[CompileReport], settings: CompileSettings, weights: str) -> dict[str, Any]:
    """All that was found, JSON-ready."""
    errors = [report.worst_error_l2 for report in reports if report.worst_error_l2 is not None]
    return {
        "soc": settings.soc,
        "precision": settings.quantization.precision,
        "optimization": settings.optimization,
        "weights": weights,
        "toolchain": toolchain().model_dump(),
        "num_options": len(reports),
        "num_compiled": sum(r.status == "compiled" for r in reports),
        "num_refused": sum(r.status == "refused" for r in reports),
        "num_broken": sum(not r.is_final for r in reports),
        "num_inaccurate": sum(error > MAX_ERROR_L2 for error in errors),
        "num_emulated": len(errors),
        "worst_error_l2": max(errors, default=None),
        "peak_bytes": max((r.peak_bytes for r in reports), default=0),
        "options": [
            {
                "subject": r.subject,
                "status": r.status,
                "step": r.step,
                "reason": r.reason,
                "num_nodes": r.num_nodes,
                "context_bytes": r.context_bytes,
                "seconds": dict(r.seconds),
                "peak_bytes": r.peak_bytes,
                "error_l2": r.error_l2,
            }
            for r in reports
        ],
    }


def render(found: dict[str, Any]) -> str:
    """The figures as text for a terminal."""
    tools = found["toolchain"]
    lines = [
        f"{found['soc']}, {found['precision']}, {found['weights']}; onnxruntime-qnn {tools['onnxruntime_qnn']} "
        f"(QAIRT {tools['qairt']}), onnxruntime {tools['onnxruntime']}",
        f"{'option':<12}{'outcome':<11}{'nodes':>6}{'context MB':>12}{'compile s':>11}{'peak GiB':>10}{'error %':>9}",
    ]
    for row in found["options"]:
        size = row["context_bytes"]
        error = max(row["error_l2"].values()) if row["error_l2"] else None
        lines.append(
            f"{row['subject']:<12}{row['status']:<11}{row['num_nodes'] or '':>6}"
            f"{'' if size is None else f'{size / 1e6:.1f}':>12}{row['seconds'].get('compile', ''):>11}"
            f"{row['peak_bytes'] / 2**30:>10.1f}{'' if error is None else f'{100 * error:.2f}':>9}"
        )
        if row["reason"]:
            lines.append(f"  {row['step']}: {row['reason']}")
    lines.append(
        f"{found['num_compiled']} of {found['num_options']} options compiled with every node on the NPU, "
        f"{found['num_refused']} the NPU cannot take, {found['num_broken']} broke"
    )
    if found["num_emulated"]:
        lines.append(
            f"{found['num_emulated']} emulated, {found['num_inaccurate']} of them more than {100 * MAX_ERROR_L2:g} % "
            "from float32"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.qnn",
        description="Compile every stage option of a search space for a Qualcomm NPU, on this machine.",
    )
    parser.add_argument("--space", default="nanosd", help="preset or YAML file (default: %(default)s)")
    parser.add_argument("--stages", type=_listed, help="stages, comma between (default: all)")
    parser.add_argument("--options", type=_listed, help="options, comma between (default: all)")
    parser.add_argument("--soc", default="SM8750", help="system on chip (default: %(default)s)")
    parser.add_argument("--precision", choices=("w8a16", "w8a8"), default="w8a16", help="default: %(default)s")
    parser.add_argument("--per-channel", action="store_true", help="a scale per output channel of convolution weights")
    parser.add_argument(
        "--optimization",
        type=int,
        choices=(0, 1, 2, 3),
        default=0,
        help="effort of the compiler (default: %(default)s)",
    )
    parser.add_argument("--teacher", help="bundled name or folder with weights (default: random, SD 1.5's shapes)")
    parser.add_argument(
        "--check", type=_listed, default=CHECKED, help="subjects to emulate, or none (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the reports (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="keep compiled graphs and binaries in --out")
    parser.add_argument("--retry", action="store_true", help="try again what crashed, failed or timed out")
    parser.add_argument("--timeout-s", type=float, default=1800.0, help="of one step (default: %(default)s)")
    parser.add_argument("--memory-gib", type=float, default=8.0, help="of one step (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and inputs (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(argv)
    try:
        reports, settings = _run(given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = figures(reports, settings, given.teacher or RANDOM)
    print(json.dumps(found, indent=2, allow_nan=False) if given.json else render(found))
    return 1 if found["num_broken"] or found["num_inaccurate"] else 0


def _run(given: argparse.Namespace) -> tuple[list[CompileReport], CompileSettings]:
    if given.timeout_s <= 0 or given.memory_gib <= 0:
        raise UserError("--timeout-s and --memory-gib must be above 0")
    find_soc(given.soc)
    toolchain()
    settings = CompileSettings(
        soc=given.soc,
        quantization=QuantizationSettings(precision=given.precision, per_channel=given.per_channel),
        optimization=given.optimization,
        timeout_s=given.timeout_s,
        memory_limit_bytes=int(given.memory_gib * 2**30),
    )
    todo = list(subjects(given.space, given.stages, given.options))
    if not todo:
        raise UserError("no option is in both --stages and --options; leave one of them out")
    checked = () if tuple(given.check) == (NONE,) else tuple(given.check)
    known = {f"{stage}/{option}" for stage, option in subjects(given.space, None, None)}
    for subject in checked:
        if subject not in known and tuple(given.check) != CHECKED:
            raise UserError(f"--check {subject!r} is no subject of {given.space!r}; write it as E1/RA")
    bench = Bench(given.out, given.space, given.teacher, settings, seed=given.seed, keep=given.keep)
    reports, spent = [], []
    for number, (stage, option) in enumerate(todo, start=1):
        check = f"{stage}/{option}" in checked
        report = bench.finished(stage, option, check=check, retry=given.retry)
        if report is None:
            begin = time.perf_counter()
            report = bench.compile(stage, option, check=check)
            spent.append(time.perf_counter() - begin)
            left = (len(todo) - number) * sum(spent) / len(spent)
            print(
                f"{number}/{len(todo)} {report.subject}: {report.status} in {spent[-1]:.0f} s"
                f"{f' ({report.reason})' if report.reason else ''}; about {left / 60:.0f} min left",
                file=sys.stderr,
                flush=True,
            )
        reports.append(report)
    return reports, settings


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


if __name__ == "__main__":
    raise SystemExit(main())
