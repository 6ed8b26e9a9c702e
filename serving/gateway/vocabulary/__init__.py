"""Vocabularies of tenants: their classes, changed by examples and stored on disk."""
