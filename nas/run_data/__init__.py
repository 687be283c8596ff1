"""A run directory as one typed object: `read_run(folder)`; see `nas.run_data.files` for the formats."""

from nas.run_data.files import PARTS, read_run
from nas.run_data.space_facts import space_facts
from nas.run_data.types import (
    OBJECTIVES,
    STAGES,
    BlockLoss,
    Candidate,
    ClosingRow,
    Device,
    LatencyPoint,
    ModelImages,
    Pick,
    RunData,
    Scores,
    SpaceFacts,
    SwapTable,
    word_order,
    words_of,
)

__all__ = [
    "OBJECTIVES",
    "PARTS",
    "STAGES",
    "BlockLoss",
    "Candidate",
    "ClosingRow",
    "Device",
    "LatencyPoint",
    "ModelImages",
    "Pick",
    "RunData",
    "Scores",
    "SpaceFacts",
    "SwapTable",
    "read_run",
    "space_facts",
    "word_order",
    "words_of",
]
