"""Pretraining of the compact base."""
