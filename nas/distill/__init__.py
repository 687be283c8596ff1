"""Training of students by the teacher: single blocks (`blocks`), then whole networks (`align`).

The settings alone are re-exported here, so that a config can be read without importing torch.
"""

from nas.distill.settings import AlignSettings, DistillSettings

__all__ = ["AlignSettings", "DistillSettings"]
