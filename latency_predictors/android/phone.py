"""What a phone says of itself: its names, its heat, its clocks; and the wait until it is cool."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from latency_predictors.android.adb import Adb
from latency_predictors.measurement import Conditions, PhoneState
from latency_predictors.runners.base import DeviceError

THERMAL_STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
"""Android's words for the thermal status 0, 1, ... (android.os.PowerManager.THERMAL_STATUS_*)."""

_PROPERTY = re.compile(r"^\[([^\]]+)\]: \[(.*)\]$", re.MULTILINE)
_STATUS = re.compile(r"^\s*Thermal Status: (\d+)\s*$", re.MULTILINE)
_TEMPERATURE = re.compile(r"Temperature\{mValue=(-?[\d.]+), mType=(-?\d+),")
_BATTERY = re.compile(r"^\s*temperature: (-?\d+)\s*$", re.MULTILINE)
_FREQUENCIES = ("scaling_governor", "scaling_cur_freq", "scaling_max_freq")
_CPU, _CPU_FOLDER, _LOAD = "0", "/sys/devices/system/cpu", "/proc/loadavg"
_HEAT = (("dumpsys", "thermalservice"), ("dumpsys", "battery"))


@dataclass(frozen=True)
class Cooling:
    """When a phone is too hot, how long to wait for it, and how often to look; degrees Celsius, seconds."""

    max_thermal_status: int = 0
    max_battery_c: float = 42.0
    limit_s: float = 900.0
    poll_s: float = 5.0


class Phone:
    """The phone behind `adb`. What it does not tell is None; DeviceError only when the connection breaks."""

    def __init__(self, adb: Adb) -> None:
        self._adb = adb

    @property
    def name(self) -> str:
        """Maker and model, e.g. "Google Pixel 9"."""
        maker, model = self._property("ro.product.manufacturer"), self._property("ro.product.model")
        if model is None:
            return "unknown phone"
        return model if maker is None or model.lower().startswith(maker.lower()) else f"{maker} {model}"

    @property
    def soc(self) -> str:
        """Maker and model of the SoC, e.g. "QTI SM8750"; before Android 12 the name of the board."""
        maker, model = self._property("ro.soc.manufacturer"), self._property("ro.soc.model")
        known = [text for text in (maker, model) if text is not None]
        return " ".join(known) or self._property("ro.board.platform") or self._property("ro.hardware") or "unknown"

    @property
    def android(self) -> str:
        """Android's release, e.g. "15"."""
        return self._property("ro.build.version.release") or "unknown"

    @property
    def build(self) -> str:
        """The build of the system: drivers change with it."""
        return self._property("ro.build.fingerprint") or self._property("ro.build.id") or "unknown"

    def conditions(self, runtime_version: str) -> Conditions:
        """The state now."""
        cores = self._cores
        files = [f"{_CPU_FOLDER}/cpu{core}/cpufreq/{name}" for core in cores for name in _FREQUENCIES]
        # "path:value"; of cores that are off there are no lines.
        said = self._adb.shell(*_HEAT, ["grep", "-H", ".", *files, _LOAD]).stdout
        found = dict(line.split(":", maxsplit=1) for line in said.splitlines() if line.startswith("/"))

        def values(name: str) -> list[str]:
            paths = (f"{_CPU_FOLDER}/cpu{core}/cpufreq/{name}" for core in cores)
            return [found[path].strip() for path in paths if path in found]

        # The temperatures of the hardware follow those that the service keeps.
        current = said.partition("Current temperatures")[2] or said
        load = re.match(r"\d+\.\d+", found.get(_LOAD, ""))
        thermal_status, battery_c = _heat(said)
        return Conditions(
            cpu=self.soc,
            num_cores=len(cores),
            os=f"Android {self.android}",
            runtime_version=runtime_version,
            spinning=False,
            governor=", ".join(dict.fromkeys(values("scaling_governor"))) or None,
            temperature_c=max((float(c) for c, kind in _TEMPERATURE.findall(current) if kind == _CPU), default=None),
            load_average_1min=float(load[0]) if load else None,
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
            phone=PhoneState(
                build=self.build,
                thermal_status=thermal_status,
                battery_c=battery_c,
                core_mhz=_mhz(values("scaling_cur_freq")),
                core_limit_mhz=_mhz(values("scaling_max_freq")),
            ),
        )

    def wait_until_cool(self, cooling: Cooling, still_waiting: Callable[[], None] = lambda: None) -> float:
        """Waits until neither limit is exceeded; the seconds that it took. DeviceError after the last of them.

        A phone that tells neither is taken for cool. `still_waiting` is called at every look.
        """
        limit_s = cooling.limit_s
        begin = time.monotonic()
        while True:
            still_waiting()
            status, battery_c = _heat(self._adb.shell(*_HEAT).stdout)
            if (status or 0) <= cooling.max_thermal_status and (
                battery_c is None or battery_c <= cooling.max_battery_c
            ):
                return time.monotonic() - begin
            if time.monotonic() - begin >= limit_s:
                word = "unknown" if status is None else f"{status} ({THERMAL_STATUS[min(status, 6)]})"
                battery = "unknown" if battery_c is None else f"{battery_c:g}"
                raise DeviceError(
                    f"phone {self.name}: too hot after {limit_s:g} s of waiting, thermal status {word}, battery "
                    f"{battery} degrees Celsius; legal are at most {cooling.max_thermal_status} and "
                    f"{cooling.max_battery_c:g}; take it out of its case and start again: what was measured is kept"
                )
            time.sleep(cooling.poll_s)

    def _property(self, name: str) -> str | None:
        return self._properties.get(name, "").strip() or None

    @cached_property
    def _properties(self) -> dict[str, str]:
        return dict(_PROPERTY.findall(self._adb.shell(["getprop"]).stdout.replace("\r\n", "\n")))

    @cached_property
    def _cores(self) -> list[int]:
        """Numbers of the cores, from a list such as "0-3,6"."""
        text = self._adb.shell(["cat", f"{_CPU_FOLDER}/possible"]).stdout.strip()
        if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
            return [0]
        cores: list[int] = []
        for part in text.split(","):
            first, _, last = part.partition("-")
            cores += range(int(first), int(last or first) + 1)
        return cores


def _heat(said: str) -> tuple[int | None, float | None]:
    """Thermal status and degrees Celsius of the battery, from what `_HEAT` prints."""
    status, battery = _STATUS.search(said), _BATTERY.search(said)
    return int(status[1]) if status else None, int(battery[1]) / 10.0 if battery else None


def _mhz(values_khz: Sequence[str]) -> tuple[float, ...] | None:
    return tuple(int(khz) / 1e3 for khz in values_khz if khz.isdecimal()) or None
