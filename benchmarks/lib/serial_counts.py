"""Spike counts of serial integrate-and-fire beside those of the parallel neuron."""

from dataclasses import dataclass

import torch
from tqdm import tqdm

from lib import checks
from pcsnn.tensors.arithmetic import per_channel


@dataclass
class Difference:
    """Counts of one execution beside those of another, summed over neurons and images."""

    neurons: int = 0
    other: int = 0
    rates: float = 0.0

    def add(self, counts, expected, levels):
        apart = (counts.double() - expected.double()).abs()
        self.neurons += apart.numel()
        self.other += int((apart > 0.5).sum())
        self.rates += apart.sum().item() / levels

    @property
    def share(self):
        return 100 * self.other / self.neurons

    @property
    def rate(self):
        return 100 * self.rates / self.neurons


class SerialTrains:
    """Counts and mean currents of every layer of a serial network; a context of one forward pass."""

    def __init__(self, serial, names):
        self.currents, self.counts = {}, {}
        self._steps, self._hooks = serial.timesteps, []
        for name in names:
            layer = serial.network.get_submodule(name)
            self._hooks.append(layer.register_forward_pre_hook(self._see_current(name)))
            self._hooks.append(layer.register_forward_hook(self._see_spikes(name)))

    def _see_current(self, name):
        def hook(layer, arguments):
            current = sum(part.double() for part in arguments if part is not None)
            self.currents[name] = self.currents.get(name, 0) + current / self._steps

        return hook

    def _see_spikes(self, name):
        def hook(layer, arguments, output):
            worth = per_channel(layer.amplitude, output.dim())
            spikes = torch.where(worth > 0, (output / worth).round(), 0)
            self.counts[name] = self.counts.get(name, 0) + spikes

        return hook

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for hook in self._hooks:
            hook.remove()


@dataclass
class Measured:
    """Predictions of both networks, and how their counts differ."""

    classes: torch.Tensor
    expected: torch.Tensor
    first: Difference
    own: Difference
    whole: Difference


def compare(snn, serial, images, levels, batch):
    """Run both over the images."""
    names = [name for name, _ in snn.neurons()]
    neurons = dict(snn.neurons())
    first, own, whole = Difference(), Difference(), Difference()
    classes, expected = [], []
    for part in tqdm(images.split(batch), desc=f"T = {snn.timesteps}", unit="batch", leave=False, disable=None):
        counts, output = checks.layer_counts(snn, part)
        with SerialTrains(serial, names) as trains:
            classes.append(serial(part).argmax(1))
        expected.append(output.argmax(1))
        for name in names:
            due = neurons[name].counts(trains.currents[name].float())
            own.add(trains.counts[name], due, levels)
            whole.add(trains.counts[name], counts[name], levels)
        first.add(trains.counts[names[0]], counts[names[0]], levels)
    return Measured(torch.cat(classes), torch.cat(expected), first, own, whole)
