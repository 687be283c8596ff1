"""NanoSD-Bench: paired fidelity and costs of all candidates of the preset nanosd on the toy teacher, as a table."""
