"""Public measurements of whole models on NPUs: one table of networks x devices, with what was left out and why."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import UserError

COLUMNS = ("model", "component", "precision", "device", "path", "ms", "unit", "layers", "npu")
SLOWER = 2.0
"""Two runs of one graph on one device and path that differ by more than this are not the same experiment."""

# Components that are one graph in several models (found by recording their operators, see zoo.py).
_SAME_GRAPH = {
    ("stable_diffusion_v1_5", "vae"): "sd vae",
    ("stable_diffusion_v2_1", "vae"): "sd vae",
    ("controlnet_canny", "vae"): "sd vae",
    ("stable_diffusion_v1_5", "text_encoder"): "clip-l",
    ("controlnet_canny", "text_encoder"): "clip-l",
}


class Network(NamedTuple):
    """A compiled network: one component of a model at a precision, through one runtime path."""

    model: str
    component: str
    precision: str
    path: str

    @property
    def architecture(self) -> str:
        """Model and component, the key of :data:`latency_predictors.npu.zoo.NETWORKS`."""
        return f"{self.model}/{self.component}"

    @property
    def is_diffusion(self) -> bool:
        """Whether it is a component of Stable Diffusion or of its ControlNet."""
        return self.model.startswith(("stable_diffusion", "controlnet"))

    @property
    def graph(self) -> tuple[str, str, str]:
        """Equal for networks that are the same graph by another name."""
        name = _SAME_GRAPH.get((self.model, self.component), self.architecture)
        return name, self.precision, self.path


@dataclass(frozen=True)
class LatencyTable:
    """Latencies of networks on devices.

    Attributes:
        networks: rows.
        devices: columns; devices with identical figures are one column, named by :attr:`twins`.
        latency_ms: (networks, devices), NaN where there is no figure.
        twins: the column of every device in the file.
        dropped: how many measurements were left out, by reason.
        slowed: (device, network, ms, ms of the same graph) of those dropped because the same graph was faster.
    """

    networks: tuple[Network, ...]
    devices: tuple[str, ...]
    latency_ms: NDArray[np.float64]
    twins: Mapping[str, str]
    dropped: Mapping[str, int]
    slowed: tuple[tuple[str, Network, float, float], ...] = field(default=())

    def column(self, device: str) -> int:
        """Column of a device.

        Raises:
            UserError: a device that the file does not have.
        """
        if device not in self.twins:
            raise UserError(f"unknown device {device!r}; the file has {', '.join(sorted(self.twins))}")
        return self.devices.index(self.twins[device])

    def contradictory(self, columns: Sequence[int]) -> NDArray[np.bool_]:
        """Networks (N,) whose runtime paths differ more than twofold on the median of these devices."""
        log_ms = np.log(self.latency_ms[:, list(columns)])
        found = np.zeros(len(self.networks), dtype=bool)
        for rows in self._by_graph():
            both = log_ms[rows][:, np.isfinite(log_ms[rows]).sum(axis=0) > 1]
            if both.size:
                found[rows] = np.median(np.nanmax(both, axis=0) - np.nanmin(both, axis=0)) > np.log(SLOWER)
        return found

    def superseded(self, columns: Sequence[int]) -> NDArray[np.bool_]:
        """Networks (N,) that another runtime path runs more than twice as fast on the median of these devices.

        As with repeated runs the fastest is believed: what slows the other is the toolchain, not the network.
        """
        log_ms = np.log(self.latency_ms[:, list(columns)])
        found = np.zeros(len(self.networks), dtype=bool)
        for rows in self._by_graph():
            for row in rows:
                for other in rows:
                    slower = log_ms[row] - log_ms[other]
                    slower = slower[np.isfinite(slower)]
                    found[row] |= bool(slower.size and np.median(slower) > np.log(SLOWER))
        return found

    def _by_graph(self) -> list[list[int]]:
        """Rows of one component at one precision, by all its runtime paths."""
        groups: dict[tuple[str, str], list[int]] = {}
        for row, network in enumerate(self.networks):
            groups.setdefault((network.architecture, network.precision), []).append(row)
        return list(groups.values())


def read_latency_table(path: Path, precisions: Sequence[str] = ("w8a16",)) -> LatencyTable:
    """Read measurements of whole models, with columns :data:`COLUMNS`; ``ms`` is in milliseconds.

    Only networks of these precisions that ran entirely on the NPU are kept: a figure with layers on the CPU
    says more about the CPU. Dropped, and counted by reason: other units, latencies that are not positive numbers,
    repeated rows, and rows more than twice slower than the same graph on the same device and path.

    Raises:
        UserError: no such file, missing columns, a field that is not a number (with its line), nothing left.
    """
    cells: dict[tuple[Network, str], float] = {}
    dropped: dict[str, int] = defaultdict(int)
    for line, row in _rows(path):
        if row["precision"] not in precisions:
            continue
        network = Network(row["model"], row["component"], row["precision"], row["path"])
        latency_ms = _number(path, line, "ms", row["ms"])
        if row["unit"] != "NPU" or _number(path, line, "npu", row["npu"] or "0") != _number(
            path, line, "layers", row["layers"]
        ):
            dropped["layers outside of the NPU"] += 1
        elif not (math.isfinite(latency_ms) and latency_ms > 0):
            dropped["latency not a positive number"] += 1
        elif (network, row["device"]) in cells:
            dropped["repeated"] += 1
        else:
            cells[network, row["device"]] = latency_ms
    slowed = _slowed(cells)
    for device, network, *_ in slowed:
        del cells[network, device]
        dropped["more than twice slower than the same graph on the same device"] += 1
    if not cells:
        raise UserError(f"{path} has no row of precision {', '.join(precisions)} entirely on an NPU; give another file")
    networks = tuple(sorted({network for network, _ in cells}))
    devices = tuple(sorted({device for _, device in cells}))
    table = np.full((len(networks), len(devices)), np.nan)
    rows, columns = ({name: i for i, name in enumerate(names)} for names in (networks, devices))
    for (network, device), latency_ms in cells.items():
        table[rows[network], columns[device]] = latency_ms
    twins = _twins(table, devices)
    kept = [i for i, device in enumerate(devices) if twins[device] == device]
    return LatencyTable(networks, tuple(devices[i] for i in kept), table[:, kept], twins, dict(dropped), tuple(slowed))


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{path} lacks column {', '.join(missing)}; needed are {', '.join(COLUMNS)}")
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; give the file of AI Hub measurements") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not CSV in UTF-8: {error}") from None
    for line, row in rows:
        if None in row.values() or None in row:
            raise UserError(f"{path}, line {line}: not as many fields as the header has")
    return rows


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{path}, line {line}: {column} is {text!r}; needed is a number") from None


def _slowed(cells: Mapping[tuple[Network, str], float]) -> list[tuple[str, Network, float, float]]:
    """Interference only slows: of contradicting runs of one graph the fastest is believed."""
    fastest: dict[object, float] = {}
    for (network, device), ms in cells.items():
        key = (network.graph, device)
        fastest[key] = min(ms, fastest.get(key, math.inf))
    return [
        (device, network, ms, fastest[network.graph, device])
        for (network, device), ms in cells.items()
        if ms > SLOWER * fastest[network.graph, device]
    ]


def _twins(table: NDArray[np.float64], devices: Sequence[str]) -> dict[str, str]:
    """Devices that agree to the last digit wherever both have figures (in at least ten) are one, listed once.

    The one with more figures stands for both.
    """
    counts = np.isfinite(table).sum(axis=0)
    twins: dict[str, str] = {}
    for i in sorted(range(len(devices)), key=lambda i: (-counts[i], devices[i])):
        same = devices[i]
        for known in set(twins.values()):
            both = np.isfinite(table[:, i]) & np.isfinite(table[:, devices.index(known)])
            if both.sum() >= 10 and np.array_equal(table[both, i], table[both, devices.index(known)]):
                same = known
        twins[devices[i]] = same
    return twins
