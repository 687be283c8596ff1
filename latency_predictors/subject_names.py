"""Names of what a calibration measures; a candidate's id is that of a whole U-Net."""

BASE = "base"


def option_subject(stage: str, option: str) -> str:
    """Subject name of a stage option."""
    return f"{stage}/{option}"
