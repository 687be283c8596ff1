"""Command lines of onnxruntime_perf_test, and what its failures mean.

Flags as in onnxruntime/test/perftest/command_args_parser.cc (they are the same with and without Abseil, before and
after onnxruntime 1.23); messages as in ort_test_session.cc there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from latency_predictors.android.adb import TIMED_OUT, Reply
from latency_predictors.importers import read_measurements
from latency_predictors.measurement import Precision
from latency_predictors.runners.base import DeviceError
from search_spaces.errors import UserError

Provider = Literal["cpu", "xnnpack", "nnapi", "qnn"]

PROVIDERS: Mapping[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "nnapi": "NnapiExecutionProvider",
    "qnn": "QNNExecutionProvider",
}
"""Name on the command line -> name in profiles."""

PRECISIONS: Mapping[Provider, tuple[Precision, ...]] = {
    "cpu": ("float32", "w8a8", "w8a16"),
    "xnnpack": ("float32", "w8a8"),
    "nnapi": ("float32", "float16", "w8a8"),
    # Float graphs run in half precision there: the hardware has no other.
    "qnn": ("float16", "w8a8", "w8a16"),
}

_SIGNALS = {132: "SIGILL", 134: "SIGABRT", 135: "SIGBUS", 136: "SIGFPE", 137: "SIGKILL", 139: "SIGSEGV"}
_GRACE_S = 10.0


class Failure(NamedTuple):
    """Why a call failed, as part of a line; `crashed`: trying again may help."""

    reason: str
    crashed: bool = False


@dataclass(frozen=True)
class PerfTest:
    """The tool on the phone and how it is called.

    Attributes
    ----------
    path: of the binary; the shared libraries that it needs lie beside it.
    backend_path: of QNN's backend, on the phone; by its bare name it is looked for beside the binary.
    options: further options of the provider (`-i`).
    timeout_s: wall time of one call.
    """

    path: str
    provider: Provider
    threads: int
    precision: Precision
    timeout_s: float
    backend_path: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def patience_s(self) -> float:
        """How long to wait for an answer: the phone itself ends the call before."""
        return self.timeout_s + _GRACE_S

    def command(self, model: str, result: str, repeats: int, profile: str | None = None) -> list[str]:
        """Arguments of one call: one untimed run, then `repeats` timed ones, whose times are appended to `result`.

        `profile`: prefix of a profile's name; profiling slows small operators down.
        """
        folders = [str(PurePosixPath(self.path).parent)]
        if self.backend_path is not None and "/" in self.backend_path:
            folders.append(str(PurePosixPath(self.backend_path).parent))
        call = ["timeout", "-s", "KILL", str(math.ceil(self.timeout_s))]
        call += ["env", f"LD_LIBRARY_PATH={':'.join(folders)}"]
        if self.provider == "qnn":  # where the DSP looks for its half of the backend
            call.append(f"ADSP_LIBRARY_PATH={folders[-1]}")
        call += [self.path, "-e", self.provider, "-m", "times", "-r", str(repeats), "-x", str(self.threads)]
        # Inputs are made from the graph's shapes, by a seed. Threads do not spin, as in the runner for CPUs.
        call += ["-I", "-S", "0", "-D"]
        if self._provider_options:
            call += ["-i", self._provider_options]
        if self.provider != "cpu":
            call += ["-C", "session.disable_cpu_ep_fallback|1"]
        if profile is not None:
            call += ["-p", profile]
        return [*call, model, result]

    @property
    def _provider_options(self) -> str:
        options = dict(self.options)
        if self.provider == "qnn":
            options = {"backend_path": self.backend_path or "libQnnHtp.so", **options}
            if self.precision == "float16":
                options = {"enable_htp_fp16_precision": "1", **options}
        pairs = [f"{key}|{value}" for key, value in options.items()]
        if self.provider == "nnapi":
            # NNAPI's own fallback, which no profile shows: its reference implementation on the CPU.
            flags = ["NNAPI_FLAG_CPU_DISABLED"] + ["NNAPI_FLAG_USE_FP16"] * (self.precision == "float16")
            pairs = flags + [key for key in options if key not in flags]
        return " ".join(pairs)

    def failure(self, reply: Reply, seconds: float) -> Failure | None:
        """What is wrong with a call that took `seconds`; None if nothing is.

        Raises DeviceError where it is nothing about the graph: the provider is not in the build, the phone is full.
        """
        if reply.says("No space left on device") or reply.says("failed to open result file"):
            raise out_of_space(reply)
        if reply.says("is not supported in this build"):
            raise DeviceError(
                f"provider: {self.provider} is not in the onnxruntime_perf_test at {self.path}; build it with "
                f"--use_{self.provider}, or choose one that it has ({', '.join(PROVIDERS)})"
            )
        if reply.says("CANNOT LINK EXECUTABLE"):
            raise DeviceError(f"perf_test: {reply.reason}; push the libraries that it needs into its folder")
        if reply.code == 0:
            return None
        if reply.says("fallback to CPU EP has been explicitly disabled"):
            return Failure(
                f"not all of it would run on {PROVIDERS[self.provider]}; every node must run on the measured provider: "
                "replace the operators that it lacks, or measure with provider cpu"
            )
        if reply.code == TIMED_OUT or (reply.code == 137 and seconds >= self.timeout_s):
            return Failure(f"onnxruntime_perf_test was stopped after {self.timeout_s:g} s; give a larger timeout_s")
        if reply.code in _SIGNALS:
            last = f" ({reply.reason})" if reply.stderr.strip() else ""
            signal = _SIGNALS[reply.code]
            return Failure(
                f"onnxruntime_perf_test crashed with {signal}{last}; run it by hand on the phone", crashed=True
            )
        return Failure(f"onnxruntime_perf_test failed: {reply.reason}; export the graph again, or leave it out")

    def placement(self, subject: str, profile: Path) -> dict[str, int]:
        """Operators by execution provider, from a profile of onnxruntime; UserError if any ran elsewhere."""
        result = read_measurements(profile, format="onnxruntime-profile")
        counts = Counter(operator.unit or "no provider" for operator in result.operators)
        wanted = PROVIDERS[self.provider]
        strays = sorted({f"{o.op_type} on {o.unit}" for o in result.operators if o.unit != wanted})
        if strays or not counts:
            raise UserError(
                f"graph of {subject}: {', '.join(strays) or 'nothing'} instead of all on {wanted}; every node must "
                "run on the measured provider, replace these operators"
            )
        return dict(counts)


def out_of_space(reply: Reply) -> DeviceError:
    """The error of a full phone."""
    return DeviceError(
        f"phone: {reply.reason}; free some space on it, give another folder, or measure fewer graphs at a time "
        "(a smaller group)"
    )
