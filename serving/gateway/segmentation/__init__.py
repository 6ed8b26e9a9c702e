"""Segmentation by prompts, by classes, or of everything."""
