"""Measurements of the HTTP front: added latency, load, and generated requests."""
