"""Adapters for annotation tools, each to be imported in the environment of its tool."""
