"""pcsnn.optimize: converted networks with fused layers."""

from pcsnn.fusion.optimizer import optimize

__all__ = ["optimize"]
