"""How spikes of several levels are sent (22): as the bits of binary planes, or as integers."""

import functools
from dataclasses import dataclass

import torch


def ways(spike_levels):
    """The `Coding.integers` that there are at D."""
    return (False,) if spike_levels == 1 else (False, True)


@dataclass(frozen=True)
class Coding:
    """How the spikes of some time-steps are sent.

    Attributes:
        steps: how many time-steps an element stands for.
        spike_levels: D; a step sends an integer 0..D.
        integers: whether a spike is one event, its integer, where that is not 0; False: n binary planes of weights 1,
            2, 4, ..., an event for each bit that is 1. Binary spikes, D = 1, are the same either way.
    """

    steps: int = 1
    spike_levels: int = 1
    integers: bool = False

    @property
    def width(self):
        """n, the bits that a step takes on the wire, planes or an integer."""
        return self.spike_levels.bit_length()

    def events(self, counts):
        """How many events a train of each count 0..T D sends, float64 of that shape.

        Of any order of the steps: K // D of them send D, one K % D, the rest 0.
        """
        return torch.tensor(self._table, dtype=torch.float64, device=counts.device)[counts.long()]

    @functools.cached_property
    def _table(self):
        full, levels = self._event(self.spike_levels), self.spike_levels
        return [count // levels * full + self._event(count % levels) for count in range(self.steps * levels + 1)]

    def _event(self, value):
        return float(value > 0 if self.integers else value.bit_count())

    def products(self, events):
        """Multiplications of events by what 1 is worth: an integer's, while a bit has a worth of its own."""
        return events if self.integers else 0 * events
