"""Measurements behind the figures of the documentation; reports/ keeps those that it quotes."""
