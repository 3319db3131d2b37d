"""Accuracy, errors of layers, sweeps over T."""
