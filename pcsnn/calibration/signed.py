"""Amplitude and range of neurons whose spikes have two signs (S3), (S4)."""

from dataclasses import dataclass, replace

import torch

from pcsnn.distributed import collectives
from pcsnn.levels.activations import activation, row_of
from pcsnn.levels.signed import multiple_of
from pcsnn.nn import SignedNeuron
from pcsnn.tensors.arithmetic import per_channel

AMPLITUDES = torch.logspace(-1.0, 0.1, 28, dtype=torch.float64, device="cpu")  # of what covers all currents
ELEMENTS = 2**20  # of a layer that a fit looks at
LEAST = 1e-12  # amplitude of a channel that is zero on all data
WITHIN = 1.25  # how many amplitudes the least value of an activation may lie below zero; what is below one is cut off


@dataclass
class SignedSettings:
    """Kind and slope of the activation; amplitude (of a spike) and lowest current of a `SignedNeuron`, numbers or
    [C]."""

    kind: str
    slope: torch.Tensor | float | None
    amplitude: torch.Tensor | float
    lowest: torch.Tensor | float

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
        return TrainableSigned(self, timesteps, device)

    def multiple(self, timesteps):
        """How many spikes a level is at that T, since levels are 255 at most."""
        amplitude, lowest = (
            torch.as_tensor(value, dtype=torch.float64, device="cpu") for value in (self.amplitude, self.lowest)
        )
        return multiple_of(self.kind, amplitude / timesteps, timesteps, lowest, self.slope)


def covering(kind, slope, lowest, highest):
    """The least amplitude that reaches all values of the activation from `lowest` to `highest` (S4), float64 [] or [C].

    lowest, highest: numbers, or tensors [] or [C]; of numbers it is a number for all channels of a slope [C].
    """
    columns = _column(lowest), _column(highest)
    whole, _ = _reach(kind, *_turns(kind, slope), *columns)
    return whole.flatten() if len(columns[0]) > 1 else whole.max()


def _reach(kind, slopes, turns, lowest, highest):
    """(largest size, least value) of the activation from `lowest` to `highest`, columns."""
    places = torch.broadcast_tensors(lowest, turns.maximum(lowest), highest)
    values = activation(kind, torch.cat(places, 1), slopes)
    return values.abs().amax(1, keepdim=True).clamp_min(LEAST), values[:, 1:2]


def _column(value):
    """A number or tensor [] or [C] -> float64 [1, 1] or [C, 1] on the host."""
    return torch.as_tensor(value, dtype=torch.float64, device="cpu").reshape(-1, 1)


def _turns(kind, slope):
    """The parameters of a kind, and where it turns for each, -inf where it only rises: float64 [C, 1] on the host."""
    slopes = _column(1.0 if slope is None else slope)
    return slopes, row_of(kind).turns(slopes)


def record_range(place, seen):
    """A forward hook that keeps the lowest and highest currents of a layer, [] or [C], in seen[place.name]."""

    def hook(module, arguments, output):
        lowest, highest = (place.reduce(arguments[0], how) for how in (torch.amin, torch.amax))
        if place.name in seen:
            lowest, highest = torch.minimum(lowest, seen[place.name][0]), torch.maximum(highest, seen[place.name][1])
        seen[place.name] = lowest, highest

    return hook


def from_range(place, lowest, highest):
    """The SignedSettings that cover all currents recorded, by all processes: of each channel where there are any."""
    lowest, highest = _ends(lowest, highest)
    return SignedSettings(*place.signed, covering(*place.signed, lowest, highest).float(), lowest.float())


def _ends(lowest, highest):
    """The least and the largest of all processes, float64 on the host."""
    lowest, highest = (end.to("cpu", torch.float64) for end in (lowest, highest))
    return -collectives.highest(-lowest), collectives.highest(highest)


def fit(place, currents, activations, timesteps):
    """The SignedSettings that minimise the squared difference of the rate on `currents` to `activations` (S4).

    currents, activations: lists of [N, ...], one entry a batch, of any sizes behind the channels. Tried: amplitudes up
    to what covers all currents, and tables that start at the lowest current, where the activation turns, or at zero;
    for each channel, and for all together. Several processes: errors are added up.
    """
    own = place.per_channel(currents[0])
    lowest, highest = _ends(*(_over_all(place, how, currents) for how in (torch.amin, torch.amax)))
    apart = own or torch.as_tensor(0.0 if place.signed[1] is None else place.signed[1]).dim()
    share = ELEMENTS / len(currents)
    z, a = (
        torch.cat([_rows(part[: max(1, int(share / part[0].numel()))].float(), apart) for part in parts], 1)
        for parts in (currents, activations)
    )
    found = [_searched(*place.signed, z, a, lowest.min(), highest.max(), timesteps)]
    if own:
        found.append(_searched(*place.signed, z, a, lowest, highest, timesteps))
    return min(found, key=lambda pair: pair[1])[0]


