"""Datasets read from their official layouts on disk, lazily, and the open-vocabulary protocol."""
