"""Kernels without a GPU: every launch there is, compiled and inspected."""
