"""Phones for tests: a folder each, reached through the stand-in for adb."""

from __future__ import annotations

import atexit
import json
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

from latency_predictors.runners.adb import FOLDER, AdbRunner

SERIAL = "R5CX10ABCDE"
BINARY = f"{FOLDER}/onnxruntime_perf_test"
# As Android 12 and later print it.
THERMAL = """IsStatusOverride: false
Thermal Status: @STATUS@
Cached temperatures:
\tTemperature{mValue=99.0, mType=0, mName=AP, mStatus=0}
HAL Ready: true
Current temperatures from HAL:
\tTemperature{mValue=31.5, mType=0, mName=CPU0, mStatus=0}
\tTemperature{mValue=33.4, mType=0, mName=CPU7, mStatus=0}
\tTemperature{mValue=45.0, mType=3, mName=SKIN, mStatus=0}
Current cooling devices from HAL:
"""
# Without the imports that a usual script has: this starts in a third of the time.
_CLIENT = """import _socket, os, sys
server = _socket.socket(_socket.AF_UNIX)
server.connect({server!r})
server.send("\\0".join(["{phone}", *sys.argv[1:]]).encode())
server.shutdown(_socket.SHUT_WR)
answer = b""
while part := server.recv(65536):
    answer += part
head, _, rest = answer.partition(b"\\n")
code, size = map(int, head.split())
os.write(1, rest[:size])
os.write(2, rest[size:])
sys.exit(code)
"""
_PROPERTIES = {
    "ro.product.manufacturer": "Acme",
    "ro.product.model": "Phone 5",
    "ro.soc.manufacturer": "QTI",
    "ro.soc.model": "SM8750",
    "ro.build.version.release": "15",
    "ro.build.fingerprint": "acme/phone5:15/AB1.2/77:user/release-keys",
}


@cache
def adb_server() -> str:
    """The socket of this process's fake_adb."""
    folder = Path(tempfile.mkdtemp(prefix="adb-"))
    script = Path(__file__).with_name("fake_adb.py")
    process = subprocess.Popen([sys.executable, str(script), str(folder / "socket")])
    while not (folder / "socket").exists():
        assert process.poll() is None, "fake_adb did not start"
        time.sleep(0.01)

    @atexit.register
    def end() -> None:
        process.kill()
        process.wait()
        shutil.rmtree(folder)

    return str(folder / "socket")


class FakePhone:
    """A phone with two cores, cool, with onnxruntime_perf_test on it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.root = folder / "root"
        self.root.mkdir(parents=True)
        self.connect({SERIAL: "device"})
        state = {"properties": _PROPERTIES, "thermal": THERMAL, "thermal_status": 0, "battery_c": 28.5}
        (folder / "phone.json").write_text(json.dumps({**state, "providers": ["cpu", "xnnpack", "nnapi", "qnn"]}))
        self.write("/sys/devices/system/cpu/possible", "0-1")
        for core, limit in ((0, 2200000), (1, 3300000)):
            for name, text in (("governor", "walt"), ("cur_freq", "1100000"), ("max_freq", str(limit))):
                self.write(f"/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_{name}", text)
        self.write("/proc/loadavg", "1.25 1.00 0.90 2/900 4242")
        self.write(BINARY, "the program")
        self.disk(BINARY).chmod(0o755)
        self.adb = folder / "adb"
        self.adb.write_text(f"#!{sys.executable} -SEI\n{_CLIENT.format(server=adb_server(), phone=folder)}")
        self.adb.chmod(0o755)

    def behave(self, **changes: Any) -> None:
        """Changes how it behaves; see fake_adb."""
        path = self._folder / "phone.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def trouble(self, graph: Path, kind: str, times: int, *, spare_profile: bool = False) -> None:
        """Lets the next calls with this graph (told by its size) go wrong."""
        what = {"kind": kind, "times": times, "spare_profile": spare_profile}
        self.behave(trouble={str(graph.stat().st_size): what})

    def connect(self, states: dict[str, str]) -> None:
        """What `adb devices` lists: serial -> state."""
        (self._folder / "devices.json").write_text(json.dumps(states))

    def disk(self, path: str) -> Path:
        """Where a path of the phone is here."""
        return self.root / path[1:]

    def write(self, path: str, text: str) -> None:
        """Puts a file on the phone."""
        self.disk(path).parent.mkdir(parents=True, exist_ok=True)
        self.disk(path).write_text(text)

    def calls(self, verb: str | None = None) -> list[list[str]]:
        """Arguments of every call so far, of one verb if given."""
        log = self._folder / "calls.log"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [line for line in lines if verb is None or verb in line[2:3]]

    def runner(self, **options: Any) -> AdbRunner:
        """A runner for it that looks at its heat without delay."""
        return AdbRunner(**{"adb": str(self.adb), "poll_s": 0.01, **options})


def phone_runner() -> AdbRunner:
    """A runner for a new phone, which is gone with this process."""
    return FakePhone(Path(tempfile.mkdtemp(dir=Path(adb_server()).parent)) / "phone").runner()
