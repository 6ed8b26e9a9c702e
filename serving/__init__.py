"""Serving: Triton, the gateway in front of it, and the commands that start them."""
