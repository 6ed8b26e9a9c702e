"""Measurements on a GPU, within minutes: stages in processes of their own, and a report."""
