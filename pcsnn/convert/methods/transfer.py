"""The straight-through gradient of a staircase: counts differentiate as the transfer curve through the levels (C4).

Knots of the curve: (tau_k, (k - 1/2) / T), and half a level before the first and behind the last, at 0 and 1.
"""

import torch

from pcsnn import functional, ops, reference


def _gradient(gradient, current, knots, slopes):
    """Plain torch form of the C++ operator `transfer_gradient`; any float dtype, any device."""
    per_channel = knots.dim() == 2
    rows, count = (knots if per_channel else knots.unsqueeze(0)).shape
    row = torch.zeros((), dtype=torch.long, device=current.device)
    if per_channel:
        row = reference.per_channel(torch.arange(rows, device=current.device), current.dim())
    place = torch.full(current.shape, -1, dtype=torch.long, device=current.device)
    for knot in knots.unbind(-1):
        place += current >= reference.per_channel(knot, current.dim())
    inside = (place >= 0) & (place < count - 1)
    entry = (row * (count - 1) + place.clamp(0, count - 2)).flatten()
    passed = torch.where(inside, gradient * slopes.reshape(-1)[entry].view_as(current), 0)
    precise = passed.flatten().double()
    sums = [torch.bincount(entry, weight, rows * (count - 1)).view(slopes.shape)
            for weight in (precise, precise * current.flatten())]
    return passed, *sums


def gradient(gradient, current, knots, slopes):
    """The curve's gradient for the current, and its sums over the neurons of each interval (C++ where it is built)."""
    arguments = gradient, current, knots, slopes
    if ops.runs_cpp(current) and all(value.dtype == torch.float32 for value in arguments):
        return torch.ops.pcsnn.transfer_gradient(*arguments)
    return _gradient(*arguments)


class _Staircase(torch.autograd.Function):
    @staticmethod
    def forward(ctx, current, levels, amplitude):
        timesteps = levels.shape[-1]
        out = functional.fire_rates(current, levels, amplitude / timesteps, repeat=0)
        ctx.save_for_backward(current, levels, amplitude, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        current, levels, amplitude, out = ctx.saved_tensors
        timesteps = levels.shape[-1]
        half = levels.diff(dim=-1)[..., [0, -1]] / 2 if timesteps > 1 else levels.abs().expand(*levels.shape[:-1], 2) / 2
        knots = torch.cat([levels[..., :1] - half[..., :1], levels, levels[..., -1:] + half[..., 1:]], -1)
        width = knots.diff(dim=-1)
        rise = torch.ones_like(width)
        rise[..., 0] = rise[..., -1] = 0.5
        flat = width <= 0
        slopes = torch.where(flat, 0, rise / timesteps * amplitude.unsqueeze(-1) / width.masked_fill(flat, 1))
        to_current, plain, weighted = gradient(grad, current, knots, slopes)
        # In interval i of width w, at share f from its left knot, the curve moves by -slope (1 - f) with that knot and by
        # -slope f with the right one; the outermost knots move with their levels.
        share = (weighted - knots[..., :-1].double() * plain) / width.masked_fill(flat, 1)
        left, right = share - plain, -share
        to_levels = left[..., 1:] + right[..., :-1]
        to_levels[..., 0] += left[..., 0]
        to_levels[..., -1] += right[..., -1]
        worth = grad * out
        dims = [d for d in range(grad.dim()) if d != 1] if amplitude.dim() else list(range(grad.dim()))
        to_amplitude = worth.sum(dims) / torch.where(amplitude == 0, 1, amplitude)
        return to_current, to_levels.to(levels.dtype), to_amplitude


def staircase(current, levels, amplitude):
    """Rates amplitude * k / T of a current [N, C, ...] with gradients for all three; levels [T] or [C, T], finite."""
    return _Staircase.apply(current, levels, amplitude)
