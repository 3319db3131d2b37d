"""From trained networks to spiking ones, by torch.fx: trace, canonicalise, classify, calibrate, replace."""

from pcsnn.conversion.converter import convert

__all__ = ["convert"]
