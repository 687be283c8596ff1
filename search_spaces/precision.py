"""Numeric precisions: bytes of a weight and of an activation."""

from __future__ import annotations

from enum import StrEnum


class Precision(StrEnum):
    """How weights and activations are stored; ``w8a16`` is 8-bit weights and 16-bit activations."""

    FP32 = "fp32"
    FP16 = "fp16"
    W8A16 = "w8a16"
    W8A8 = "w8a8"

    @property
    def bytes_per_weight(self) -> int:
        """Bytes of an element of a parameter with two or more dimensions: kernels and matrices."""
        return {Precision.FP32: 4, Precision.FP16: 2}.get(self, 1)

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of an element of a parameter with fewer dimensions: biases and norms.

        With 8-bit weights a bias is added to 32-bit sums, and a norm is computed in floating point: four bytes
        (Source: biases as int32 in Jacob et al., arXiv 1712.05877, section 2.4).
        """
        return 2 if self is Precision.FP16 else 4

    @property
    def bytes_per_activation(self) -> int:
        """Bytes of an element of an activation."""
        return {Precision.FP32: 4, Precision.W8A8: 1}.get(self, 2)
