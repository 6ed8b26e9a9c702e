"""Training data: images with entities, prompts drawn for them, and batches."""
