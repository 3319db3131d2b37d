"""What fused layers are made of: a synapse, the counts that it reads, and the neurons behind it."""

from dataclasses import dataclass

import torch
from torch import nn

from pcsnn.nn.counts import BYTE, steps_of
from pcsnn.nn.synapses import LAYERS, Synapse


@dataclass
class Counts:
    """What is known of distinct counts: amplitude [] or [C], channels C, L, D, and how many neurons were added up;
    whether they were flattened; for the pixels of an image the value [C] of count 0.
    """

    worth: torch.Tensor
    channels: int | None
    levels: int | None
    spike_levels: int = 1
    area: int = 1
    flat: bool = False
    low: torch.Tensor | None = None

    def steps(self, timesteps):
        """The largest count."""
        return BYTE if self.low is not None else steps_of(timesteps * self.spike_levels, self.levels, self.area)

    def arguments(self, name="input"):
        """What a layer that reads them has to know."""
        return {f"{name}_levels": self.levels, f"{name}_area": self.area, f"{name}_spike_levels": self.spike_levels}


@dataclass
class Source:
    """A layer that has a fused form: what kind of synapse it is, and the counts that it reads, None for values."""

    layer: nn.Module
    synapse: Synapse
    into: Counts | None = None

    def weight(self):
        """float64 weights [O, C / groups, ...], times what the incoming spikes are worth."""
        weight = self._weight()
        if self.into is None:
            return weight
        worth = self.into.worth.double()
        if not worth.dim():
            return weight * worth
        if self.into.flat:
            worth = worth.repeat_interleave(weight.shape[1] // len(worth))
        groups = self.synapse.groups
        worth = worth.view(groups, 1, -1, *[1] * (weight.dim() - 2))
        return (weight.unflatten(0, (groups, -1)) * worth).flatten(0, 1)

    def _weight(self):
        return self.synapse.by_output(self.layer.weight.detach().double())

    def bias(self):
        """[O] or None, with what counts 0 stand for: `low` of pixels."""
        bias = self.layer.bias
        if self.into is None or self.into.low is None:
            return bias
        weight, groups = self._weight().flatten(2).sum(2), self.synapse.groups
        lows = (weight.view(groups, -1, weight.shape[1]) @ self.into.low.double().view(groups, -1, 1)).flatten()
        return lows if bias is None else lows + bias.detach().double()

    def is_sparse(self):
        """Whether a group has so few channels that int8 pays only where one primitive does it all (depthwise ones)."""
        return self.synapse.by_output(self.layer.weight).shape[1] < self.synapse.LEAST_INT8

    def spiking(self, weight, **options):
        """The layer with neurons behind it, of weights [O, C / groups, ...]; options replace what it says of itself."""
        return self._made(0, weight, options)

    def synaptic(self, weight, **options):
        """The layer without neurons, likewise."""
        return self._made(1, weight, options)

    def _made(self, which, weight, options):
        known = self.synapse.geometry()
        if self.into is not None:
            known |= self.into.arguments()
        return LAYERS[type(self.synapse)][which](self.synapse.from_output(weight), **known | options)


def neuron_arguments(neuron):
    """What makes a CollapsedNeuron like this one."""
    return dict(
        threshold=neuron.threshold,
        timesteps=neuron.timesteps,
        quantization_levels=neuron.quantization_levels,
        offset=neuron.offset,
        amplitude=neuron.amplitude,
        bend=neuron.bend,
        shift=neuron.shift,
        spike_levels=neuron.spike_levels,
    )
