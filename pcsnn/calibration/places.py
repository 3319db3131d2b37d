"""An activation place, and what a conversion method decides for it."""

from dataclasses import dataclass

import torch

from pcsnn.graph.activations import signed_kind
from pcsnn.graph.places import bound
from pcsnn.graph.written import ClippedReLU, Staircase
from pcsnn.nn import DAQCFS, QCFS, CollapsedNeuron
from pcsnn.nn.integrate_fire import IntegrateFire


@dataclass
class Place:
    """Where a neuron will stand: its name, its activation, and whether dimension 1 of its current is a channel.

    `channels` None: only if the current has two dimensions. `mixed`: why it is not a channel, in words, where it is none.
    """

    name: str
    activation: torch.nn.Module
    channels: bool | None
    mixed: str = ""

    @property
    def quantization_levels(self):
        known = isinstance(self.activation, (QCFS, DAQCFS, Staircase, IntegrateFire))
        return self.activation.levels if known else None

    @property
    def bound(self):
        """The learned threshold or the bound of the activation; None for ReLU, and where bounds by channel are of no channel."""
        if isinstance(self.activation, ClippedReLU) and self.channels is not True:
            return None
        return bound(self.activation)

    @property
    def serial(self):
        """Whether serial IF neurons stood here, which keep their threshold and levels whatever the method."""
        return isinstance(self.activation, IntegrateFire)

    @property
    def signed(self):
        """(kind, slope) of an activation that goes below zero; None for any other."""
        return signed_kind(self.activation)

    def lossless(self, timesteps):
        """Whether its own levels are exact at T = `timesteps`, so that nothing is to be chosen."""
        levels = self.quantization_levels
        uneven = isinstance(self.activation, DAQCFS) and self.activation.bend is not None
        return self.serial or levels is not None and (timesteps == levels if uneven else timesteps % levels == 0)

    def own(self):
        """The Settings that the activation brings with it; it must have a bound."""
        if self.serial:
            return Settings(self.bound, amplitude=self.activation.amplitude, shift=self.activation.shift)
        if isinstance(self.activation, DAQCFS):
            return Settings(**self.activation.neuron(), staircase=self.activation.bend is None)
        return Settings(self.bound)

    def why_one(self, neuron):
        """Words for the report where calibration had to choose one threshold for all channels of a layer; "" elsewhere."""
        if self.quantization_levels is not None or self.serial or self.signed or neuron.threshold.dim():
            return ""
        return f", one threshold for the layer since {self.mixed or 'its features are not dimension 1'}"

    def per_channel(self, value):
        """Whether dimension 1 of a current or rate is a channel."""
        return value.dim() == 2 if self.channels is None else self.channels

    def rows(self, value):
        """A current or rate [N, C, ...] -> [C, M] where its dimension 1 is a channel, else [1, M]."""
        return value.transpose(0, 1).flatten(1) if self.per_channel(value) else value.reshape(1, -1)

    def reduce(self, value, how):
        """A current or rate [N, C, ...] -> [C] where its dimension 1 is a channel, else [], by torch.amax or torch.mean."""
        result = how(self.rows(value), 1)
        return result if self.per_channel(value) else result[0]


@dataclass
class Settings:
    """threshold, offset (psi_DA) and amplitude (theta + phi) of a place, numbers or [C]; amplitude None: the threshold.

    bend: [T] or [C, T], and shift, as in `pcsnn.nn.CollapsedNeuron`. staircase: a QCFS keeps its levels where L divides T.
    """

    threshold: torch.Tensor | float
    offset: torch.Tensor | float = 0.0
    amplitude: torch.Tensor | float | None = None
    bend: torch.Tensor | None = None
    staircase: bool = True
    shift: float = 0.5

    def neuron(self, place, timesteps):
        return CollapsedNeuron(
            self.threshold,
            timesteps,
            offset=self.offset,
            amplitude=self.amplitude,
            bend=self.bend,
            shift=self.shift,
            quantization_levels=place.quantization_levels if self.staircase else None,
        )


def on_host(settings):
    """The same settings of a place, of whatever kind, with their tensors on the host."""
    return type(settings)(
        **{key: value.cpu() if isinstance(value, torch.Tensor) else value for key, value in vars(settings).items()}
    )
