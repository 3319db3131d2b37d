"""pcsnn: parallel spiking inference for PyTorch."""

from pcsnn import functional
from pcsnn.ops import backend_info, use_backend

__version__ = "0.1.0"
__all__ = ["backend_info", "functional", "use_backend"]
