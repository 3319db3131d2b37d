"""From trained networks to spiking ones, by torch.fx: trace, canonicalise, classify, choose settings, replace."""

from pcsnn.convert.converter import convert
from pcsnn.convert.network import SpikingNetwork, set_timesteps

__all__ = ["SpikingNetwork", "convert", "set_timesteps"]
