"""A package by name, so that a process that a test starts finds this one: torch-fidelity installs one named `tests`."""
