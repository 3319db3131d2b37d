"""The paper's own form: T steps packed into the batch, every synapse computed T times, neurons parallel over T (3)-(7)."""

import torch
from torch.utils._pytree import tree_map

from pcsnn import functional
from pcsnn.baselines.rebuild import Evaluated, with_neurons
from pcsnn.levels.signed import signed_spikes
from pcsnn.nn import SignedNeuron
from pcsnn.nn.precision import FullPrecisionBuffers


def _by_step(value, timesteps):
    """[T * N, ...] -> [T, N, ...], for N = 0 too."""
    return value.unflatten(0, (timesteps, len(value) // timesteps))


class PackedNeuron(FullPrecisionBuffers):
    """Currents [T * N, ...] to sorted spikes [T * N, ...] times amplitude, by the levels of a CollapsedNeuron.

    Args:
        neuron: the `pcsnn.nn.CollapsedNeuron` whose levels and amplitude it takes.
    """

    def __init__(self, neuron):
        super().__init__()
        self.timesteps = neuron.timesteps
        self.register_buffer("levels", neuron.levels)
        self.register_buffer("amplitude", neuron.spike)

    def forward(self, current, residual=None):
        if residual is not None:
            current = current + residual
        steps = _by_step(current, self.timesteps)
        return functional.fire_spikes(steps, self.levels, current.dtype, self.amplitude).flatten(0, 1)


class PackedSignedNeuron(PackedNeuron):
    """The same for a SignedNeuron: spikes of two signs, times amplitude (S2)."""

    def __init__(self, neuron):
        super().__init__(neuron)
        self.turn, self.low = neuron.turn, neuron.low

    def forward(self, current, residual=None):
        if residual is not None:
            current = current + residual
        spikes = functional.fire_spikes(_by_step(current, self.timesteps), self.levels)
        return (signed_spikes(spikes, self.turn, self.low) * self.amplitude.to(current.dtype)).flatten(0, 1)


def _packed_neuron(neuron):
    return (PackedSignedNeuron if isinstance(neuron, SignedNeuron) else PackedNeuron)(neuron)


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
        neuron: makes of each CollapsedNeuron or SignedNeuron what stands in its place.
    """

    def __init__(self, snn, neuron=_packed_neuron):
        super().__init__()
        self.network = with_neurons(snn, neuron, lambda: PackedAverage(snn.timesteps))
        self.timesteps = snn.timesteps

    @torch.no_grad()
    def forward(self, *inputs, **named_inputs):
        """The inputs of the source network, batch first, to the average of its outputs over T."""

        def repeat(value):
            return value.repeat(self.timesteps, *[1] * (value.dim() - 1)) if isinstance(value, torch.Tensor) else value

        def average(value):
            return _by_step(value, self.timesteps).mean(0)

        return tree_map(average, self.network(*tree_map(repeat, inputs), **tree_map(repeat, named_inputs)))


def packed(snn):
    """The converted network in the paper's form: [T, N, ...] in one batch of T * N, parallel neurons, mean output.

    Equal to the collapsed network: exactly in float64, up to ties in float32, where sums round in another order.

    Args:
        snn: a SpikingNetwork without analog operations, whose inputs have the batch first.

    Returns:
        PackedNetwork, sharing weights and levels.

    Raises:
        TypeError, ValueError: not a SpikingNetwork; one with analog operations.
    """
    return PackedNetwork(snn)
