"""pcsnn: parallel spiking inference for PyTorch. All time-steps of a converted spiking network at once."""

from pcsnn import analysis, baselines, distributed, exchange, functional, hub, models, nn
from pcsnn.analysis import record
from pcsnn.conversion import convert
from pcsnn.fusion import optimize
from pcsnn.graph.registration import register_activation
from pcsnn.network import SpikingNetwork, set_timesteps
from pcsnn.operators.dispatch import backend_info, use_backend
from pcsnn.operators.tuning import tune
from pcsnn.storage import load, save
from pcsnn.tensors.memo import forget

__version__ = "0.1.0"
__all__ = [
    "SpikingNetwork",
    "analysis",
    "backend_info",
    "baselines",
    "convert",
    "distributed",
    "exchange",
    "forget",
    "functional",
    "hub",
    "load",
    "models",
    "nn",
    "optimize",
    "record",
    "register_activation",
    "save",
    "set_timesteps",
    "tune",
    "use_backend",
]


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
