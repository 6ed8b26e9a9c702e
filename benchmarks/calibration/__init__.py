"""Calibration on unseen classes: arms, runs and their report."""
