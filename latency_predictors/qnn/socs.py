"""Qualcomm systems on chip that a graph can be compiled for."""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.errors import UserError


@dataclass(frozen=True)
class Soc:
    """A system on chip as Qualcomm's compiler knows it.

    Attributes:
        name: marketing-free model number, such as SM8750.
        soc_model: number of the SoC in the QNN SDK.
        htp_arch: version of its Hexagon tensor processor (79: v79).
        device: a device that has it, for the reader.
    """

    name: str
    soc_model: int
    htp_arch: int
    device: str


# Numbers: `QcomChipset` and `_soc_info_table` of ExecuTorch's backends/qualcomm/serialization/qc_schema.py
# (Qualcomm Innovation Center, BSD licence), which states those of the QNN SDK. Chips older than v73 are left
# out: nothing here was compiled for them.
SOCS: dict[str, Soc] = {
    soc.name: soc
    for soc in (
        Soc("SM8550", 43, 73, "Snapdragon 8 Gen 2"),
        Soc("SM8650", 57, 75, "Snapdragon 8 Gen 3 (Galaxy S24)"),
        Soc("SM8750", 69, 79, "Snapdragon 8 Elite (Galaxy S25)"),
        Soc("SM8845", 97, 81, "Snapdragon 8 Gen 5"),
        Soc("SM8850", 87, 81, "Snapdragon 8 Elite Gen 5"),
        Soc("SA8255", 52, 73, "Snapdragon automotive cockpit"),
        Soc("QCS9100", 77, 73, "Dragonwing IQ-9"),
    )
}


def find_soc(name: str) -> Soc:
    """The SoC of this name.

    Raises:
        UserError: an unknown name; the message lists those that are known.
    """
    if name not in SOCS:
        raise UserError(f"SoC {name!r} is not known; legal are {', '.join(SOCS)}")
    return SOCS[name]
