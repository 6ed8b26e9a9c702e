"""Admission control and fair queueing of requests."""
