"""What each element of a value carries over time: spikes of one or more neurons, or a number."""

from dataclasses import dataclass

import torch

CONSTANT, AVERAGE, MOVING = 1, 2, 3  # a number: the same for all T as the input is, or as it is an average; another each step
WORD = 32  # bits of a number; a spike takes one


@dataclass(frozen=True)
class Signals:
    """Three float64 tensors shaped like a value, or tuples of them where a value is a tuple.

    Attributes:
        events: how many spikes an element carries over the steps looked at.
        trains: how many spike trains it is the sum of; 0 where it is a number or padding.
        number: CONSTANT, AVERAGE or MOVING; 0 where it is trains or padding.
    """

    events: torch.Tensor
    trains: torch.Tensor
    number: torch.Tensor

    @classmethod
    def numbers(cls, value, kind):
        none = torch.zeros(value.shape, dtype=torch.float64, device=value.device)
        return cls(none, none, torch.full_like(none, kind))

    @classmethod
    def spikes(cls, events):
        events = events.double()
        return cls(events, torch.ones_like(events), torch.zeros_like(events))

    def map(self, change):
        """The same change of each of the three."""
        return Signals(change(self.events), change(self.trains), change(self.number))

    @property
    def filled(self):
        """1 where an element is a number, else 0."""
        return (self.number > 0).double()

    @property
    def over_time(self):
        """Whether any element changes from step to step."""
        return bool((self.trains > 0).any() or (self.number == MOVING).any())

    @property
    def averaged(self):
        return bool((self.number == AVERAGE).any())

    def bits(self, steps):
        """What moves when a value is read or written once for `steps` steps: a bit a spike, a word a number; a number that
        does not change moves once."""
        moving = int((self.number == MOVING).sum())
        still = int((self.number > 0).sum()) - moving
        return steps * int(self.trains.sum()) + WORD * (steps * moving + still)


def outcome(value, sources):
    """The signals of numbers, a tensor or several, computed from `sources`."""
    kind = CONSTANT
    if any(source.over_time for source in sources):
        kind = MOVING
    elif any(source.averaged for source in sources):
        kind = AVERAGE
    if isinstance(value, torch.Tensor):
        return Signals.numbers(value, kind)
    parts = [Signals.numbers(part, kind) for part in value]
    return Signals(*(tuple(getattr(part, plane) for part in parts) for plane in ("events", "trains", "number")))
