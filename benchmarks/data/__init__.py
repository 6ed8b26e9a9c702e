"""Datasets made for the benchmarks."""
