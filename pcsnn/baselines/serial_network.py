"""Serial integrate-and-fire with soft reset (2), (22): the form everyone simulates, T passes over the network."""

import contextlib
import threading
import weakref
from typing import Any

import torch
from torch.utils._pytree import tree_map

from pcsnn.baselines.rebuild import Evaluated, with_neurons
from pcsnn.network.network import SpikingNetwork
from pcsnn.nn.precision import FullPrecisionBuffers
from pcsnn.tensors import checks
from pcsnn.tensors.arithmetic import divided, per_channel


class _Potentials(threading.local):
    """{SerialIF: membrane potential} of a thread; none of those that start a new train."""

    def __init__(self):
        self.of = weakref.WeakKeyDictionary()


_here = _Potentials()


def _reached(potential, unit, most):
    """#{x in 1..most : potential >= x * unit}, in the dtype of the potential, each product rounded as the one that is
    subtracted: clip(floor(potential / unit), 0, most) but for the rounding of a quotient. NaN gives 0."""
    count = (potential / unit).floor_().clamp_(0, most).nan_to_num_(0)  # one off at most
    count += potential >= (count + 1) * unit
    count -= (potential < count * unit).to(count.dtype)
    return count.clamp_(0, most)


class SerialIF(FullPrecisionBuffers):
    """Serial soft-reset IF, a step a call: v += I + psi_DA; s = [v >= theta]; v -= theta * s; returns amplitude * s.

    With D > 1 integer spikes (22): s = clip(floor(v / theta_s), 0, D); v -= theta_s * s, where theta_s = theta / D.
    Source of those: I-LIF (TPAMI 2025) at inference, here without a leak.

    Args:
        threshold, offset: numbers or tensors [] or [C], as in `pcsnn.nn.CollapsedNeuron`. The layer is on the device of
            the first of them and amplitude that is a tensor.
        amplitude: what a spike of value 1 is worth, a number or a tensor [] or [C]; None is theta / D.
        shift: v starts at shift * theta / D; 0.5 is half of what a spike of value 1 takes.
        spike_levels: D, 1..255, the largest spike of a step.

    Shape: current [N, ...] to [N, ...]. `reset()` starts a new train. The potential is that of the thread: several may
    step one layer, each through a train of its own.
    """

    def __init__(self, threshold, offset=0.0, amplitude=None, shift=0.5, spike_levels=1):
        super().__init__()
        checks.integer("spike_levels", spike_levels, 1, checks.MAX_TIMESTEPS)
        device = checks.device_of(threshold, offset, amplitude)
        theta = torch.as_tensor(threshold).detach().to(device)
        theta = theta.clamp(max=torch.finfo(theta.dtype).max)  # finite: v - theta * 0 must not become NaN
        self.register_buffer("threshold", theta)
        self.register_buffer("offset", torch.as_tensor(offset, dtype=theta.dtype).detach().to(device))
        self.spike_levels, self.shift, self._offset_given = spike_levels, shift, bool(self.offset.any())
        worth = self._unit() if amplitude is None else torch.as_tensor(amplitude).detach().to(device)
        self.register_buffer("amplitude", worth)

    def _unit(self):
        """What a spike of value 1 takes from the potential: theta / D."""
        return self.threshold if self.spike_levels == 1 else divided(self.threshold, self.spike_levels)

    @property
    def potential(self):
        """The membrane potential [N, ...] of this thread's train; None before its first step."""
        return _here.of.get(self)

    @potential.setter
    def potential(self, value):
        _here.of[self] = value

    def reset(self):
        """Forget the membrane potential."""
        _here.of.pop(self, None)

    def fire(self, current, residual=None):
        """The spikes of the next step, whole numbers 0..D in the dtype of the current."""
        if residual is not None:
            current = current + residual
        unit = per_channel(self._unit().to(current.dtype), current.dim())
        if self._offset_given:
            current = current + per_channel(self.offset.to(current.dtype), current.dim())
        before = self.potential
        potential = (unit * self.shift if before is None else before) + current
        if self.spike_levels == 1:
            spikes = (potential >= unit).to(current.dtype)
        else:
            spikes = _reached(potential, unit, self.spike_levels)
        self.potential = potential.sub_(unit * spikes)
        return spikes

    def worth(self, spikes):
        """amplitude * s."""
        return spikes * per_channel(self.amplitude.to(spikes.dtype), spikes.dim())

    def forward(self, current, residual=None):
        return self.worth(self.fire(current, residual))


def _serial_neuron(neuron):
    return SerialIF(**neuron.stepwise())


class SerialNetwork(Evaluated):
    """A converted network run step by step; made by `serial`. Shares the weights of its SpikingNetwork.

    Each call has potentials of its own, in whatever thread and inside whatever other call.
    """

    def __init__(self, snn: SpikingNetwork) -> None:
        super().__init__()
        self.network = with_neurons(snn, _serial_neuron)
        self.timesteps = snn.timesteps

    def reset(self) -> None:
        """Start new trains in all layers, in this thread."""
        for neuron in self._neurons():
            neuron.reset()

    def _neurons(self):
        return [module for module in self.network.modules() if isinstance(module, SerialIF)]

    @contextlib.contextmanager
    def _train(self):
        """New trains inside, and behind it those that were under way before."""
        potentials, neurons = _here.of, self._neurons()
        before = {neuron: potentials.pop(neuron) for neuron in neurons if neuron in potentials}
        self.reset()
        try:
            yield
        finally:
            self.reset()
            potentials.update(before)

    @torch.no_grad()
    def forward(self, *inputs: Any, **named_inputs: Any) -> Any:
        """The inputs of the source network to the average of its outputs over T passes."""
        total = None
        with self._train():
            for _ in range(self.timesteps):
                out = self.network(*inputs, **named_inputs)
                total = out if total is None else tree_map(torch.add, total, out)
        return tree_map(lambda value: value / self.timesteps, total)


def serial(snn: SpikingNetwork) -> SerialNetwork:
    """The converted network as serial soft-reset IF neurons: T passes over the input, mean output (2).

    Neurons of D > 1 send integers 0..D in a step, as I-LIF at inference (22). Under constant current its counts equal
    QCFS with L = T D; in deeper layers, whose current is uneven, they do not: that is the unevenness error the parallel
    neuron removes. A product of activations, as in attention, is that of one step's spikes: what a serial network has
    when it needs it, and not the average that (20) takes.

    Args:
        snn: a SpikingNetwork without analog operations.

    Returns:
        SerialNetwork, sharing weights and thresholds.

    Raises:
        TypeError, ValueError: not a SpikingNetwork; one with analog operations or signed neurons.
    """
    return SerialNetwork(snn)
