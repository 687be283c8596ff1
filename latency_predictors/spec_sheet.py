"""A device known from its spec sheet alone: rates for every kernel sum."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from search_spaces.errors import UserError

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_TRAFFIC = "traffic_elements"


class SpecSheet(BaseModel):
    """Peak or sustained rates; a sum of kernel sums over them is the roofline without overlap.

    Attributes:
        macs_per_s: multiply-accumulates; sheets state operations, two a MAC (45 TOPS are 22.5e12).
        memory_bytes_per_s: of activations read and written by operators.
        bytes_per_element: of an activation at the profile's precision.
        elements_per_s: outputs of norms, softmax and element-wise operators; None: they cost their memory traffic only.
        operator_s: of calling one operator.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    macs_per_s: Rate
    memory_bytes_per_s: Rate
    bytes_per_element: Rate
    elements_per_s: Rate | None = None
    operator_s: float = Field(default=0.0, ge=0, allow_inf_nan=False)

    def rates_per_ms(self, kernel_names: tuple[str, ...]) -> dict[str, float]:
        """Rate of every kernel sum in units per ms, infinite for what costs nothing; UserError for an unknown one."""
        return {name: self._rate_per_ms(name) for name in kernel_names}

    def _rate_per_ms(self, name: str) -> float:
        if "_macs@" in name:
            return self.macs_per_s * 1e-3
        if name == _TRAFFIC:
            return self.memory_bytes_per_s / self.bytes_per_element * 1e-3
        if name.endswith("_elements"):
            return math.inf if self.elements_per_s is None else self.elements_per_s * 1e-3
        if name.startswith("num_"):
            return 1e-3 / self.operator_s if self.operator_s else math.inf
        raise UserError(
            f"spec sheet: no rate for kernel sum {name!r}; known are *_macs@*, *_elements, {_TRAFFIC} and num_*"
        )
