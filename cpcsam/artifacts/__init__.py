"""Artifacts: directories with a manifest, written atomically and kept in versions."""
