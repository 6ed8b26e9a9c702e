"""Segmentation without annotators: vocabularies, prompt proposals, mask generation and merging, on numpy arrays."""
