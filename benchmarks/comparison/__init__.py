"""Comparison of methods on the same data in the same time."""
