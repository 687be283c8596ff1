"""The connection: which phone, what is wrong with it, and what may be said to its shell."""

from __future__ import annotations

from pathlib import Path

import pytest

from latency_predictors.android import Adb, Cooling, Phone, remote_path
from search_spaces.errors import UserError
from tests.latency_predictors.android.phones import BINARY, SERIAL, FakePhone


@pytest.mark.parametrize(
    ("states", "serial", "message"),
    [
        ({}, None, "no phone is connected; plug one in"),
        ({"A1": "device", "B2": "device"}, None, "2 phones are connected; legal are A1, B2"),
        ({"A1": "device", "B2": "device"}, "C3", "serial: 'C3' is not connected; legal are A1, B2"),
        ({"A1": "unauthorized"}, None, "phone 'A1': is unauthorized; unlock it and accept"),
        ({"A1": "offline"}, "A1", "phone 'A1': is offline; unplug it"),
        ({"A1": "no permissions (user in plugdev group; are your udev rules wrong?)"}, None, "is no permissions; give"),
        ({"A1": "recovery"}, None, "is recovery; start Android"),
    ],
)
def test_a_phone_that_cannot_be_used(
    phone: FakePhone, states: dict[str, str], serial: str | None, message: str
) -> None:
    phone.connect(states)
    with pytest.raises(UserError) as caught:
        Adb(serial, str(phone.adb))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_phone_named_among_several(phone: FakePhone) -> None:
    phone.connect({"A1": "offline", SERIAL: "device"})
    assert Adb(SERIAL, str(phone.adb)).shell(["cat", "/proc/loadavg"]).stdout.startswith("1.25")
    assert phone.calls()[-1][:3] == ["-s", SERIAL, "shell"]


@pytest.mark.parametrize("program", ["no-such-adb", "/etc"])
def test_no_adb(program: str) -> None:
    with pytest.raises(UserError, match=r"cannot be run .*; install Android's platform-tools"):
        Adb(program=program)


@pytest.mark.parametrize(
    "argument", ["$(reboot)", "a;reboot", "a&b", "`reboot`", "a\nb", "it's", '"', "*", "~", ">x", ""]
)
def test_what_a_shell_would_act_on_is_not_sent(phone: FakePhone, argument: str) -> None:
    adb = Adb(None, str(phone.adb))
    before = phone.calls()
    with pytest.raises(UserError, match=r"argument for the phone: .* is not legal") as caught:
        adb.shell(["cat", argument])
    assert phone.calls() == before
    assert "\n" not in str(caught.value)


def test_blanks_and_bars_stay_in_their_argument(phone: FakePhone) -> None:
    phone.write("/data/a b|c", "found")
    assert Adb(None, str(phone.adb)).shell(["cat", "/data/a b|c"]).stdout == "found\n"


@pytest.mark.parametrize("path", ["relative", "/a/../b", "/a b", "/a;b", "", "/a'b"])
def test_paths_on_the_phone(path: str) -> None:
    with pytest.raises(UserError, match=r"folder: .* is no path on the phone"):
        remote_path(path, "folder")


def test_a_phone_that_goes_away_is_told_from_a_program_that_fails(phone: FakePhone) -> None:
    adb = Adb(None, str(phone.adb))
    assert adb.shell(["test", "-d", "/nowhere"]).code == 1
    phone.connect({})
    with pytest.raises(UserError, match=rf"phone '{SERIAL}': the connection broke"):
        adb.shell(["test", "-d", "/nowhere"])


def test_no_answer(phone: FakePhone, tmp_path: Path) -> None:
    adb = Adb(None, str(phone.adb))
    stalls = tmp_path / "stalls"
    stalls.write_text("#!/bin/sh\nexec sleep 60\n")
    stalls.chmod(0o755)
    with pytest.raises(UserError, match="devices` failed: no answer within"):
        Adb(None, str(stalls), call_s=0.1)
    assert adb.shell(["getprop"]).code == 0


def test_the_stand_in_refuses_flags_that_the_tool_lacks(phone: FakePhone) -> None:
    reply = Adb(None, str(phone.adb)).shell([BINARY, "-m", "times", "-W", "1", "/a.onnx", "/b.csv"])
    assert (reply.code, reply.reason) == (1, "ERROR: Unknown command line flag 'W'")


def test_conditions(phone: FakePhone) -> None:
    found = Phone(Adb(None, str(phone.adb))).conditions("tool")
    assert (found.cpu, found.num_cores, found.os, found.runtime_version) == ("QTI SM8750", 2, "Android 15", "tool")
    assert (found.governor, found.load_average_1min) == ("walt", 1.25)
    assert found.temperature_c == 33.4  # the hottest of the processor's, of those the hardware gives
    assert found.phone is not None
    assert (found.phone.thermal_status, found.phone.battery_c) == (0, 28.5)
    assert (found.phone.core_mhz, found.phone.core_limit_mhz) == ((1100.0, 1100.0), (2200.0, 3300.0))


def test_a_phone_that_tells_little(phone: FakePhone) -> None:
    phone.behave(properties={"ro.product.model": "P"}, thermal="Can't find service: thermalservice", battery_c=None)
    for path in ("/sys/devices/system/cpu/possible", "/proc/loadavg"):
        phone.disk(path).unlink()
    silent = Phone(Adb(None, str(phone.adb)))
    found = silent.conditions("tool")
    assert (silent.name, found.cpu, found.os, found.num_cores) == ("P", "unknown", "Android unknown", 1)
    assert (found.temperature_c, found.load_average_1min) == (None, None)
    assert found.phone is not None
    assert (found.phone.thermal_status, found.phone.battery_c, found.phone.build) == (None, None, "unknown")
    assert silent.wait_until_cool(Cooling(limit_s=0.0)) >= 0.0
