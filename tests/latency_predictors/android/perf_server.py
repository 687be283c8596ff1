"""Runs graphs for the stand-in's onnxruntime_perf_test: a fork of this process for each, with onnxruntime loaded.

`python perf_server.py SOCKET`: a line of JSON is a call, a line of JSON the answer. Ends with its parent.
"""

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


def run(call: dict[str, Any]) -> tuple[int, str]:
    flags = call["flags"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(flags["x"])
    options.log_severity_level = 4
    if "D" in flags:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if call["profile"]:
        options.enable_profiling = True
        options.profile_file_prefix = call["profile"]
    try:
        session = onnxruntime.InferenceSession(call["model"], options, providers=["CPUExecutionProvider"])
    except Exception as error:
        return 255, str(error)
    assert "I" in flags, "there is no test data for model"
    types = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
    feeds = {
        i.name: np.full([n if isinstance(n, int) else 1 for n in i.shape], 0.5 if "float" in i.type else 0, types[i.type])
        for i in session.get_inputs()
    }
    seconds = []
    for _ in range(1 + int(flags["r"])):
        begin = time.perf_counter()
        session.run(None, feeds)
        seconds.append(time.perf_counter() - begin)
    if call["profile"]:
        profile = Path(session.end_profiling())
        events = json.loads(profile.read_text())
        kernels = [e for e in events if e["cat"] == "Node" and "provider" in e.get("args", {})]
        for event in kernels[1:] if call["strays"] else kernels:
            event["args"]["provider"] = call["provider"]
        profile.write_text(json.dumps(events))
    if call["full"]:
        return 0, f"failed to open result file '{call['result']}'. will dump stats to output."
    with open(call["result"], "a") as file:
        for index, value in enumerate(seconds[1:]):
            file.write(f"{Path(call['model']).parent.name},{value:g},104857600,97,{index}\n")
    return 0, ""


def main(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{path}.new")
        server.listen()
        os.rename(f"{path}.new", path)  # who sees it can connect
        server.settimeout(1.0)
        parent = os.getppid()
        while os.getppid() == parent:
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(None)
                call = json.loads(connection.makefile().readline())
                pid = os.fork()
                if pid == 0:
                    code, stderr = run(call)
                    connection.sendall(json.dumps({"code": code, "stderr": stderr}).encode() + b"\n")
                    os._exit(0)
                os.waitpid(pid, 0)


if __name__ == "__main__":
    main(sys.argv[1])
