"""What each element of a value carries over time: spikes of one or more neurons, or a number."""

from dataclasses import dataclass

import torch

STILL, AVERAGE, MOVING = 1, 2, 3  # a number: as the input is at all steps; an average over them; another at each
WORD = 32  # bits of a number; a binary spike takes one
PLANES = ("values", "events", "width", "number")


@dataclass(frozen=True)
class Carried:
    """Four float64 tensors shaped like a value, or tuples of them where a value is a tuple.

    Attributes:
        values: the sum of the spikes that an element carries over the steps looked at.
        events: how many spikes these are as they are sent, by `Coding.events`.
        width: how many bits of spikes a step has, those of all spike trains it is the sum of; 0 where it is a number or
            padding.
        number: STILL, AVERAGE or MOVING; 0 where it is trains or padding.
    """

    values: torch.Tensor
    events: torch.Tensor
    width: torch.Tensor
    number: torch.Tensor

    @classmethod
    def numbers(cls, value, kind):
        none = torch.zeros(value.shape, dtype=torch.float64, device=value.device)
        return cls(none, none, none, torch.full_like(none, kind))

    @classmethod
    def spikes(cls, counts, coding):
        """Trains of given counts, one each."""
        values = counts.double()
        width = torch.full_like(values, coding.width)
        return cls(values, coding.events(counts), width, torch.zeros_like(values))

    def map(self, change):
        """The same change of each plane."""
        return Carried(*(change(getattr(self, plane)) for plane in PLANES))

    @property
    def filled(self):
        """1 where an element is a number, else 0."""
        return (self.number > 0).double()

    @property
    def over_time(self):
        """Whether any element changes from step to step."""
        return any(bool((width > 0).any()) for width in _listed(self.width)) or self._any(MOVING)

    @property
    def averaged(self):
        """Whether any element is an average over the steps."""
        return self._any(AVERAGE)

    def _any(self, kind):
        return any(bool((number == kind).any()) for number in _listed(self.number))

    def bits(self, steps):
        """What is read or written for `steps` steps: the bits of each step of a train, a word for each number of a
        step, one word for a number that does not change."""
        moving = int((self.number == MOVING).sum())
        still = int((self.number > 0).sum()) - moving
        return steps * int(self.width.sum()) + WORD * (steps * moving + still)


def _listed(planes):
    return planes if isinstance(planes, tuple) else (planes,)


def outcome(value, sources):
    """What numbers carry, a tensor or several, that are computed from `sources`."""
    kind = STILL
    if any(source.over_time for source in sources):
        kind = MOVING
    elif any(source.averaged for source in sources):
        kind = AVERAGE
    if isinstance(value, torch.Tensor):
        return Carried.numbers(value, kind)
    parts = [Carried.numbers(part, kind) for part in value]
    return Carried(*(tuple(getattr(part, plane) for part in parts) for plane in PLANES))
