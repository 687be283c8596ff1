"""Stands in for the adb binary, with folders as phones.

The binary itself is a script of a few lines (see phones.py) that hands its arguments to this process and prints what
comes back: `python fake_adb.py SOCKET` answers each call in a fork, because starting Python and loading onnxruntime for
each would take longer than all the rest. It ends with its parent.

PHONE is the folder of the phone that a call is for: `devices.json` lists what is connected, `phone.json` says how
the phone behaves, `root/` is its file system, `calls.log` gets every call. On the phone are the programs that the
runner uses, as Android has them; onnxruntime_perf_test really runs the graph with onnxruntime on this machine,
refuses flags that the real one does not have, and writes result and profile as the real one does.
"""

import hashlib
import io
import json
import os
import shlex
import shutil
import signal
import socket
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import onnxruntime

PHONE = ROOT = Path()
# command_args_parser.cc of onnxruntime 1.23 (Abseil): flags with a value, and switches.
VALUED = {*"fFmertpxycdouiSTCR", "opt_data", "opt_weight_min_size", "spin_duration_us", "plugin_ep_libs", "data_shape"}
SWITCHES = {*"AMsvIPqzDZnlgXh", "list_ep_devices", "compile_ep_context"}
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "nnapi": "NnapiExecutionProvider",
    "qnn": "QNNExecutionProvider",
}


def behaviour() -> dict:
    return json.loads((PHONE / "phone.json").read_text())


def save(**changes: object) -> None:
    (PHONE / "phone.json").write_text(json.dumps({**behaviour(), **changes}))


def stop(text: str, code: int = 1) -> None:
    print(text, file=sys.stderr)
    sys.exit(code)


def on_disk(path: str) -> Path:
    assert path.startswith("/"), path
    return ROOT / path[1:]


def free_bytes_left(size: int) -> bool:
    left = behaviour().get("free_bytes")
    return left is None or sum(f.stat().st_size for f in ROOT.rglob("*") if f.is_file()) + size <= left


def device(serial: str) -> None:
    states = json.loads((PHONE / "devices.json").read_text())
    if serial not in states:
        stop(f"error: device '{serial}' not found")
    if states[serial] != "device":
        stop(f"error: device {states[serial]}")


def transfer(verb: str, source: str, target: str) -> None:
    if verb == "push":
        if not free_bytes_left(os.path.getsize(source)):
            stop(f"adb: error: failed to copy '{source}' to '{target}': remote couldn't write: No space left on device")
        if not on_disk(target).parent.is_dir():
            stop(f"adb: error: failed to copy '{source}' to '{target}': remote couldn't create file: No such file")
        shutil.copy(source, on_disk(target))
        print(f"{source}: 1 file pushed, 0 skipped.")
    elif not on_disk(source).is_file():
        stop(f"adb: error: failed to stat remote object '{source}': No such file or directory")
    else:
        shutil.copyfile(on_disk(source), target)


