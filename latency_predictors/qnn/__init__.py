"""Qualcomm NPUs without the phone: quantise, compile for a named SoC, check numerics in the emulator.

Nothing here yields a latency: on a PC there is none to be had.
"""

from latency_predictors.qnn.compiler import Compiled, Toolchain, compile_graph, emulate, toolchain
from latency_predictors.qnn.quantization import QuantizationSettings, quantize_graph
from latency_predictors.qnn.report import CompileReport, read_report, write_report
from latency_predictors.qnn.socs import SOCS, Soc, find_soc
from latency_predictors.qnn.steps import CompileSettings, Steps, compile_subject
from latency_predictors.quantization import relative_l2
from latency_predictors.samples import read_samples, write_samples

__all__ = [
    "SOCS",
    "CompileReport",
    "CompileSettings",
    "Compiled",
    "QuantizationSettings",
    "Soc",
    "Steps",
    "Toolchain",
    "compile_graph",
    "compile_subject",
    "emulate",
    "find_soc",
    "quantize_graph",
    "read_report",
    "read_samples",
    "relative_l2",
    "toolchain",
    "write_report",
    "write_samples",
]
