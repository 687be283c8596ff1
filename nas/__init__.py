"""The search itself: teacher, distillation, fidelity, sweep, front, picks, export."""
