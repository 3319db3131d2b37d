"""An activation place, and what a conversion method decides for it."""

from dataclasses import dataclass

import torch

from pcsnn.calibration.trainable import TrainableNeuron
from pcsnn.graph.activations import signed_kind
from pcsnn.graph.places import bound
from pcsnn.graph.written import ClippedReLU
from pcsnn.nn.neuron import CollapsedNeuron
from pcsnn.nn.own_neuron import OwnNeuron


@dataclass
class Place:
    """Where a neuron will stand: its name, its activation, and whether dimension 1 of its current is a channel.

    `channels` None: only if the current has two dimensions. `mixed`: why it is not a channel, in words, where it is
    none.
    """

    name: str
    activation: torch.nn.Module
    channels: bool | None
    mixed: str = ""

    @property
    def known(self):
        """The activation, if it brings its neuron with it; else None."""
        return self.activation if isinstance(self.activation, OwnNeuron) else None

    @property
    def quantization_levels(self):
        return None if self.known is None else self.known.levels

    @property
    def bound(self):
        """The threshold or bound of the activation; None for ReLU, and where bounds by channel are of no channel."""
        if isinstance(self.activation, ClippedReLU) and self.channels is not True:
            return None
        return bound(self.activation)

    @property
    def serial(self):
        """Whether serial IF neurons stood here, which keep their threshold and levels whatever the method."""
        return self.known is not None and self.known.serial

    @property
    def signed(self):
        """(kind, slope) of an activation that goes below zero; None for any other."""
        return signed_kind(self.activation)

    def lossless(self, full_count):
        """Whether its own levels are exact at T D = `full_count`, so that nothing is to be chosen."""
        return self.known is not None and self.known.lossless(full_count)

    def own(self):
        """The Settings that the activation brings with it; it must have a bound."""
        if self.known is None:
            return Settings(self.bound)
        own = self.known.neuron()
        return Settings(**own, staircase=own.get("bend") is None)

    def why_one(self, neuron):
        """Words for the report where calibration had to choose one threshold for all channels; "" elsewhere."""
        if self.known is not None or self.signed or neuron.threshold.dim():
            return ""
        return f", one threshold for the layer since {self.mixed or 'its features are not dimension 1'}"

    def per_channel(self, value):
        """Whether dimension 1 of a current or rate is a channel."""
        return value.dim() == 2 if self.channels is None else self.channels

    def rows(self, value):
        """A current or rate [N, C, ...] -> [C, M] where its dimension 1 is a channel, else [1, M]."""
        return value.transpose(0, 1).flatten(1) if self.per_channel(value) else value.reshape(1, -1)

    def reduce(self, value, how):
        """A current or rate [N, C, ...] -> [C] where dimension 1 is a channel, else [], by torch.amax or torch.mean."""
        result = how(self.rows(value), 1)
        return result if self.per_channel(value) else result[0]


@dataclass
class Settings:
    """threshold, offset (psi_DA) and amplitude (theta + phi) of a place, numbers or [C]; amplitude None: the threshold.

    bend: [T] or [C, T], and shift, as in `pcsnn.nn.CollapsedNeuron`. staircase: a QCFS keeps its levels where L divides
        T.
    """

    threshold: torch.Tensor | float
    offset: torch.Tensor | float = 0.0
    amplitude: torch.Tensor | float | None = None
    bend: torch.Tensor | None = None
    staircase: bool = True
    shift: float = 0.5

    def neuron(self, place, timesteps, spike_levels=1):
        return CollapsedNeuron(
            self.threshold,
            timesteps,
            offset=self.offset,
            amplitude=self.amplitude,
            bend=self.bend,
            shift=self.shift,
            quantization_levels=place.quantization_levels if self.staircase else None,
            spike_levels=spike_levels,
        )

    def trainable(self, place, timesteps, device):
        return TrainableNeuron(self, timesteps, device)


def on_host(settings):
    """The same settings of a place, of whatever kind, with their tensors on the host."""
    return type(settings)(
        **{key: value.cpu() if isinstance(value, torch.Tensor) else value for key, value in vars(settings).items()}
    )
