"""Evaluation of a model by clicks and without annotators."""
