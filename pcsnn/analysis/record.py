"""Spike counts, trains and rates of every layer, while a network runs."""

import contextlib

import torch

from pcsnn import functional
from pcsnn.convert.network import check_converted


class Recording:
    """What the layers of a network fired. Counts only are kept: a byte a neuron, whatever T.

    Attributes:
        counts: {layer name: uint8 [N, ...]} in execution order; several forward passes are joined along the batch.
        timesteps: T.
    """

    def __init__(self, snn):
        self.timesteps = snn.timesteps
        self._neurons = dict(snn.neurons())
        self._parts = {name: [] for name in self._neurons}

    @property
    def counts(self):
        return {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in self._parts.items() if parts}

    def spikes(self, layer, order=None):
        """The spike trains of a layer, bool [T, N, ...]: sorted (7), or permuted by `order`, int64 [T] (13)."""
        if layer not in self._parts:
            raise KeyError(f"layer: expected one of {', '.join(self._parts)}, got {layer!r}")
        if not self._parts[layer]:
            raise RuntimeError(f"layer: {layer} has not run yet")
        return functional.expand_spikes(self.counts[layer], self.timesteps, order, torch.bool)

    def rates(self):
        """{layer name: firing rates amplitude * k / T, float32 [N, ...]}."""
        return {name: self._neurons[name].rates_of(counts) for name, counts in self.counts.items()}

    def _watch(self, name):
        def hook(neuron, arguments):
            self._parts[name].append(neuron.counts(*arguments))
        return hook


@contextlib.contextmanager
def record(snn):
    """Record what every layer fires while the network runs inside: `with pcsnn.record(snn) as rec: snn(images)`.

    Args:
        snn: a SpikingNetwork (not one wrapped by torch.compile, which does not call hooks).

    Yields:
        Recording.

    Raises:
        TypeError: not a SpikingNetwork.
    """
    check_converted(snn)
    recording = Recording(snn)
    hooks = [neuron.register_forward_pre_hook(recording._watch(name)) for name, neuron in snn.neurons()]
    try:
        yield recording
    finally:
        for hook in hooks:
            hook.remove()
