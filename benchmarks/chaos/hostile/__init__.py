"""Seeded corpus of hostile callers, for this project's own service on loopback only."""
