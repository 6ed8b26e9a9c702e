"""Scenes of vector drawings: objects and their parts with exact masks."""
