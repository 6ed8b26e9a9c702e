"""Maintenance commands of the checkout: prerequisites, locks, the wheel and API compatibility."""
