"""The ways to segment: by prompts, by classes, or everything."""
