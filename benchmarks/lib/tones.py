"""Sounds of known pitch: voices with harmonics, glides, vibrato and noise."""

import math

import torch

from lib.crepe import FRAME, HOP, RATE

SECONDS = 1.0
HARMONICS = 12


def tone(seed):
    """(sound float32 [samples], frequency of each sample in Hz) of one voice between 80 and 600 Hz."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()

    time = torch.arange(int(SECONDS * RATE), dtype=torch.float64) / RATE
    start, glide = draw(math.log2(80), math.log2(600)), draw(-0.5, 0.5)
    vibrato = draw(0, 0.03) * torch.sin(2 * math.pi * draw(4, 7) * time)
    frequency = 2 ** (start + glide * time / SECONDS + vibrato)
    phase = 2 * math.pi * torch.cumsum(frequency / RATE, 0)
    fall = draw(0.6, 1.6)
    sound = sum(
        torch.sin(number * phase + draw(0, 2 * math.pi)) / number**fall * (number * frequency < RATE / 2)
        for number in range(1, HARMONICS + 1)
    )
    noise = draw(0.0, 0.1) * torch.randn(len(time), generator=generator, dtype=torch.float64)
    return (sound + noise).float(), frequency.float()


def middles(frequency):
    """The frequency in the middle of each frame."""
    return frequency.unfold(0, FRAME, HOP)[:, FRAME // 2]
