"""Synapses of float32: torch's own, under its own precision flags, and one kernel for the neurons behind them."""

import math

from torch.nn import functional

from pcsnn.kernels import rates
from pcsnn.kernels.geometry import channels_last


def _fire(current, levels, scale, residual, residual_scale, repeat, line, reach):
    """Counts of, or rates and currents written over, the fresh `current` [N, O, ...]."""
    if levels is not None and scale is None:
        return rates.fire_counts(current, levels, residual, residual_scale, repeat, line, reach)
    if levels is not None:
        rates.fire_rates_(current, levels, scale, residual, residual_scale, repeat, line=line, reach=reach)
        return current

    def by_channel(table):
        return table if table.dim() == 0 else table.view(-1, *[1] * (current.dim() - 2))

    if residual is not None:
        current += residual if residual_scale is None else residual * by_channel(residual_scale)
    if scale is not None:
        current *= by_channel(scale)
    return current


def conv2d_fire(
    counts,
    weight,
    bias,
    levels,
    scale,
    residual,
    residual_scale,
    stride,
    padding,
    dilation,
    groups,
    repeat,
    line,
    reach,
):
    """Input [N, C, H, W] -> counts, rates or currents [N, O, H', W'] of neurons behind a convolution, channels last."""
    inputs = channels_last(counts.float())
    current = channels_last(functional.conv2d(inputs, channels_last(weight), bias, stride, padding, dilation, groups))
    return channels_last(_fire(current, levels, scale, residual, residual_scale, repeat, line, reach))


def linear_fire(counts, weight, bias, levels, scale, residual, residual_scale, repeat, line, reach):
    """Input [..., K] -> counts, rates or currents [..., O] of neurons behind a linear layer, contiguous."""
    shape = (*counts.shape[:-1], len(weight))
    rows = counts.float().reshape(math.prod(shape[:-1]), counts.shape[-1])
    current = functional.linear(rows, weight, bias)
    branch = None if residual is None else residual.reshape(current.shape)
    return _fire(current, levels, scale, branch, residual_scale, repeat, line, reach).reshape(shape)
