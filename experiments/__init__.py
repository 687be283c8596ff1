"""Command line, recipes, the toy teacher and the benchmarks."""
