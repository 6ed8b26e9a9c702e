"""The demonstration: every stage on one real image, by the stages' own commands."""
