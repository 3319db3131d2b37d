"""Arithmetic that every backend and layer rounds alike: dtypes, channels, residual sums, divisions."""

import torch

# processors without VNNI add products of uint8 and int8 in pairs, saturating in 16 bits
LARGEST_PAIR_SUM = 2**15 - 1


def divided(values, number):
    """values / number, rounded once on every device: CUDA multiplies by the rounded reciprocal of a number."""
    return values / torch.full((), number, dtype=values.dtype, device=values.device)


def compute_dtype(current):
    """Currents are compared in float32; float64 stays float64."""
    return torch.float64 if current.dtype == torch.float64 else torch.float32


def per_channel(table, ndim):
    """[C] or [C, T] or a scalar or [T] -> the same, to be broadcast against [N, C, ...] with `ndim` dimensions."""
    if table.dim() == 0:
        return table
    return table.reshape(1, table.shape[0], *[1] * (ndim - 2))


def add_residual(current, residual, residual_scale):
    """Mean current of a neuron behind a residual sum: current + residual, or current + scale * counts, in float32."""
    mean = current.to(compute_dtype(current))
    if residual is None:
        return mean
    branch = residual.to(mean.dtype)
    if residual_scale is not None:
        branch = branch * per_channel(residual_scale.to(mean.dtype), mean.dim())
    return mean + branch
