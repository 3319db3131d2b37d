"""Networks whose neurons a file of other software defines."""

import copy
from typing import Any

import torch

from pcsnn.network.network import SpikingNetwork, set_timesteps
from pcsnn.network.report import Report


class ImportedNetwork(SpikingNetwork):
    """A SpikingNetwork that was read, thresholds and all, from a file of other software: `pcsnn.exchange.read_nir`.

    `pcsnn.convert(network, T, spike_levels=D)` takes it like a network that is yet to be converted and gives a copy at
    T and D: its thresholds are its own, and neither method nor data change them.

    Attributes:
        meta: what the file says of itself: "timesteps", the T that it was written for, None where it does not say.
    """

    def __init__(self, network: torch.fx.GraphModule, report: Report, meta: dict[str, Any]) -> None:
        super().__init__(network, report)
        self.meta = meta

    def at(self, timesteps: int, spike_levels: int) -> "ImportedNetwork":
        """A copy at T and D, with weights of its own; a ValueError where T D is out of range."""
        made = copy.deepcopy(self)
        set_timesteps(made, timesteps, spike_levels)
        return made
