"""Bi-level optimisation (§4.3): the training step and its losses."""
