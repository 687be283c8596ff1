"""Qualcomm's Hexagon compiler and emulator, through onnxruntime's QNN execution provider.

The compiler runs on this machine, for a SoC that is named and not here; so does an emulator of its
arithmetic. Together they say whether a graph compiles, fits and is accurate on the NPU, never how fast it is:
the emulator's time and its cycle counts are those of this machine.
Call these functions through :mod:`latency_predictors.isolated`: both are native code that may abort.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveInt

from latency_predictors.qnn.socs import Soc
from latency_predictors.quantization import fitting_inputs
from latency_predictors.runners.base import Sample
from search_spaces.errors import UserError

if TYPE_CHECKING:
    import onnxruntime

Optimization = Literal[0, 1, 2, 3]

_REGISTERED_AS = "qnn"
_UNSUPPORTED = re.compile(r"Unsupported nodes in QNN EP: (.*)")
_NODE = re.compile(r"\{ name: (.*?), type: (\w+) \}")
_LOG_PREFIX = re.compile(r"^.*?\[E:onnxruntime:[^\]]*\]\s*")
_COLOUR = re.compile(r"\x1b?\[[0-9;]*m")
_T = TypeVar("_T")


class Toolchain(BaseModel):
    """The versions that decide what a compilation gives; `qairt` is Qualcomm's SDK inside onnxruntime-qnn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    onnxruntime: str
    onnxruntime_qnn: str
    qairt: str


class Compiled(BaseModel):
    """A graph compiled for one SoC, all of it on the NPU.

    num_nodes counts the ONNX nodes of the quantised graph (conversions included) that the NPU took.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_nodes: PositiveInt
    context_bytes: PositiveInt
    seconds: NonNegativeFloat


def toolchain() -> Toolchain:
    """Versions of the installed toolchain.

    Raises:
        UserError: the extra is not installed.
    """
    try:
        installed = version("onnxruntime-qnn")
        from onnxruntime_qnn.build_and_package_info import qnn_version
    except (PackageNotFoundError, ImportError):
        raise UserError(
            "onnxruntime-qnn is not installed, so nothing can be compiled for a Qualcomm NPU; "
            "on x86-64 Linux: pip install 'nanosd-nas[qnn]'"
        ) from None
    return Toolchain(onnxruntime=version("onnxruntime"), onnxruntime_qnn=installed, qairt=qnn_version)


def compile_graph(graph: Path, soc: Soc, context: Path, optimization: Optimization = 0) -> Compiled:
    """Compiles a quantised graph for a SoC into `context` (.onnx) and its binary (see :func:`binary_path`).

    `optimization` is the compiler's effort: 0 its default, 1 the least, 3 the most.

    Raises:
        UserError: the extra is missing, or the NPU cannot take the graph: nodes that it does not support
            (named), or a reason of the compiler.
    """
    toolchain()
    context.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=context.parent, prefix=".compile-") as scratch:
        # Under its final name: the small ONNX file refers to the binary by name.
        target = Path(scratch) / context.name
        entries = {"ep.context_enable": "1", "ep.context_file_path": str(target)}
        begin = time.perf_counter()
        session = _reporting(graph.name, soc, lambda: _session(graph, soc, entries, optimization))
        seconds = time.perf_counter() - begin
        num_nodes = _check_placement(graph.name, soc, session)
        # Binary first: the file that refers to it appears only when the binary is there.
        os.replace(binary_path(target), binary_path(context))
        os.replace(target, context)
    return Compiled(num_nodes=num_nodes, context_bytes=binary_path(context).stat().st_size, seconds=seconds)


def binary_path(context: Path) -> Path:
    """Where the QNN context binary of a compiled graph lies."""
    return context.with_name(f"{context.stem}_qnn.bin")


def emulate(context: Path, soc: Soc, sample: Sample) -> dict[str, NDArray[Any]]:
    """Outputs (name -> float32 array) of a compiled graph in Qualcomm's emulator of the NPU.

    Inputs and outputs are float32; the graph converts them itself. Slow: seconds to minutes a block.

    Raises:
        UserError: the extra is missing, the binary is of another toolchain, or inputs do not fit.
    """
    toolchain()
    session = _reporting(context.name, soc, lambda: _session(context, soc, {}, 0))
    inputs = fitting_inputs(context.name, session, sample)
    names = [node.name for node in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def _session(
    graph: Path, soc: Soc, entries: dict[str, str], optimization: Optimization
) -> onnxruntime.InferenceSession:
    import onnxruntime
    import onnxruntime_qnn

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    device = _device()
    options.add_provider_for_devices(
        [device],
        {
            "backend_path": onnxruntime_qnn.get_qnn_htp_path(),
            "soc_model": str(soc.soc_model),
            "htp_arch": str(soc.htp_arch),
            "htp_graph_finalization_optimization_mode": str(optimization),
        },
    )
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(str(graph), options)


def _device() -> Any:
    import onnxruntime
    import onnxruntime_qnn

    def found() -> list[Any]:
        return [d for d in onnxruntime.get_ep_devices() if d.ep_name == _REGISTERED_AS]

    if not found():
        onnxruntime.register_execution_provider_library(_REGISTERED_AS, onnxruntime_qnn.get_library_path())
    devices = found()
    if not devices:
        raise UserError(
            "onnxruntime-qnn offers no device on this machine; it needs x86-64 Linux (see its release notes)"
        )
    return devices[0]


def _reporting(name: str, soc: Soc, make: Callable[[], _T]) -> _T:
    """What `make` gives; its failure as a UserError with the reason that the provider only logs."""
    with tempfile.TemporaryFile() as log:
        sys.stderr.flush()
        saved = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            return make()
        except UserError:
            raise
        except Exception as error:  # onnxruntime's errors have no common base class but Exception
            log.seek(0)
            lines = log.read().decode(errors="replace").splitlines()
            raise UserError(f"{soc.name} cannot take {name}: {failure_reason(lines, str(error))}") from error
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def failure_reason(log: Iterable[str], error: str) -> str:
    """One line from the provider's log and onnxruntime's error: unsupported operators, else what was logged last."""
    lines = [_COLOUR.sub("", line) for line in log]
    nodes: dict[str, str] = {}
    for line in lines:
        match = _UNSUPPORTED.search(line)
        if match:
            nodes.update(_NODE.findall(match[1]))
    if nodes:
        kinds = Counter(nodes.values())
        example = {kind: name for name, kind in reversed(nodes.items())}
        listed = ", ".join(f"{count} {kind} (such as {example[kind]})" for kind, count in sorted(kinds.items()))
        return f"operators that the NPU does not support as they are quantised here: {listed}"
    logged = [_LOG_PREFIX.sub("", line).strip() for line in lines if "[E:onnxruntime:" in line]
    reason = "; ".join(dict.fromkeys(logged)) or error
    return " ".join(reason.split())


def _check_placement(name: str, soc: Soc, session: onnxruntime.InferenceSession) -> int:
    """Number of nodes, all of them on the NPU: what ran elsewhere would be another network's compilation."""
    parts = session.get_provider_graph_assignment_info()
    strays = sorted(
        {
            f"{node.op_type} on {part.ep_name}"
            for part in parts
            if part.ep_name != _REGISTERED_AS
            for node in part.get_nodes()
        }
    )
    if strays:
        raise UserError(f"{soc.name} cannot take {name}: {', '.join(strays)} instead of the NPU")
    return sum(len(part.get_nodes()) for part in parts)
