"""Automatic segmentation on numpy arrays: vocabularies, prompt proposals, mask generation."""
