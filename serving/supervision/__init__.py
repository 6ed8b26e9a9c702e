"""Supervision of child processes: their life, their restarts with backoff, and counts of those."""
