"""pcsnn: parallel spiking inference for PyTorch. All time-steps of a converted spiking network at once."""

from pcsnn import analysis, baselines, distributed, exchange, functional, models, nn
from pcsnn.analysis import record
from pcsnn.convert import SpikingNetwork, convert, set_timesteps
from pcsnn.convert.storage import load, save
from pcsnn.fusion import optimize
from pcsnn.ops import backend_info, use_backend
from pcsnn.remembered import forget
from pcsnn.tuning import tune

__version__ = "0.1.0"
__all__ = [
    "SpikingNetwork", "analysis", "backend_info", "baselines", "convert", "distributed", "exchange", "forget",
    "functional", "load", "models", "nn", "optimize", "record", "save", "set_timesteps", "tune", "use_backend",
]
