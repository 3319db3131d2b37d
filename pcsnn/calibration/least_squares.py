"""Threshold, shift, bend and amplitude of a layer by least squares against the float activation (C1)-(C3).

A histogram of the student's current in each channel, with the sum of the float activation in each bin, gives the
squared error of every staircase at once: with N(t) the number of neurons whose current is at least t, and A(t) the sum
of their float activations, spikes won at levels t_1..t_T leave
E = sum a^2 - 2 (amplitude / T) sum_k A(t_k) + (amplitude / T)^2 sum_k (2 k - 1) N(t_k).
"""

import copy
import math

import torch

from pcsnn.calibration.places import Settings
from pcsnn.distributed import collectives

BINS = 1024
RELATIVE_THRESHOLDS = torch.logspace(math.log10(0.08), math.log10(1.25), 48, dtype=torch.float64, device="cpu")
RELATIVE_SHIFTS = torch.linspace(-0.5, 0.5, 11, dtype=torch.float64, device="cpu")  # psi in units of theta / T
LARGEST_BENT_T = 16  # beyond, unevenly spaced levels win nothing and cost time
BEND_ROUNDS = 30
LARGEST_INTERMEDIATE = 2**24


class Histogram:
    """Current and float activation by channel, of all processes. From lists of [N, C, ...], one entry a batch."""

    def __init__(self, place, currents, activations):
        self.largest, highest = (
            collectives.highest(torch.stack([place.rows(part).amax(1) for part in parts]).amax(0).double())
            for parts in (activations, currents)
        )
        self.alive = (self.largest > 0) & (highest > 0)
        top = torch.maximum(self.largest, highest).clamp_min(1e-30)
        self.low, self.width = -top / 2, top * 1.5 / BINS
        channels = len(top)
        count, sums = (torch.zeros(channels * BINS, dtype=torch.float64, device=top.device) for _ in range(2))
        first = torch.arange(channels, device=top.device).unsqueeze(1) * BINS
        for z, a in zip(currents, activations):
            z, a = place.rows(z).double(), place.rows(a).double()
            entry = (
                ((z - self.low[:, None]) / self.width[:, None]).floor_().clamp_(0, BINS - 1).long() + first
            ).flatten()
            count += torch.bincount(entry, minlength=len(count))
            sums += torch.bincount(entry, a.flatten(), len(count))
        self.count, self.sums = (
            self._at_least(collectives.summed(values).view(channels, BINS)) for values in (count, sums)
        )

    def part(self, rows):
        """The same of some channels, a slice."""
        part = copy.copy(self)
        for name in ("largest", "alive", "low", "width", "count", "sums"):
            setattr(part, name, getattr(self, name)[rows])
        return part

    @staticmethod
    def _at_least(values):
        """[C, BINS] -> [C, BINS + 1], the mass at or above each edge."""
        return torch.nn.functional.pad(values.flip(1).cumsum(1).flip(1), (0, 1))

    def above(self, levels):
        """N(t) and A(t) of levels [C, ...], linear within a bin."""
        shape = levels.shape
        position = ((levels.flatten(1) - self.low[:, None]) / self.width[:, None]).clamp(0, BINS)
        left = position.floor().long().clamp(max=BINS - 1)
        share = position - left
        return [
            (values.gather(1, left) * (1 - share) + values.gather(1, left + 1) * share).view(shape)
            for values in (self.count, self.sums)
        ]


def _steps(timesteps, device):
    return torch.arange(1, timesteps + 1, dtype=torch.float64, device=device)


def _even(histogram, timesteps):
    """The best evenly spaced levels (10), [C] each: theta, psi, amplitude, and what they take off the squared error."""
    steps = _steps(timesteps, histogram.low.device)
    best = None
    for part in RELATIVE_THRESHOLDS.to(steps.device).split(
        max(1, LARGEST_INTERMEDIATE // max(1, len(histogram.low) * timesteps))
    ):
        theta = histogram.largest.clamp_min(1e-30)[:, None] * part  # [C, thresholds]
        for shift in RELATIVE_SHIFTS.tolist():
            levels = (steps - 0.5 - shift) * theta.unsqueeze(-1) / timesteps
            number, sums = histogram.above(levels)
            product, square = sums.sum(-1), ((2 * steps - 1) * number).sum(-1).clamp_min(1e-12)
            gain, chosen = (product.square() / square).max(1)
            picked = [
                value.gather(1, chosen[:, None])[:, 0]
                for value in (theta, shift * theta / timesteps, timesteps * product / square)
            ]
            found = [gain, *picked]
            best = found if best is None else [torch.where(gain > best[0], new, old) for new, old in zip(found, best)]
    return best[1:]


def _bent(histogram, amplitude, timesteps):
    """The best levels [C, T], wherever they are, and their amplitude [C], by turns.

    For a given amplitude level k is where A(t) - (k - 1/2) (amplitude / T) N(t) is largest: they ascend of themselves.
    """
    steps = _steps(timesteps, amplitude.device)
    for _ in range(BEND_ROUNDS):
        edges = torch.stack(
            [
                (histogram.sums - (k - 0.5) * (amplitude / timesteps)[:, None] * histogram.count).argmax(1)
                for k in steps.tolist()
            ],
            1,
        )
        number, sums = histogram.count.gather(1, edges), histogram.sums.gather(1, edges)
        amplitude = timesteps * sums.sum(1) / ((2 * steps - 1) * number).sum(1).clamp_min(1e-12)
    return histogram.low[:, None] + histogram.width[:, None] * edges, amplitude


def _best(histogram, timesteps, bend):
    """theta, psi, amplitude, [C] each, and the bend, [C, T] or None."""
    theta, psi, amplitude = _even(histogram, timesteps)
    if not bend or not 1 < timesteps <= LARGEST_BENT_T:
        return theta, psi, amplitude, None
    levels, amplitude = _bent(histogram, amplitude, timesteps)
    even = (_steps(timesteps, theta.device) - 0.5) * theta[:, None] / timesteps - psi[:, None]
    return theta, psi, amplitude, (levels - even) / theta[:, None]


def fit(place, currents, activations, timesteps, *, bend=True):
    """The Settings of a layer that minimise the squared difference of its rate on `currents` to `activations`.

    A channel that is never active, in the float network or in the student, is silent. bend: whether levels may be
    unevenly spaced.
    """
    histogram = Histogram(place, currents, activations)
    theta, psi, amplitude, bent = collectives.divided(
        len(histogram.low), lambda rows: _best(histogram.part(rows), timesteps, bend)
    )
    alive = histogram.alive & (amplitude > 0)
    theta, psi, amplitude = (
        torch.where(alive, value, rest) for value, rest in ((theta, torch.inf), (psi, 0.0), (amplitude, 0.0))
    )
    if bent is not None:
        bent = torch.where(alive[:, None], bent, 0.0)
    values = theta, psi, amplitude, bent
    if not place.per_channel(currents[0]):
        values = [value if value is None else value[0] for value in values]
    return Settings(*values, staircase=False)
