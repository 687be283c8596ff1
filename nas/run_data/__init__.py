"""A run directory as one typed object: `read_run(folder)`; see `nas.run_data.files` for the formats."""

from nas.run_data.columns import MAX_DRAWN, Columns, contradicting
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
    "MAX_DRAWN",
    "OBJECTIVES",
    "PARTS",
    "STAGES",
    "BlockLoss",
    "Candidate",
    "ClosingRow",
    "Columns",
    "Device",
    "LatencyPoint",
    "ModelImages",
    "Pick",
    "RunData",
    "Scores",
    "SpaceFacts",
    "SwapTable",
    "contradicting",
    "read_run",
    "space_facts",
    "word_order",
    "words_of",
]
