"""perf.yaml of Qualcomm AI Hub Models: one model on many devices, by precision, component and runtime path.

Source: quic/ai-hub-models, qai_hub_models/configs/perf_yaml.py (the nesting, and memory in MiB).
"""

from __future__ import annotations

import re
from typing import Any

from latency_predictors.importers.base import Reading, RowError, Source, latency_ms, number, short, whole
from latency_predictors.importers.documents import Node, load_yaml
from latency_predictors.importers.records import LayerCounts

_TIME = "inference_time_milliseconds"
_UNITS = ("CPU", "GPU", "NPU")


class AiHubPerfImporter:
    """Importer (see base) of perf.yaml; the subject is the component, the runtime is the path's name."""

    format = "aihub-perf"
    # A model's components are text encoders and U-Nets; one of them is comparable with itself on other devices.
    neighbours = ("subject", "precision", "compute_unit")

    def recognises(self, source: Source) -> bool:
        """A top-level key `precisions` and metrics below it."""
        return bool(re.search(r"^precisions:", source.text, re.MULTILINE)) and "components:" in source.text

    def read(self, source: Source, reading: Reading) -> None:
        """One measurement for each precision, component, device and path that ran."""
        root = load_yaml(source)
        precisions = root.get("precisions")
        if precisions is None or not precisions.items:
            raise source.error(root.line, "precisions is missing or no mapping; give a perf.yaml of AI Hub Models")
        for precision, by_component in precisions.items:
            components = by_component.get("components")
            if components is None:
                reading.refuse(by_component.line, f"precisions.{short(precision)[1:-1]}: components is missing")
                continue
            for component, detail in components.items:
                metrics = detail.get("performance_metrics")
                if metrics is None:
                    where = short(f"{precision}.{component}")[1:-1]
                    reading.refuse(detail.line, f"{where}: performance_metrics is missing")
                    continue
                for device, by_path in metrics.items:
                    for path, node in by_path.items:
                        _read_path(reading, node, (precision, component, device, path))


def _read_path(reading: Reading, node: Node, keys: tuple[str, str, str, str]) -> None:
    precision, component, device, path = keys
    where = short(".".join(keys))[1:-1]
    timed = node.get(_TIME)
    status = node.get("job_status")
    row = timed.line if timed is not None else node.line
    try:
        if status is not None and status.text != "Passed":
            raise RowError(f"job_status is {short(status.value)}, not 'Passed'")
        if timed is None or timed.text is None:
            raise RowError(f"{_TIME} is missing")
        ms = latency_ms(timed.text, "ms", _TIME)
        layers = _layers(node.get("layer_counts"))
        unit = _text(node.get("primary_compute_unit"))
        peak = node.get("estimated_peak_memory_range_mb", "max")
        peak_bytes = round(number(peak.text, "estimated_peak_memory_range_mb.max") * 2**20) if peak else None
    except RowError as error:
        reading.refuse(row, f"{where}: {error}")
        return
    if unit is not None and unit not in _UNITS:
        reading.refuse(row, f"{where}: primary_compute_unit is {short(unit)}; legal are {', '.join(_UNITS)}")
        return
    kept = reading.add(
        row,
        subject=component,
        latency_ms=ms,
        statistic="estimate",
        device=device,
        runtime=path,
        precision=precision,
        toolchain=_toolchain(node.get("tool_versions")),
        compute_unit=unit,
        layer_counts=layers,
        peak_memory_bytes=peak_bytes,
        job_id=_text(node.get("job_id")),
    )
    if kept and layers is not None:
        remark_split(reading, row, layers, where)


def remark_split(reading: Reading, row: int | str, layers: LayerCounts, where: str) -> None:
    """Remarks a graph whose layers ran on several units: its latency holds copies between them."""
    split = {name: count for name, count in layers.model_dump().items() if count}
    if len(split) > 1:
        parts = ", ".join(f"{count} on {name.upper()}" for name, count in split.items())
        reading.remark(row, f"{where}: of {layers.total} layers {parts}; not a latency of one unit")


def _layers(node: Node | None) -> LayerCounts | None:
    if node is None:
        return None
    counts: dict[str, Any] = {}
    for name in ("npu", "gpu", "cpu"):
        child = node.get(name)
        counts[name] = whole(child.text, f"layer_counts.{name}") if child is not None else 0
    total = node.get("total")
    found = LayerCounts(**counts)
    if total is not None and whole(total.text, "layer_counts.total") != found.total:
        raise RowError(f"layer_counts.total is {short(total.text)}, the units' sum is {found.total}")
    return found


def _toolchain(node: Node | None) -> str | None:
    """All tools that took part, as "qairt 2.41.0, onnx_runtime 1.23.0": they decide a latency as the device does."""
    if node is None:
        return None
    tools = [f"{name} {version.text}" for name, version in node.items if version.text is not None]
    return ", ".join(tools) or None


def _text(node: Node | None) -> str | None:
    return node.text if node is not None else None
