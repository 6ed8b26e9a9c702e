"""Triton model repository: configurations, file layout and publishing of versions."""
