"""Image embeddings and decoded masks from Triton, cached and batched."""
