"""Batches of calibration and evaluation data, checked."""
