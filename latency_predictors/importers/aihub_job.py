"""The profile of a Qualcomm AI Hub job as JSON: what `profile_job.download_profile()` returns.

Source: the qai-hub client (execution times in microseconds, memory in bytes, -1 for what was not measured).
The job's device and model are not in it. The estimated inference time is near the fastest run, not the
median of `all_inference_times`; it is what perf.yaml states, so it is taken here too.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from latency_predictors.importers.aihub_perf import remark_split
from latency_predictors.importers.base import Reading, RowError, Source, latency_ms, number, short, whole
from latency_predictors.importers.documents import load_json
from latency_predictors.importers.records import MAX_NAME, LayerCounts, OperatorLatency

_SUMMARY, _DETAIL, _TIME = "execution_summary", "execution_detail", "estimated_inference_time"


class AiHubJobImporter:
    """Importer (see base) of one AI Hub profile job: one measurement, and its layers as operators."""

    format = "aihub-job"
    neighbours = ("subject", "precision")

    def recognises(self, source: Source) -> bool:
        """A JSON object with an execution summary."""
        return source.text.lstrip().startswith("{") and f'"{_SUMMARY}"' in source.text

    def read(self, source: Source, reading: Reading) -> None:
        """The estimated inference time, the layers and the units they ran on."""
        job = load_json(source)
        if not isinstance(job, dict) or not isinstance(job.get(_SUMMARY), dict):
            raise source.error(f"$.{_SUMMARY}", "is missing or no object; give what download_profile() returned")
        summary = job[_SUMMARY]
        row = f"$.{_SUMMARY}.{_TIME}"
        try:
            ms = latency_ms(summary.get(_TIME), "us", _TIME)
            peak = number(summary.get("estimated_inference_peak_memory", -1), "estimated_inference_peak_memory")
        except RowError as error:
            raise source.error(row, str(error)) from None
        layers = _read_layers(reading, job.get(_DETAIL))
        times_ms = _run_times(reading, summary.get("all_inference_times"))
        kept = reading.add(
            row,
            subject=None,
            latency_ms=ms,
            statistic="estimate",
            num_samples=len(times_ms) or None,
            compute_unit=layers.primary if layers is not None else None,
            layer_counts=layers,
            peak_memory_bytes=int(peak) if peak >= 0 else None,
        )
        if not kept:
            return
        if layers is not None:
            remark_split(reading, row, layers, _DETAIL)
        if times_ms and not min(times_ms) <= ms <= max(times_ms):
            reading.remark(
                row, f"{ms:g} ms lies outside of all_inference_times, {min(times_ms):g} to {max(times_ms):g} ms"
            )


def _run_times(reading: Reading, value: Any) -> list[float]:
    if value is None:
        return []
    path = f"$.{_SUMMARY}.all_inference_times"
    if not isinstance(value, list):
        reading.remark(path, f"is {short(value)}, no list; not read")
        return []
    found = []
    for index, time in enumerate(value):
        try:
            found.append(latency_ms(time, "us", "time"))
        except RowError as error:
            reading.refuse(f"{path}[{index}]", str(error))
    return found


def _read_layers(reading: Reading, detail: Any) -> LayerCounts | None:
    if detail is None:
        return None
    if not isinstance(detail, list):
        reading.remark(f"$.{_DETAIL}", f"is {short(detail)}, no list; layers are not read")
        return None
    counts: Counter[str] = Counter()
    for index, layer in enumerate(detail):
        row = f"$.{_DETAIL}[{index}]"
        try:
            if not isinstance(layer, dict) or str(layer.get("compute_unit")).lower() not in LayerCounts.model_fields:
                raise RowError(f"{short(layer)} has no compute_unit of {', '.join(LayerCounts.model_fields).upper()}")
            unit = str(layer["compute_unit"])
            counts[unit.lower()] += 1
            if layer.get("execution_time") is not None:
                us = whole(layer["execution_time"], "execution_time")
                name, op_type = (str(layer.get(key, ""))[:MAX_NAME] for key in ("name", "type"))
                reading.operators.append(OperatorLatency(name, op_type, unit.upper(), us / 1e3, None, row))
        except RowError as error:
            reading.refuse(row, str(error))
    return LayerCounts(**counts)
