"""Bi-level optimisation (§4.3): configuration, losses, train step and run."""
