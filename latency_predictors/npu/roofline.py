"""Roofline of an NPU: each operator waits for its matrix unit, its vector unit or its memory, whichever is slowest.

An operator with a matrix product takes max(padded MACs / rate, bytes / bandwidth), where bytes are its weights and
what of its activations does not fit the on-chip memory; any other takes max(elements / rate, spilled bytes /
bandwidth). Every operator adds an overhead, every network a constant. Latency is thus a sum over operators, and a
candidate's is the sum over its stages.

Source: Williams et al., CACM 2009 (roofline); fitted as the maximum a posteriori in log error, with log-normal priors
from data sheets, because few distinct graphs are measured and plain regression overfits them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import least_squares

from search_spaces.kernels import Kind
from search_spaces.precision import Precision
from search_spaces.tracing import Trace

Floats = NDArray[np.float64]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

BLOCK = 32
"""Channels that the matrix unit takes at a time, of inputs and of outputs."""
ON_CHIP_BYTES = 8 * 2**20
"""Tightly coupled memory (VTCM) of Hexagon NPUs of this class."""


class Attention(StrEnum):
    """How the exported graph computes attention.

    ``per_head``: one head at a time, as AI Hub exports Stable Diffusion's U-Net, so that scores are made and used in
    pieces on the chip. ``materialised``: all heads' scores at once, written to memory and read back.
    """

    PER_HEAD = "per_head"
    MATERIALISED = "materialised"


# Rates of the roofline by class of operator; elements of the first four are MACs.
_RATES = (
    "conv_gmacs_per_ms",
    "linear_gmacs_per_ms",
    "attention_gmacs_per_ms",
    "depthwise_gmacs_per_ms",
    "softmax_melements_per_ms",
    "norm_melements_per_ms",
    "elementwise_melements_per_ms",
    "copy_melements_per_ms",
)
_CONV, _LINEAR, _ATTENTION, _DEPTHWISE, _SOFTMAX, _NORM, _ELEMENTWISE, _COPY = range(8)
_NUM_MATRIX = 4
_CLASSES = {
    Kind.POINTWISE: _LINEAR,
    Kind.LINEAR: _LINEAR,
    Kind.TRANSPOSED: _CONV,
    Kind.ATTENTION: _ATTENTION,
    Kind.DEPTHWISE: _DEPTHWISE,
    Kind.GROUPED: _DEPTHWISE,
    Kind.SOFTMAX: _SOFTMAX,
    Kind.GROUP_NORM: _NORM,
    Kind.LAYER_NORM: _NORM,
    Kind.ELEMENTWISE: _ELEMENTWISE,
    Kind.COPY: _COPY,
}


class Roofline(BaseModel):
    """Rates and overheads of one device and precision."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    conv_gmacs_per_ms: Positive
    linear_gmacs_per_ms: Positive
    attention_gmacs_per_ms: Positive
    depthwise_gmacs_per_ms: Positive
    softmax_melements_per_ms: Positive
    norm_melements_per_ms: Positive
    elementwise_melements_per_ms: Positive
    copy_melements_per_ms: Positive
    memory_mbytes_per_ms: Positive
    operator_us: Positive
    constant_ms: Positive


