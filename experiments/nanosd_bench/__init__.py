"""NanoSD-Bench: paired fidelity and costs of all candidates of the preset nanosd on the toy teacher, as a table.

`load()` reads it, `facts()` says what it was made with; `python -m experiments.nanosd_bench` makes it.
"""

from experiments.nanosd_bench.table import PATH, facts, load, single_swap_prior

__all__ = ["PATH", "facts", "load", "single_swap_prior"]
