"""Commands that print or draw what a run measured, from the run directory's files alone."""
