"""The converted network: a traced graph with neurons, its report, its CUDA graphs."""

from pcsnn.network.network import SpikingNetwork, set_timesteps

__all__ = ["SpikingNetwork", "set_timesteps"]
