"""What the command line prints: tables for people, JSON for scripts.

Results go to standard output, everything else to standard error.
"""

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Columns of the closing table that a terminal has room for, by their keys in closing.json.
_CLOSING = {
    "pick": "pick",
    "candidate": "candidate",
    "num_params": "parameters",
    "num_macs": "MACs",
    "predicted_ms": "predicted ms",
    "target_ms": "predicted there ms",
    "measured_ms": "measured ms",
    "measured.median_ms": "measured ms",
    "speed_up": "speed-up",
    "after.latent_error": "latent error",
    "after.tafid": "taFID",
}
# How keys are written for people: by their last word the unit, some in other words.
_UNITS = {"ms": "ms", "s": "s", "seconds": "s", "pct": "%"}
_WORDS = {"macs": "MACs", "unet": "U-Net", "unets": "U-Nets", "vae": "VAE", "tafid": "taFID", "onnx": "ONNX"}
_HEADINGS = {
    "about_seconds": "time, about (s)",
    "low_ms": "90 % low (ms)",
    "high_ms": "90 % high (ms)",
    "ci95_pct": "95 % interval (±%)",
    "worst_error_l2": "worst error (relative L2)",
}
_KEY = re.compile(r"[a-z][a-z0-9]*(?:[._][a-z0-9]+)*")


def say(line: str) -> None:
    """Print one line to standard error, under the program's name."""
    print(f"nanosd: {line}", file=sys.stderr, flush=True)


def plain(value: Any) -> Any:
    """Return the value as JSON has it: numpy scalars and paths unwrapped, models as mappings, NaN as null."""
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="json"))
    if hasattr(value, "to_dict") and hasattr(value, "columns"):  # a data frame, without importing pandas for it
        return plain(value.to_dict("records"))
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)) or hasattr(value, "tolist"):
        items = value.tolist() if hasattr(value, "tolist") else value
        return [plain(inner) for inner in items] if isinstance(items, (list, tuple)) else plain(items)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def print_json(value: Any) -> None:
    """Print one JSON document to standard output."""
    print(json.dumps(plain(value), indent=2, allow_nan=False))


def print_mapping(value: Mapping[str, Any]) -> None:
    """Print `key  value` lines, keys in words with their units."""
    rows = [(heading(key), inner) for key, inner in flatten(plain(value)).items()]
    width = max((len(key) for key, _ in rows), default=0)
    for key, inner in rows:
        print(f"{key:<{width}}  {number(inner)}")


def print_facts(rows: Sequence[tuple[str, str, str]]) -> None:
    """Print `label  value (small print)` lines."""
    width = max((len(label) for label, _, _ in rows), default=0)
    for label, value, small in rows:
        print(f"{label:<{width}}  {value}" + (f"  ({small})" if small else ""))


def heading(key: str) -> str:
    """Return a key as a person reads it: `drift_pct` is "drift (%)", `measured.num_macs` "measured MACs".

    Names that are not ours (stages, options, files) stay as they are.
    """
    if key in _HEADINGS or not _KEY.fullmatch(key):
        return _HEADINGS.get(key, key)
    words = [word for part in key.split(".") for word in part.removeprefix("num_").split("_")]
    unit = _UNITS.get(words[-1]) if len(words) > 1 else None
    text = " ".join(_WORDS.get(word, word) for word in (words[:-1] if unit else words))
    return f"{text} ({unit})" if unit else text


def records(frame: Any) -> list[dict[str, Any]]:
    """Return a data frame's rows."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str] | None = None) -> None:
    """Print rows as a table; `columns` (key -> heading) chooses and orders, default every key of the first row."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    flat = [flatten(plain(row)) for row in rows]
    if not flat:
        return
    keys = columns or {key: heading(key) for key in flat[0]}
    shown = [key for key in keys if any(row.get(key) is not None for row in flat)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for key in shown:
        text = any(isinstance(row.get(key), str) for row in flat)
        # A candidate's id may be folded, a number never: half a number is a wrong one.
        widest = max(len(number(row.get(key))) for row in flat)
        folded = key in ("candidate", "id")
        table.add_column(
            keys[key],
            justify="left" if text else "right",
            no_wrap=not folded,
            overflow="fold",
            min_width=min(widest, 12) if folded else widest,
        )
    for row in flat:
        table.add_row(*(number(row.get(key)) for key in shown))
    # A pipe or a log has no width of its own; a table that is cut there would lose figures.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    needed = table.__rich_measure__(console, console.options).minimum
    if needed > console.width:
        console.width = needed
    console.print(table)


def print_closing(run_dir: Path) -> list[dict[str, Any]]:
    """Print the closing table of a finished run and where its report lies; return the table's rows."""
    rows = read_closing(run_dir)
    print_rows([{**row, "pick": row.get("pick", row.get("name"))} for row in rows], _CLOSING)
    target = next((row["target_device"] for row in rows if row.get("target_device")), None)
    if target is not None:
        print(f"there: {target}, predicted; latency and speed-up are measured on this machine")
    floor = next((row["tafid_floor"] for row in rows if row.get("tafid_floor") is not None), None)
    if floor is not None:
        print(f"taFID of the teacher against itself, from other noise: {floor:.3g} (the floor of unpaired samples)")
    report = run_dir / "report.html"
    if report.exists():
        print(f"report: {report}")
    return rows


def read_closing(run_dir: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's closing.json; none where it has not got so far."""
    path = run_dir / "closing.json"
    if not path.exists():
        return []
    data = json.loads(path.read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = data["rows"] if isinstance(data, dict) else data
    return rows


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings, also those in lists, as one level with dotted keys."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            flat.update(flatten(inner, f"{prefix}{key}."))
        elif isinstance(inner, list) and inner and all(isinstance(each, Mapping) for each in inner):
            flat.update(flatten({str(index): each for index, each in enumerate(inner)}, f"{prefix}{key}."))
        else:
            flat[prefix + key] = inner
    return flat


def number(value: Any) -> str:
    """Return a value as a table shows it: four significant digits, large counts with M or G."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)) and abs(value) >= 1e6:
        return f"{value / 1e9:.4g} G" if abs(value) >= 1e9 else f"{value / 1e6:.4g} M"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(number(inner) for inner in value) or "-"
    return str(value)