def _over_all(place, how, parts):
    return how(torch.stack([place.reduce(part, how) for part in parts]), 0)


def _rows(value, apart):
    """[N, C, ...] -> [C, M], or [1, M] where channels are not apart."""
    return value.transpose(0, 1).flatten(1) if apart else value.reshape(1, -1)


def _searched(kind, slope, z, a, lowest, highest, timesteps):
    """(the best SignedSettings, with an amplitude for each of `lowest`, [] or [C]; its error) on rows [C or 1, M]."""
    multiple = 1
    while True:
        settings, error = _best(kind, slope, z, a, _column(lowest), _column(highest), timesteps, multiple)
        needed = settings.multiple(timesteps)
        if needed <= multiple:
            return settings, error
        multiple = needed  # too many levels: with coarser steps another amplitude may be the best


def _best(kind, slope, z, a, lowest, highest, timesteps, multiple):
    """As `_searched`, of values in steps of `multiple` spikes."""
    slopes, turns = _turns(kind, slope)
    row_slopes = None if slope is None else slopes.to(z)
    first_turn = turns if len(lowest) > 1 else turns.max()
    starts = [lowest, lowest.clamp_min(0), lowest.maximum(first_turn)]
    starts = [start for place, start in enumerate(starts) if not any(torch.equal(start, one) for one in starts[:place])]
    most, amplitudes, errors = timesteps // multiple, [], []
    for start in starts:
        whole, least = _reach(kind, slopes, turns, start, highest.maximum(start))
        value = activation(kind, z.maximum(start.to(z)), row_slopes)
        for share in AMPLITUDES.tolist():
            amplitude = torch.maximum(share * whole, -least / WITHIN)
            amplitude = (amplitude if len(lowest) > 1 else amplitude.max().reshape(1, 1)).float()
            quantum = (amplitude * (multiple / timesteps)).to(z)
            rates = (value / quantum).round_().clamp_(-most, most).mul_(quantum)
            squares = rates.sub_(a).square_().sum(1, dtype=torch.float64)
            amplitudes.append(amplitude)
            errors.append(squares if len(lowest) > 1 else squares.sum()[None])
    errors = collectives.summed(torch.stack(errors)).cpu()  # [tried, C or 1]
    best = errors.argmin(0, keepdim=True)
    amplitude = torch.cat(amplitudes, 1).T.gather(0, best)[0]
    start = torch.cat(starts, 1).T.gather(0, best // len(AMPLITUDES))[0].float()
    if len(lowest) == 1:
        amplitude, start = amplitude.item(), start.item()
    return SignedSettings(kind, slope, amplitude, start), errors.gather(0, best).sum().item()


class TrainableSigned(torch.nn.Module):
    """Signed neurons of some settings whose amplitude a gradient reaches; `settings()` gives what it has become.

    log_gain, [] or [C]: the amplitude relative to what it was. The gradient passes rounding, and ends where the rates
    do (C4).
    """

    def __init__(self, settings, timesteps, device):
        super().__init__()
        self.begun, self.out = settings, None
        self.multiple = settings.multiple(timesteps)
        self.timesteps, self.most = timesteps, timesteps // self.multiple
        self.start, self.lowest = (
            torch.as_tensor(value, dtype=torch.float32, device=device)
            for value in (settings.amplitude, settings.lowest)
        )
        self.slope = (
            None if settings.slope is None else torch.as_tensor(settings.slope, dtype=torch.float32, device=device)
        )
        self.log_gain = torch.nn.Parameter(torch.zeros_like(self.start))
        lowest = _column(settings.lowest)
        _, least = _reach(settings.kind, *_turns(settings.kind, settings.slope), lowest, lowest)
        least = least.flatten() if len(lowest) > 1 else least.min()
        self.smallest = (-least / WITHIN).to(self.start)

    def _amplitude(self):
        return (self.start * self.log_gain.exp()).maximum(self.smallest)

    def forward(self, current):
        """Mean current [N, C, ...] -> rates, kept in `out`."""
        slope = None if self.slope is None else per_channel(self.slope, current.dim())
        lowest = per_channel(self.lowest, current.dim())
        quantum = per_channel(self._amplitude() * (self.multiple / self.timesteps), current.dim())
        value = activation(self.begun.kind, current.float().maximum(lowest), slope)
        spikes = (value / quantum).clamp(-self.most, self.most)
        self.out = ((spikes + (spikes.round() - spikes).detach()) * quantum).to(current.dtype)
        return self.out

    @torch.no_grad()
    def settings(self):
        return replace(self.begun, amplitude=self._amplitude())
