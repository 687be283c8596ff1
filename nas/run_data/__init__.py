"""A run directory as one typed object: `read_run(folder)`; see `nas.run_data.files` for the formats."""

from nas.run_data.files import PARTS, read_run
from nas.run_data.space_facts import space_facts
from nas.run_data.types import (
    BlockLoss,
    Candidate,
    ClosingRow,
    Device,
    LatencyPoint,
    ModelImages,
    OBJECTIVES,
    Pick,
    RunData,
    STAGES,
    Scores,
    SpaceFacts,
    SwapTable,
    word_order,
    words_of,
)

__all__ = [
    "PARTS",
    "BlockLoss",
    "Candidate",
    "ClosingRow",
    "Device",
    "LatencyPoint",
    "ModelImages",
    "OBJECTIVES",
    "Pick",
    "RunData",
    "STAGES",
    "Scores",
    "SpaceFacts",
    "SwapTable",
    "word_order",
    "words_of",
    "read_run",
    "space_facts",
]
