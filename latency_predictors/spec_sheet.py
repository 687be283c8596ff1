"""A device known from its spec sheet alone: rates for every kernel sum."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from search_spaces.errors import UserError, shown

_TRAFFIC = "traffic_elements"


class Legal(NamedTuple):
    """What a rate may be, in `unit`. The bounds are far outside of any device: they find a wrong unit, no more."""

    low: float
    high: float
    unit: str


LEGAL: Mapping[str, Legal] = {
    "macs_per_s": Legal(1e6, 1e18, "multiply-accumulates a second: 45 TOPS are 22.5e12"),
    "memory_bytes_per_s": Legal(1e6, 1e18, "bytes a second: 60 GB/s are 60e9"),
    "bytes_per_element": Legal(0.125, 16.0, "bytes of one activation: 4 for float32, 2 for w8a16"),
    "elements_per_s": Legal(1e6, 1e18, "outputs of norms, softmax and element-wise operators a second, such as 1e11"),
    "operator_s": Legal(0.0, 1.0, "seconds of calling one operator: 5 us are 5e-6"),
}


def _bounds(name: str) -> Any:
    return Field(ge=LEGAL[name].low, le=LEGAL[name].high, allow_inf_nan=False)


class SpecSheet(BaseModel):
    """Peak or sustained rates; a sum of kernel sums over them is the roofline without overlap. `LEGAL` has the bounds.

    Attributes:
        macs_per_s: multiply-accumulates; sheets state operations, two a MAC (45 TOPS are 22.5e12).
        memory_bytes_per_s: of activations read and written by operators.
        bytes_per_element: of an activation at the profile's precision.
        elements_per_s: outputs of norms, softmax and element-wise operators; None: they cost their memory traffic only.
        operator_s: of calling one operator.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    macs_per_s: Annotated[float, _bounds("macs_per_s")]
    memory_bytes_per_s: Annotated[float, _bounds("memory_bytes_per_s")]
    bytes_per_element: Annotated[float, _bounds("bytes_per_element")]
    elements_per_s: Annotated[float, _bounds("elements_per_s")] | None = None
    operator_s: Annotated[float, _bounds("operator_s")] = 0.0

    @classmethod
    def of(cls, rates: Mapping[str, Any], where: str = "spec sheet") -> Self:
        """From numbers, or texts that are numbers.

        Raises:
            UserError: beginning with `where`, for a rate that is unknown, missing, no number or out of bounds.
        """
        try:
            return cls.model_validate(dict(rates))
        except ValidationError as error:
            wrong = error.errors(include_url=False)
        # A name that is misspelt is why another is missing.
        first = next((each for each in wrong if each["loc"][0] not in LEGAL), wrong[0])
        name, value = str(first["loc"][0]), first["input"]
        if name not in LEGAL:
            raise UserError(f"{where}: {name} is no rate; legal are {', '.join(LEGAL)}")
        low, high, unit = LEGAL[name]
        if first["type"] == "missing":
            raise UserError(f"{where}: {name} is missing ({unit}); give it, in the file or as {name}=X")
        raise UserError(f"{where}: {name} is {shown(value)}; legal is a number from {low:g} to {high:g}, {unit}")

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