def shell(words: list[str]) -> int:
    """One program of the phone; its exit code."""
    name, *rest = words
    if name == "timeout":
        assert rest[:2] == ["-s", "KILL"] and int(rest[2]) > 0, rest
        signal.signal(signal.SIGALRM, lambda *_: sys.exit(137))
        signal.alarm(int(rest[2]))
        return shell(rest[3:])
    if name == "env":
        while "=" in rest[0]:
            key, value = rest.pop(0).split("=", 1)
            os.environ["FAKE_" + key] = value
        return shell(rest)
    if name == "getprop":
        for key, value in behaviour()["properties"].items():
            print(f"[{key}]: [{value}]")
        return 0
    if name == "dumpsys":
        return dumpsys(rest)
    if name == "cat":
        return cat(rest)
    if name == "grep":
        assert rest[:2] == ["-H", "."], rest
        code = 0
        for path in rest[2:]:
            if on_disk(path).is_file():
                print(f"{path}:{on_disk(path).read_text().strip()}")
            else:
                print(f"grep: {path}: No such file or directory", file=sys.stderr)
                code = 2
        return code
    if name == "test":
        path = on_disk(rest[1])
        is_true = {"-d": path.is_dir, "-f": path.is_file, "-x": lambda: os.access(path, os.X_OK)}[rest[0]]
        return 0 if is_true() else 1
    if name == "mkdir":
        if behaviour().get("read_only"):
            print(f"mkdir: '{rest[-1]}': Permission denied", file=sys.stderr)
            return 1
        on_disk(rest[-1]).mkdir(parents=True, exist_ok=True)
        return 0
    if name == "touch":
        on_disk(rest[0]).touch()
        return 0
    if name == "rmdir":
        try:
            on_disk(rest[0]).rmdir()
        except OSError as error:
            print(f"rmdir: '{rest[0]}': {error.strerror}", file=sys.stderr)
            return 1
        return 0
    if name == "mv":
        on_disk(rest[0]).rename(on_disk(rest[1]))
        return 0
    if name == "rm":
        assert rest[0] == "-rf", rest
        for path in rest[1:]:
            shutil.rmtree(on_disk(path), ignore_errors=True)
        return 0
    if name == "chmod":
        on_disk(rest[1]).chmod(int(rest[0], 8))
        return 0
    if name == "ls":
        print("\n".join(sorted(p.name for p in on_disk(rest[0]).iterdir())))
        return 0
    if name == "sha256sum":
        for path in rest:
            if on_disk(path).is_file():
                print(hashlib.sha256(on_disk(path).read_bytes()).hexdigest() + "  " + path)
            else:
                print(f"sha256sum: {path}: No such file or directory", file=sys.stderr)
        return 0 if all(on_disk(path).is_file() for path in rest) else 1
    if name.endswith("onnxruntime_perf_test") and os.access(on_disk(name), os.X_OK):
        return perf_test(rest)
    print(f"/system/bin/sh: {name}: inaccessible or not found", file=sys.stderr)
    return 127


def cat(paths: list[str]) -> int:
    for path in paths:
        print(on_disk(path).read_text().rstrip("\n"))
    return 0


def dumpsys(words: list[str]) -> int:
    state = behaviour()
    if words == ["battery"]:
        if state.get("battery_c") is not None:
            print(f"Current Battery Service state:\n  level: 81\n  temperature: {round(10 * state['battery_c'])}")
    elif words == ["thermalservice"]:
        print(state["thermal"].replace("@STATUS@", str(state["thermal_status"])))
        if state.get("cools") and state["thermal_status"] > 0:
            save(thermal_status=state["thermal_status"] - 1)
    else:
        stop(f"Can't find service: {words}")
    return 0


def parse(words: list[str]) -> tuple[dict[str, str], list[str]]:
    flags: dict[str, str] = {}
    positional: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            positional.append(word)
            continue
        name, _, value = word.lstrip("-").partition("=")
        if name in SWITCHES:
            flags[name] = value or "true"
        elif name in VALUED:
            flags[name] = value or rest.pop(0)
        else:
            stop(f"ERROR: Unknown command line flag '{name}'", 1)
    return flags, positional


def perf_test(words: list[str]) -> int:
    flags, positional = parse(words)
    if len(positional) != 2 or flags["m"] != "times" or int(flags["r"]) < 1 or int(flags["x"]) < 0:
        stop("See 'onnxruntime_perf_test --help'.", 255)
    model, result = map(on_disk, positional)
    state = behaviour()
    trouble = state.get("trouble", {}).get(str(model.stat().st_size), {}) if model.is_file() else {}
    if trouble.get("times", 0) > 0 and not ("p" in flags and trouble.get("spare_profile")):
        trouble["times"] -= 1
        save(trouble={**state["trouble"], str(model.stat().st_size): trouble})
        if trouble["kind"] == "crash":
            print("libc: Fatal signal 11 (SIGSEGV)", file=sys.stderr)
            return 139
        if trouble["kind"] == "hang":
            time.sleep(60)
        if trouble["kind"] == "disconnect":
            (PHONE / "devices.json").write_text("{}")
            sys.exit(255)
        if trouble["kind"] == "short":
            flags["r"] = "1"
    if flags["e"] not in state["providers"]:
        print({"nnapi": "NNAPI", "xnnpack": "Xnnpack", "qnn": "QNN"}[flags["e"]] + " is not supported in this build\n",
              file=sys.stderr)  # fmt: skip
        return 255
    if flags["e"] == "qnn":
        backend = dict(pair.split("|") for pair in flags["i"].split())["backend_path"]
        folders = os.environ["FAKE_LD_LIBRARY_PATH"].split(":")
        places = [backend] if "/" in backend else [f"{folder}/{backend}" for folder in folders]
        if not any(on_disk(place).is_file() for place in places):
            print(f'Unable to load backend, error: dlopen failed: library "{backend}" not found', file=sys.stderr)
            return 255
    if flags["e"] == "nnapi":
        assert set(flags["i"].split()) <= {"NNAPI_FLAG_CPU_DISABLED", "NNAPI_FLAG_USE_FP16", "NNAPI_FLAG_USE_NCHW"}
    if state.get("falls_back") == "refused" and "session.disable_cpu_ep_fallback|1" in flags.get("C", ""):
        print("This session contains graph nodes that are assigned to the default CPU EP, but fallback to CPU EP has "
              "been explicitly disabled by the user.", file=sys.stderr)  # fmt: skip
        return 255
    return run(flags, model, result, state)


