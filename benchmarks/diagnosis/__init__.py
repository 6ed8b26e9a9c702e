"""Diagnosis of calibration: the signal, its visibility to CaPL and the effect of CaPL."""
