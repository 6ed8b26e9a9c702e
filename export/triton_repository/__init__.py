"""Configuration and file layout of the Triton model repository."""
