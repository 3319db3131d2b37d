"""Amplitude and range of neurons whose spikes have two signs (S3), (S4)."""

from dataclasses import dataclass

import torch

from pcsnn import functional
from pcsnn.distributed import collectives
from pcsnn.levels.activations import activation, row_of
from pcsnn.levels.signed import ends_of, signed_levels
from pcsnn.nn import SignedNeuron

AMPLITUDES = torch.logspace(-1.0, 0.1, 28, dtype=torch.float64, device="cpu")  # of what covers all currents
ELEMENTS = 2**20  # of a layer that a fit looks at
COARSER = 1.01  # from one quantum tried to the next


@dataclass
class SignedSettings:
    """Kind and slope of the activation; amplitude (of a spike) and lowest current, numbers, of a `SignedNeuron`."""

    kind: str
    slope: torch.Tensor | float | None
    amplitude: float
    lowest: float

    def neuron(self, place, timesteps, spike_levels=1):
        return SignedNeuron(
            self.kind,
            timesteps,
            amplitude=self.amplitude,
            lowest=self.lowest,
            slope=self.slope,
            spike_levels=spike_levels,
        )

    def trainable(self, place, timesteps, device):
        return StraightThrough(self, place, timesteps, device)


def covering(kind, slope, timesteps, lowest, highest):
    """The least amplitude with which T spikes reach from the activation at `lowest` to that at `highest` (S4)."""
    slopes, turns = _turns(kind, slope)
    ends = torch.tensor([lowest, highest], dtype=torch.float64, device="cpu").expand(len(slopes), -1)
    bottom = turns.clamp_min(lowest)
    values = activation(kind, torch.cat([ends, bottom], 1), slopes)
    top = max(values[:, 1].max().item(), 1e-12)
    quantum = max(values.abs().max().item(), top) / (timesteps + 0.5)
    while True:
        try:
            if quantum * (ends_of(kind, quantum, timesteps, lowest, slope)[2] + 0.5) >= top * (1 - 1e-9):
                return quantum * timesteps
        except ValueError:  # not enough spikes or levels
            pass
        quantum *= COARSER


def _turns(kind, slope):
    """The parameters of a kind, and where it turns for each, -inf where it only rises: float64 [C, 1] on the host."""
    slopes = torch.as_tensor(1.0 if slope is None else slope, dtype=torch.float64, device="cpu").reshape(-1, 1)
    return slopes, row_of(kind).turns(slopes)


def record_range(place, seen):
    """A forward hook that keeps the lowest and highest current of a layer in seen[place.name]."""

    def hook(module, arguments, output):
        low, high = seen.get(place.name, (torch.inf, -torch.inf))
        seen[place.name] = min(low, arguments[0].min().item()), max(high, arguments[0].max().item())

    return hook


def from_range(place, timesteps, lowest, highest):
    """The Settings that cover all currents recorded, by all processes."""
    kind, slope = place.signed
    highest, lowest = _ends(highest, lowest)
    return SignedSettings(kind, slope, covering(kind, slope, timesteps, lowest, highest), lowest)


def _ends(highest, lowest):
    """The largest and the least of all processes, floats."""
    highest, lowest = collectives.highest(torch.tensor([highest, -lowest], dtype=torch.float64, device="cpu")).tolist()
    return highest, -lowest


def fit(place, currents, activations, timesteps):
    """The SignedSettings that minimise the squared difference of the rate on `currents` to `activations` (S4).

    currents, activations: lists of [N, ...], one entry a batch, of any sizes behind the channels. Tried: amplitudes up
    to what covers all currents, and tables that start at the lowest current, at the activation's least value, or at
    zero. Several processes: errors are added up.
    """
    kind, slope = place.signed
    highest, lowest = _ends(
        *(reduce(torch.stack([reduce(part) for part in currents])).item() for reduce in (torch.max, torch.min))
    )
    share = ELEMENTS / len(currents)
    pairs = [
        tuple(part[: max(1, int(share / z[0].numel()))].float() for part in (z, a))
        for z, a in zip(currents, activations)
    ]
    _, turns = _turns(kind, slope)
    starts = {lowest} | {start for start in (0.0, turns.min().item(), turns.max().item()) if lowest < start}
    tried, errors = [], []
    for start in sorted(starts):
        whole = covering(kind, slope, timesteps, start, max(highest, 0.0))
        for amplitude in (AMPLITUDES * whole).tolist():
            try:
                levels, turn, low = signed_levels(kind, amplitude / timesteps, timesteps, start, slope)
            except ValueError:  # no level left above zero
                continue
            levels = levels.to(currents[0].device)
            tried.append(SignedSettings(kind, slope, amplitude, start))
            errors.append(
                sum(
                    (functional.fire_rates(z, levels, amplitude / timesteps, repeat=0, turn=turn, low=low) - a)
                    .square()
                    .sum(dtype=torch.float64)
                    for z, a in pairs
                )
            )
    return tried[int(collectives.summed(torch.stack(errors)).argmin())]


class StraightThrough(torch.nn.Module):
    """A signed neuron whose gradient is that of its activation; it has no parameters."""

    def __init__(self, settings, place, timesteps, device):
        super().__init__()
        self.chosen, self.out = settings, None
        self.neuron = settings.neuron(place, timesteps).to(device)
        self.slope = None if settings.slope is None else torch.as_tensor(settings.slope, device=device)

    def forward(self, current):
        """Mean current -> rates, kept in `out`."""
        slope = self.slope
        if slope is not None and slope.dim():
            slope = slope.reshape(1, -1, *[1] * (current.dim() - 2))
        smooth = activation(self.chosen.kind, current, slope)
        self.out = smooth + (self.neuron(current.detach()) - smooth).detach()
        return self.out

    def settings(self):
        return self.chosen
