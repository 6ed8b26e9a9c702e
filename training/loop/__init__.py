"""The training loop: trainer, training state, optimizers and processes."""
