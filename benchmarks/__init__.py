"""Measurements behind the claims of the documentation; each writes its figures beside its plots."""
