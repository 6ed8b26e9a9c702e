"""Folders and imports that all tests of a session share."""
