"""The straight-through gradient of a staircase: counts differentiate as the transfer curve through the levels (C4).

Knots of the curve: (tau_k, (k - 1/2) / T), and half a level before the first and behind the last, at 0 and 1.
"""

import torch

from pcsnn import functional
from pcsnn.operators import dispatch
from pcsnn.tensors.arithmetic import add_residual, per_channel


def _gradient(gradient, current, knots, slopes):
    """Plain torch form of the C++ operator `transfer_gradient`; any float dtype, any device."""
    by_channel = knots.dim() == 2
    rows, count = (knots if by_channel else knots.unsqueeze(0)).shape
    row = torch.zeros((), dtype=torch.long, device=current.device)
    if by_channel:
        row = per_channel(torch.arange(rows, device=current.device), current.dim())
    place = torch.full(current.shape, -1, dtype=torch.long, device=current.device)
    for knot in knots.unbind(-1):
        place += current >= per_channel(knot, current.dim())
    inside = (place >= 0) & (place < count - 1)
    entry = (row * (count - 1) + place.clamp(0, count - 2)).flatten()
    passed = torch.where(inside, gradient * slopes.reshape(-1)[entry].view_as(current), 0)
    precise = passed.flatten().double()
    sums = [
        torch.bincount(entry, weight, rows * (count - 1)).view(slopes.shape)
        for weight in (precise, precise * current.flatten())
    ]
    return passed, *sums


def gradient(gradient, current, knots, slopes):
    """The curve's gradient for the current, and its sums over the neurons of each interval (C++ where it is built)."""
    arguments = gradient, current, knots, slopes
    if dispatch.runs_cpp(current) and all(value.dtype == torch.float32 for value in arguments):
        return torch.ops.pcsnn.transfer_gradient(*arguments)
    return _gradient(*arguments)


class _Staircase(torch.autograd.Function):
    @staticmethod
    def forward(ctx, current, levels, amplitude, scale):
        out = functional.fire_rates(current, levels, scale, repeat=0)
        ctx.save_for_backward(current, levels, amplitude, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        current, levels, amplitude, out = ctx.saved_tensors
        timesteps = levels.shape[-1]
        half = (
            levels.diff(dim=-1)[..., [0, -1]] / 2 if timesteps > 1 else levels.abs().expand(*levels.shape[:-1], 2) / 2
        )
        knots = torch.cat([levels[..., :1] - half[..., :1], levels, levels[..., -1:] + half[..., 1:]], -1)
        width = knots.diff(dim=-1)
        rise = torch.ones_like(width)
        rise[..., 0] = rise[..., -1] = 0.5
        flat = width <= 0
        slopes = torch.where(flat, 0, rise / timesteps * amplitude.unsqueeze(-1) / width.masked_fill(flat, 1))
        to_current, plain, weighted = gradient(grad, current, knots, slopes)
        # In interval i of width w, at share f from its left knot, the curve moves by -slope (1 - f) with that knot and
        # by -slope f with the right one; the outermost knots move with their levels.
        share = (weighted - knots[..., :-1].double() * plain) / width.masked_fill(flat, 1)
        left, right = share - plain, -share
        to_levels = left[..., 1:] + right[..., :-1]
        to_levels[..., 0] += left[..., 0]
        to_levels[..., -1] += right[..., -1]
        worth = grad * out
        dims = [d for d in range(grad.dim()) if d != 1] if amplitude.dim() else list(range(grad.dim()))
        to_amplitude = worth.sum(dims) / torch.where(amplitude == 0, 1, amplitude)
        return to_current, to_levels.to(levels.dtype), to_amplitude, None


def staircase(current, levels, amplitude):
    """Rates amplitude * k / T of a current [N, C, ...] with gradients for all three; levels [T] or [C, T], finite."""
    return _Staircase.apply(current, levels, amplitude, amplitude.detach() / levels.shape[-1])


def straight_through(current, residual, levels, scale):
    """scale * k of current + residual, as `functional.fire_rates` has it, with the gradient of the curve for both.

    levels [S] or [C, S], each once, +inf for channels that never fire; scale [] or [C].
    """
    mean = add_residual(current, residual, None)
    silent = levels[..., 0] == torch.inf
    scale = scale.masked_fill(silent, 0.0) if silent.any() else scale
    shape = torch.broadcast_shapes(levels.shape[:-1], scale.shape)
    levels = levels.masked_fill(silent.unsqueeze(-1), 0.0).expand(*shape, -1).contiguous()
    amplitude = (scale * levels.shape[-1]).expand(shape)
    return _Staircase.apply(mean, levels, amplitude, scale).to(current.dtype)


def asked_for(*values):
    """Whether a gradient is to reach one of the values; the operators name what is no tensor."""
    return torch.is_grad_enabled() and any(isinstance(value, torch.Tensor) and value.requires_grad for value in values)