class Prior(BaseModel):
    """Medians and log standard deviations of the parameters before any measurement.

    Orders of magnitude from what vendors publish: phone NPUs of the SM8750's class are sold with tens of INT8 TOPS,
    about 20 GMACs a millisecond, half of that with 16-bit activations, of which real layers reach a part; 64 bits
    of LPDDR5X move up to 85 GB/s, of which some 60 are reached. Vector rates and overheads are known to a factor of
    two only. The standard deviations are wide enough for its neighbours.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    median: Roofline = Roofline(
        conv_gmacs_per_ms=10,
        linear_gmacs_per_ms=6,
        attention_gmacs_per_ms=5,
        depthwise_gmacs_per_ms=0.3,
        softmax_melements_per_ms=100,
        norm_melements_per_ms=100,
        elementwise_melements_per_ms=150,
        copy_melements_per_ms=150,
        memory_mbytes_per_ms=60,
        operator_us=2,
        constant_ms=0.1,
    )
    log_sd: Roofline = Roofline(
        conv_gmacs_per_ms=0.5,
        linear_gmacs_per_ms=0.5,
        attention_gmacs_per_ms=0.7,
        depthwise_gmacs_per_ms=1,
        softmax_melements_per_ms=0.8,
        norm_melements_per_ms=0.8,
        elementwise_melements_per_ms=0.8,
        copy_melements_per_ms=0.8,
        memory_mbytes_per_ms=0.4,
        operator_us=0.8,
        constant_ms=0.7,
    )


NAMES = tuple(Roofline.model_fields)


@dataclass(frozen=True)
class Work:
    """What the operators of a network ask of an NPU; all arrays (operators,).

    Attributes:
        kind: class of operator, an index of the roofline's rates.
        num: padded MACs, or elements written.
        num_bytes: weights and spilled activations, in bytes.
    """

    kind: NDArray[np.int64]
    num: Floats
    num_bytes: Floats

    @classmethod
    def of(cls, trace: Trace, precision: Precision, attention: Attention = Attention.PER_HEAD) -> Work:
        """Of a recorded network or stage."""
        rows = []
        for step in trace.steps:
            kernel = step.kernel
            # Full convolutions are named by their size; every other class is in the table, or this raises.
            kind = _CONV if kernel.name.startswith(Kind.CONV) else _CLASSES[Kind(kernel.name)]
            activations = (step.num_read + step.num_written) * precision.bytes_per_activation
            on_chip = attention is Attention.PER_HEAD and kind in (_ATTENTION, _SOFTMAX)
            spilled = 0 if on_chip else max(0, activations - ON_CHIP_BYTES)
            weights = step.num_weights * precision.bytes_per_weight if kind < _NUM_MATRIX else 0
            padding = 1.0
            if kind < _DEPTHWISE:  # a depthwise convolution fills blocks by its own rules: left to its rate
                padding = _padding(kernel.num_contracted) * _padding(kernel.num_produced)
            num = kernel.macs * padding if kind < _NUM_MATRIX else step.num_written
            rows.append((kind, num, weights + spilled))
        columns = list(zip(*rows, strict=True)) or [(), (), ()]
        return cls(np.array(columns[0], dtype=np.int64), np.array(columns[1], float), np.array(columns[2], float))


def _padding(num: int) -> float:
    return math.ceil(num / BLOCK) * BLOCK / num


def operators_ms(roofline: Roofline, work: Work) -> float:
    """Latency in ms of a part of a network: additive, without the network's constant."""
    return _operators_ms(_vector(roofline), work)


def network_ms(roofline: Roofline, work: Work) -> float:
    """Latency in ms of a whole network."""
    return operators_ms(roofline, work) + roofline.constant_ms


def fit(
    works: Sequence[Work], latency_ms: Sequence[float], sd: Sequence[float], prior: Prior | None = None
) -> Roofline:
    """The maximum a posteriori roofline.

    Args:
        works: measured networks; empty gives the prior's median: a prediction from the data sheet alone.
        latency_ms: their latencies.
        sd: of their log errors; Cauchy loss, because the public figures hold gross errors.
        prior: default: that of phone NPUs of SM8750's class.
    """
    prior = prior or Prior()
    mean, spread = np.log(_vector(prior.median)), _vector(prior.log_sd)
    if not works:
        return prior.median
    target, sds = np.log(latency_ms), np.asarray(sd, float)

    def residuals(log: Floats) -> Floats:
        vector = np.exp(log)
        found = np.array([_operators_ms(vector, work) + vector[-1] for work in works])
        return np.concatenate([(np.log(found) - target) / sds, (log - mean) / spread])

    solution = np.exp(least_squares(residuals, mean, loss="cauchy").x)
    return Roofline(**{name: float(f"{value:.4g}") for name, value in zip(NAMES, solution, strict=True)})


def _vector(roofline: Roofline) -> Floats:
    return np.array([getattr(roofline, name) for name in NAMES])


def _operators_ms(vector: Floats, work: Work) -> float:
    # GMACs and million elements per ms: 1e9 and 1e6.
    unit = np.where(work.kind < _NUM_MATRIX, 1e9, 1e6)
    busy = work.num / (vector[work.kind] * unit)
    memory = work.num_bytes / (vector[len(_RATES)] * 1e6)
    return float(np.maximum(busy, memory).sum()) + len(work.kind) * float(vector[len(_RATES) + 1]) * 1e-3
