"""Activations that know the neuron that takes their place."""

from typing import Any

import torch


class OwnNeuron(torch.nn.Module):
    """An activation that brings its neuron with it, whatever the conversion's method.

    Attributes:
        levels: L, the distinct levels of its neuron at every T D that L divides (10); None: one for each count.
        serial: whether serial IF neurons stood there, whose threshold and levels stay at every T.
    """

    levels: int | None = None
    serial: bool = False

    def neuron(self) -> dict[str, Any]:
        """Arguments of its CollapsedNeuron but T and L: threshold; offset, amplitude, shift, bend where it has them."""
        return dict(threshold=self.threshold.detach())

    def lossless(self, full_count: int) -> bool:
        """Whether its neuron has exactly its levels at T D = `full_count`."""
        return full_count % self.levels == 0
