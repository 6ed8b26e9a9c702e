"""Factories, peers and child processes shared by the tests."""
