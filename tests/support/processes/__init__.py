"""Processes that tests run."""
