"""int8 weights with a scale for each output channel."""

import torch

from pcsnn.tensors.arithmetic import LARGEST_PAIR_SUM

LARGEST_INT8 = 127
# of the largest weight, that the largest integer stands for
SHARES_OF_LARGEST = torch.linspace(0.5, 1.0, 51, dtype=torch.float64)


def limit(steps):
    """The largest magnitude of int8 weights for counts up to `steps`; pairs of products must not saturate."""
    return min(LARGEST_INT8, LARGEST_PAIR_SUM // (2 * steps))


def quantise(weights, steps, distance=None):
    """Whole numbers and a scale for each output channel, of least squared error.

    Args:
        weights: float64 tensors [O, ...] that are to have one scale: those whose currents are added.
        steps: the largest count that comes in.
        distance: [O], the distance of the levels behind, in units of the current of one incoming step, or None. Scales
            are then fractions 1/u of it, so that levels are evenly spaced whole numbers; ignored where infinite.

    Returns:
        int8 tensors of the shapes of `weights`, and the scale float32 [O].
    """
    rows = torch.cat([weight.flatten(1) for weight in weights], 1)
    largest, most = rows.abs().amax(1), limit(steps)
    best = torch.full_like(largest, torch.inf)
    chosen = torch.ones_like(largest)
    for share in SHARES_OF_LARGEST.tolist():
        scale = torch.where(largest > 0, largest * share / most, 1.0)
        if distance is not None:
            units = (distance / scale).round().clamp_min(1)
            scale = torch.where(distance.isfinite(), distance / units, scale)
        scale = scale.float().double()
        error = (rows - (rows / scale[:, None]).round().clamp(-most, most) * scale[:, None]).square().sum(1)
        better = error < best
        best, chosen = torch.where(better, error, best), torch.where(better, scale, chosen)
    whole = [
        (weight / chosen.view(-1, *[1] * (weight.dim() - 1))).round().clamp(-most, most).to(torch.int8)
        for weight in weights
    ]
    return whole, chosen.float()
