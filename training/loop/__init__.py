"""Generic training loop: trainer, training state, optimisers and processes."""
