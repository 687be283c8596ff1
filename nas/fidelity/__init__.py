"""How far a candidate is from the teacher: paired errors, taFID, the table of single swaps.

Settings and the error are re-exported here, so that a config can be read without importing torch.
"""

from nas.fidelity.errors import FidelityError
from nas.fidelity.settings import FidelitySettings

__all__ = ["FidelityError", "FidelitySettings"]