def run(flags: dict[str, str], model: Path, result: Path, state: dict) -> int:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(flags["x"])
    options.log_severity_level = 4
    if "D" in flags:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if "p" in flags:
        options.enable_profiling = True
        options.profile_file_prefix = str(on_disk(flags["p"]))
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        print(error, file=sys.stderr)
        return 255
    assert "I" in flags, "there is no test data for model"
    types = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
    feeds = {
        i.name: np.full(
            [n if isinstance(n, int) else 1 for n in i.shape], 0.5 if "float" in i.type else 0, types[i.type]
        )
        for i in session.get_inputs()
    }
    seconds = []
    for _ in range(1 + int(flags["r"])):
        begin = time.perf_counter()
        session.run(None, feeds)
        seconds.append(time.perf_counter() - begin)
    if "p" in flags:
        profile = Path(session.end_profiling())
        events = json.loads(profile.read_text())
        kernels = [e for e in events if e["cat"] == "Node" and "provider" in e.get("args", {})]
        stray = kernels[0]["name"] if state.get("falls_back") == "profile" else None
        for event in kernels:
            if event["name"] != stray:
                event["args"]["provider"] = PROVIDERS[flags["e"]]
        profile.write_text(json.dumps(events))
    if not free_bytes_left(1):
        print(f"failed to open result file '{result}'. will dump stats to output.", file=sys.stderr)
        return 0
    with result.open("a") as file:
        for index, value in enumerate(seconds[1:]):
            file.write(f"{model.parent.name},{value:g},104857600,97,{index}\n")
    print(f"Setting intra_op_num_threads to {flags['x']}\nSession creation time cost: 0.01 s")
    return 0


def main(words: list[str]) -> None:
    with (PHONE / "calls.log").open("a") as log:
        log.write(json.dumps(words) + "\n")
    if words == ["devices"]:
        states = json.loads((PHONE / "devices.json").read_text())
        print("List of devices attached")
        for serial, state in states.items():
            print(f"{serial}\t{state}")
        return
    assert words[0] == "-s", words
    serial, verb, *rest = words[1:]
    device(serial)
    if verb == "get-state":
        print("device")
    elif verb == "shell":
        assert len(rest) == 1, "one word, quoted for the phone's shell"
        lexer = shlex.shlex(rest[0], posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        commands: list[list[str]] = [[]]
        for part in lexer:
            if part == ";":
                commands.append([])
            elif part in ("&", "&&", "|", "||", "<", ">", ">>", "(", ")"):
                stop(f"sh: the phone would run something else: {rest[0]}", 2)
            else:
                commands[-1].append(part)
        code = 0
        for command in commands:
            code = shell(command)
        sys.exit(code)
    else:
        transfer(verb, *rest)


def answer(connection: socket.socket) -> None:
    """Runs one call, its words separated by NUL, the phone's folder first: code and size of stdout, stdout, stderr."""
    global PHONE, ROOT
    folder, *words = connection.makefile().read().split("\0")
    PHONE, ROOT = Path(folder), Path(folder) / "root"
    stdout, stderr, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            main(words)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except Exception as error:  # the stand-in itself is wrong
            print(f"stand-in for adb: {type(error).__name__}: {error}", file=sys.stderr)
            code = 99
    printed = stdout.getvalue().encode()
    connection.sendall(f"{code} {len(printed)}\n".encode() + printed + stderr.getvalue().encode())


def serve(path: str) -> None:
    parent = os.getppid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{path}.new")
        server.listen()
        os.rename(f"{path}.new", path)  # who sees it can connect
        server.settimeout(1.0)
        while os.getppid() == parent:
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(None)
                if os.fork() == 0:
                    answer(connection)
                    os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1])
