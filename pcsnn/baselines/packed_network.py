"""The paper's own form: T steps packed into the batch, each synapse computed T times, parallel neurons (3)-(7)."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map

from pcsnn.baselines.rebuild import Evaluated, with_neurons
from pcsnn.network.network import SpikingNetwork
from pcsnn.nn.precision import FullPrecisionBuffers


def _by_step(value, timesteps):
    """[T * N, ...] -> [T, N, ...], for N = 0 too."""
    return value.unflatten(0, (timesteps, len(value) // timesteps))


class PackedNeuron(FullPrecisionBuffers):
    """Currents [T * N, ...] to sorted spikes [T * N, ...] times amplitude, by the levels of a collapsed neuron.

    Args:
        neuron: the `pcsnn.nn.neuron.Neuron` whose levels and amplitude it has; a later change of its T changes nothing
            here.
    """

    def __init__(self, neuron):
        super().__init__()
        self.timesteps = neuron.timesteps
        self.neuron = copy.deepcopy(neuron)
        self.register_buffer("amplitude", neuron.spike)

    def forward(self, current, residual=None):
        if residual is not None:
            current = current + residual
        return self.neuron.fire(_by_step(current, self.timesteps), self.amplitude).flatten(0, 1)


class PackedAverage(torch.nn.Module):
    """Values [T * N, ...] to their average over T, at every step."""

    def __init__(self, timesteps):
        super().__init__()
        self.timesteps = timesteps

    def forward(self, x):
        return _by_step(x, self.timesteps).mean(0).repeat(self.timesteps, *[1] * (x.dim() - 1))


class PackedNetwork(Evaluated):
    """A converted network with T steps in the batch; made by `packed`. Shares the weights of its SpikingNetwork.

    Args:
        snn: see `packed`.
        neuron: makes of each neuron what stands in its place.
    """

    def __init__(self, snn: SpikingNetwork, neuron: Callable[..., torch.nn.Module | None] = PackedNeuron) -> None:
        super().__init__()
        self.network = with_neurons(snn, neuron, lambda: PackedAverage(snn.timesteps))
        self.timesteps = snn.timesteps

    @torch.no_grad()
    def forward(self, *inputs: Any, **named_inputs: Any) -> Any:
        """The inputs of the source network, batch first, to the average of its outputs over T."""

        def repeat(value):
            return value.repeat(self.timesteps, *[1] * (value.dim() - 1)) if isinstance(value, torch.Tensor) else value

        def average(value):
            return _by_step(value, self.timesteps).mean(0)

        return tree_map(average, self.network(*tree_map(repeat, inputs), **tree_map(repeat, named_inputs)))


def packed(snn: SpikingNetwork) -> PackedNetwork:
    """The converted network in the paper's form: [T, N, ...] in one batch of T * N, parallel neurons, mean output.

    Equal to the collapsed network: exactly in float64, up to ties in float32, where sums round in another order.

    Args:
        snn: a SpikingNetwork without analog operations, whose inputs have the batch first.

    Returns:
        PackedNetwork, sharing weights.

    Raises:
        TypeError, ValueError: not a SpikingNetwork; one with analog operations.
    """
    return PackedNetwork(snn)
