"""What was measured on a device, however it came: parts (the base, stage options) and whole networks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from latency_predictors.importers.records import ImportedMeasurement
from latency_predictors.measurement import Measurement


def _whence(value: Any) -> str:
    provenance = value.get("provenance") if isinstance(value, Mapping) else getattr(value, "provenance", None)
    return "measured" if provenance is None else "imported"


#: One timing; both kinds have `latency_ms`.
Timing = Annotated[
    Annotated[Measurement, Tag("measured")] | Annotated[ImportedMeasurement, Tag("imported")], Discriminator(_whence)
]


@dataclass(frozen=True)
class Training:
    """Timings of one device, runtime and precision.

    Attributes:
        parts: by name as in :mod:`latency_predictors.subjects`: ``base``, ``E1/RA``.
        networks: by candidate id.
    """

    parts: Mapping[str, Measurement | ImportedMeasurement] = field(default_factory=dict)
    networks: Mapping[str, Measurement | ImportedMeasurement] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Of the rows as canonical JSON: sorted keys, no white space."""
        rows = {
            name: {subject: _row(timing) for subject, timing in timings.items()}
            for name, timings in (("parts", self.parts), ("networks", self.networks))
        }
        text = json.dumps(rows, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return sha256(text.encode()).hexdigest()


def _row(timing: Measurement | ImportedMeasurement) -> dict[str, Any]:
    row = timing.model_dump(mode="json")
    if row["ci95_ms"] is None:  # came later: rows without it keep the hash that they had
        del row["ci95_ms"]
    return row
