"""Levels in whole numbers as CPU kernels read them: as a line for a requantisation, or in floating point."""

import torch

from pcsnn.tensors import checks

FLOAT32_EXACT = 2**24  # float32 holds every whole number up to here
REQUANTISATION_ERROR = 2.0**-21  # of a value, relative to its terms; twice what float32 arithmetic can be off
SEARCH_ROUNDS = 60  # of the slope of a line


def fit(levels, channels):
    """The line through the levels [T] or [O, T] int32 that is farthest from every other whole number.

    Returns (factor, start), float32 [O] each, such that the count of a sum is factor * sum + start, rounded to nearest
    and clipped; or None where some channel has no line that stays clear of doubt.
    """
    table = levels.double().expand(channels, levels.shape[-1])
    steps = table.shape[1]
    silent = table[:, :1] >= checks.NEVER
    points = torch.where(silent, 0.0, table) - 0.5  # between the sums that do and do not reach the level
    place = torch.arange(1, steps + 1, dtype=torch.float64) - 0.5
    if steps == 1:
        slope = torch.ones_like(points[:, :1])
    else:
        slope = (points[:, -1:] - points[:, :1]) / (steps - 1)
        low, high = slope - 1, slope + 1  # the largest deviation is a convex function of the slope
        for _ in range(SEARCH_ROUNDS):
            left, right = low + (high - low) / 3, high - (high - low) / 3
            first, second = (torch.aminmax(points - trial * place, dim=1, keepdim=True) for trial in (left, right))
            better = first.max - first.min <= second.max - second.min
            low, high = torch.where(better, low, left), torch.where(better, right, high)
        slope = (low + high) / 2
    slope = torch.where(silent, 1.0, slope)
    if (slope <= 0).any():
        return None
    factor = (1 / slope).float()
    rest = points - place / factor.double()
    start = (-(rest.amax(1, keepdim=True) + rest.amin(1, keepdim=True)) / 2 * factor.double()).float()
    off = ((points * factor.double() + start.double() - place) / factor.double()).abs().amax(1, keepdim=True)
    doubt = REQUANTISATION_ERROR * (steps + 2 * start.double().abs() + 1) / factor.double()
    if not (off + doubt < 0.5)[~silent].all():
        return None
    factor, start = (torch.where(silent, 0.0, value).flatten() for value in (factor, start))
    return factor, start


def floating_levels(levels, dtype):
    return torch.where(levels == checks.NEVER, torch.inf, levels.to(dtype))


def floating_line(line, dtype):
    """An int32 line as one of float32; None where that is not exact and currents of `dtype` are compared with it."""
    first, step = line[0].double(), line[1].double()
    dead = line[0] == checks.NEVER
    if dtype == torch.float32 and bool(((first.abs().maximum(step) >= FLOAT32_EXACT) & ~dead).any()):
        return None
    first, step = torch.where(dead, torch.inf, first), torch.where(dead, 1.0, step)
    return torch.stack([first, step, 1 / step]).float()
