"""Pretraining of the compact base: configuration, data, loss, training state and run."""
