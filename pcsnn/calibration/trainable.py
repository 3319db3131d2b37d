"""Neurons whose threshold, shift, levels and amplitude a gradient reaches (C4)."""

from dataclasses import replace

import torch
from torch import nn

from pcsnn.nn.staircase import staircase


class TrainableNeuron(nn.Module):
    """A neuron of some settings; `settings()` gives what they have become.

    [C] or []: log_theta; psi in units of theta / T; log_gain, the amplitude relative to theta. bend [C, T] or [T], in
    units of theta / T, or None. A silent channel stays silent.
    """

    def __init__(self, settings, timesteps, device):
        super().__init__()
        theta = torch.as_tensor(settings.threshold, dtype=torch.float32, device=device)
        amplitude = (
            theta
            if settings.amplitude is None
            else torch.as_tensor(settings.amplitude, dtype=theta.dtype, device=device)
        )
        shape = torch.broadcast_shapes(theta.shape, amplitude.shape)
        theta, amplitude = theta.expand(shape), amplitude.expand(shape)
        self.silent = (theta == torch.inf) | (amplitude <= 0)
        self.start = theta.masked_fill(self.silent, 1.0)
        psi = torch.as_tensor(settings.offset, dtype=theta.dtype, device=device).expand(shape)
        self.begun, self.timesteps, self.out = settings, timesteps, None
        self.log_theta = nn.Parameter(self.start.log())
        self.psi = nn.Parameter(psi.masked_fill(self.silent, 0.0) / self.start * timesteps)
        self.log_gain = nn.Parameter((amplitude.masked_fill(self.silent, 1.0) / self.start).log())
        self.bend = None if settings.bend is None else nn.Parameter(settings.bend.to(theta) * timesteps)
        self.steps = torch.arange(1, timesteps + 1, device=device, dtype=torch.float32) - 0.5

    def _values(self):
        theta = self.log_theta.exp()
        return theta, self.psi * self.start / self.timesteps, self.log_gain.exp() * theta

    def forward(self, current):
        """Mean current [N, C, ...] -> rates, kept in `out`."""
        theta, psi, amplitude = self._values()
        steps = self.steps if self.bend is None else self.steps + self.bend
        levels = steps * theta.unsqueeze(-1) / self.timesteps - psi.unsqueeze(-1)
        if self.bend is not None:
            levels = levels.cummax(-1).values
        self.out = staircase(current.float(), levels, amplitude.masked_fill(self.silent, 0.0)).to(current.dtype)
        return self.out

    @torch.no_grad()
    def settings(self):
        theta, psi, amplitude = (value.double() for value in self._values())
        bend = None if self.bend is None else self.bend.detach().double() / self.timesteps
        return replace(
            self.begun,
            threshold=theta.masked_fill(self.silent, torch.inf),
            offset=psi.masked_fill(self.silent, 0.0),
            amplitude=amplitude.masked_fill(self.silent, 0.0),
            bend=bend,
            staircase=False,
        )
