"""pcsnn: parallel spiking inference for PyTorch. All time-steps of a converted spiking network at once."""

from pcsnn import baselines, functional, nn
from pcsnn.analysis import record
from pcsnn.convert import SpikingNetwork, convert, set_timesteps
from pcsnn.convert.storage import load, save
from pcsnn.ops import backend_info, use_backend

__version__ = "0.1.0"
__all__ = [
    "SpikingNetwork", "backend_info", "baselines", "convert", "functional", "load", "nn", "record", "save", "set_timesteps",
    "use_backend",
]
