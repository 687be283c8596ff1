"""Profiles of onnxruntime (`enable_profiling`): a JSON list of trace events, times in microseconds.

A `model_run` of category Session is one run of the graph. Events of category Node whose names end in
`_kernel_time` are its operators, named as after fusion. The format names neither device nor precision nor
threads. Profiling itself takes some microseconds an operator: of graphs of many small operators the
unprofiled latency is lower.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from latency_predictors.importers.base import (
    Reading,
    RowError,
    Source,
    latency_ms,
    median_of_runs,
    number,
    short,
    whole,
)
from latency_predictors.importers.documents import load_json
from latency_predictors.importers.records import ComputeUnit, LayerCounts, OperatorLatency

_KERNEL = "_kernel_time"
_PROVIDER = "ExecutionProvider"
_UNITS: dict[str, ComputeUnit] = {
    "CPU": "CPU",
    "Dnnl": "CPU",
    "Xnnpack": "CPU",
    "CUDA": "GPU",
    "Tensorrt": "GPU",
    "NvTensorRTRTX": "GPU",
    "ROCM": "GPU",
    "MIGraphX": "GPU",
    "Dml": "GPU",
    "WebGpu": "GPU",
    "QNN": "NPU",
    "VitisAI": "NPU",
}


@dataclass(frozen=True)
class _Run:
    begin_us: float
    end_us: float
    latency_ms: float
    row: str


@dataclass(frozen=True)
class _Kernel:
    begin_us: float
    duration_us: int
    name: str
    op_type: str
    provider: str
    shapes: str
    row: str


class OnnxRuntimeProfileImporter:
    """Importer (see base) of a session's profile: one measurement, the median of its runs after warm-up."""

    format = "onnxruntime-profile"
    neighbours = ("subject",)

    def recognises(self, source: Source) -> bool:
        """A JSON list of objects with a category and a time stamp."""
        head = source.text[:4096].lstrip()
        return head.startswith("[") and '"cat"' in head and '"ts"' in head

    def read(self, source: Source, reading: Reading) -> None:
        """The median duration of `model_run`, and of each operator over the same runs.

        Refused are profiles whose runs overlap (they share the processor) or take inputs of several shapes.
        """
        events = load_json(source)
        if not isinstance(events, list):
            raise source.error("$", f"is {short(events)}, no list of events; give the file that end_profiling() named")
        runs, kernels = _sort(reading, events)
        warm_up = reading.facts.warm_up_runs
        if len(runs) <= warm_up:
            row = runs[-1].row if runs else "$"
            refused = f" (refused: {reading.flags[0]})" if reading.flags else ""
            few = f"{len(runs)} model_run, of which {warm_up} are warm-up{refused}; profile at least {warm_up + 1}"
            raise source.error(row, few)
        counted = runs[warm_up:]
        for before, run in itertools.pairwise(runs):
            if run.begin_us < before.end_us:
                raise source.error(run.row, f"runs while {before.row} does; profile one run at a time")
        kernels = _within(kernels, counted)
        _check_shapes(source, kernels)
        counts = Counter(k.provider for k in {(k.name, k.op_type): k for k in kernels}.values())
        layers = _layers(counts)
        row = counted[0].row
        kept = reading.add(
            row,
            subject=None,
            runtime=_runtime(counts),
            compute_unit=layers.primary if layers is not None else None,
            layer_counts=layers,
            **median_of_runs([run.latency_ms for run in counted]),
        )
        if kept and len(counts) > 1:
            parts = ", ".join(f"{num} on {provider}" for provider, num in counts.most_common())
            stray = next(k for k in kernels if k.provider != counts.most_common(1)[0][0])
            reading.remark(stray.row, f"of {counts.total()} operators {parts}; not a latency of one provider")
        reading.operators += _operators(kernels)


def _sort(reading: Reading, events: list[Any]) -> tuple[list[_Run], list[_Kernel]]:
    """Runs and kernels in the order of time; events that are malformed are refused."""
    runs, kernels = [], []
    for index, event in enumerate(events):
        row = f"$[{index}]"
        try:
            if not isinstance(event, dict):
                raise RowError(f"{short(event)} is no event")
            category, name = event.get("cat"), event.get("name")
            if category == "Session" and name == "model_run":
                begin = number(event.get("ts"), "ts")
                ms = latency_ms(event.get("dur"), "us", "dur")
                runs.append(_Run(begin, begin + number(event["dur"], "dur"), ms, row))
            elif category == "Node" and isinstance(name, str) and name.endswith(_KERNEL):
                kernels.append(_kernel(event, name.removesuffix(_KERNEL), row))
        except RowError as error:
            reading.refuse(row, str(error))
    return sorted(runs, key=lambda run: run.begin_us), sorted(kernels, key=lambda kernel: kernel.begin_us)


def _kernel(event: dict[str, Any], name: str, row: str) -> _Kernel:
    args = event.get("args")
    if not isinstance(args, dict):
        raise RowError(f"args is {short(args)}, no object")
    op_type, provider = args.get("op_name"), args.get("provider")
    if not isinstance(op_type, str) or not isinstance(provider, str):
        raise RowError(f"op_name is {short(op_type)}, provider {short(provider)}; both are text")
    return _Kernel(
        begin_us=number(event.get("ts"), "ts"),
        duration_us=whole(event.get("dur"), "dur"),
        name=name,
        op_type=op_type,
        provider=provider,
        shapes=repr(args.get("input_type_shape")),
        row=row,
    )


def _within(kernels: list[_Kernel], runs: list[_Run]) -> list[_Kernel]:
    """The kernels that began during one of the runs, which do not overlap."""
    begins = [run.begin_us for run in runs]
    found = []
    for kernel in kernels:
        index = bisect.bisect_right(begins, kernel.begin_us) - 1
        if index >= 0 and kernel.begin_us <= runs[index].end_us:
            found.append(kernel)
    return found


def _check_shapes(source: Source, kernels: list[_Kernel]) -> None:
    first: dict[tuple[str, str], _Kernel] = {}
    for kernel in kernels:
        earlier = first.setdefault((kernel.name, kernel.op_type), kernel)
        if kernel.shapes != earlier.shapes:
            raise source.error(
                kernel.row,
                f"operator {short(kernel.name)} has other input shapes than in {earlier.row}; profile one shape a file",
            )


def _runtime(counts: Counter[str]) -> str:
    """As the runners name it: "onnxruntime-cpu"; of several providers the one of most operators."""
    if not counts:
        return "onnxruntime"
    return f"onnxruntime-{counts.most_common(1)[0][0].removesuffix(_PROVIDER).lower()}"


def _layers(counts: Counter[str]) -> LayerCounts | None:
    """Operators by unit; None if a provider is not known to run on one kind of unit (OpenVINO runs on all)."""
    by_unit: Counter[str] = Counter()
    for provider, num in counts.items():
        unit = _UNITS.get(provider.removesuffix(_PROVIDER))
        if unit is None:
            return None
        by_unit[unit.lower()] += num
    return LayerCounts(**by_unit) if by_unit else None


def _operators(kernels: list[_Kernel]) -> list[OperatorLatency]:
    groups: dict[tuple[str, str], list[_Kernel]] = defaultdict(list)
    for kernel in kernels:
        groups[kernel.name, kernel.op_type].append(kernel)
    return [
        OperatorLatency(
            name=name,
            op_type=op_type,
            unit=group[0].provider,
            latency_ms=float(np.median([k.duration_us for k in group])) / 1e3,
            num_samples=len(group),
            row=group[0].row,
        )
        for (name, op_type), group in groups.items()
    ]
