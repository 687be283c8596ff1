"""Names of what a calibration measures; a candidate's id is that of a whole U-Net."""

BASE = "base"


def option_subject(stage: str, option: str) -> str:
    """Subject name of a stage option."""
    return f"{stage}/{option}"


def graph_name(subject: str) -> str:
    """File name of a subject's graph."""
    return subject.replace("/", "_") + ".onnx"
