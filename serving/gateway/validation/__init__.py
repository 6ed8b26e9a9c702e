"""Validation of requests before any work is done for them."""
