"""Launcher of the real Triton server, without a container."""
