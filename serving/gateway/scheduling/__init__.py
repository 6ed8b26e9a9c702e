"""Admission and fair scheduling of requests."""
