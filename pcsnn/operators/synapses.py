"""Synapses with the neurons behind them in one operation: counts in, counts out. Names are those of `pcsnn.functional`."""

import torch

from pcsnn import reference
from pcsnn.levels.spacing import Spacing, spacing, spacing_of
from pcsnn.operators import arguments, dispatch
from pcsnn.tensors import checks
from pcsnn.tensors.shapes import HALVES, pooled


def whole_levels(levels, weight_scale, bias=None):
    """Levels for int8 weights: those of a current turned into those of the exact sum over the weights.

    With current = weight_scale * sum + bias, current >= level is sum >= (level - bias) / weight_scale, rounded up.

    Args:
        levels: [T] or [O, T], ascending, on the current.
        weight_scale: [O], what 1 in the int8 weights of an output channel is worth (times what a spike is worth); > 0.
        bias: [O], or None.

    Returns:
        int32 [O, T], computed in float64; a level that no sum reaches is 2^31 - 1.

    Raises:
        TypeError, ValueError: a dtype or shape that does not fit, weight_scale <= 0, NaN, levels that do not ascend.
    """
    floats = (torch.float32, torch.float64)
    checks.tensor("weight_scale", weight_scale, floats)
    if weight_scale.dim() != 1 or not (weight_scale > 0).all():
        raise ValueError(f"weight_scale: expected positive values [O], got shape {tuple(weight_scale.shape)}")
    checks.level_table(levels, (1, len(weight_scale)), torch.float64)
    spacing(levels)
    if bias is not None:
        checks.tensor("bias", bias, floats)
        if bias.shape != weight_scale.shape or bias.isnan().any():
            raise ValueError(f"bias: expected [{len(weight_scale)}] without NaN, got shape {tuple(bias.shape)}")
    checks.same_device(levels=levels, weight_scale=weight_scale, bias=bias)
    return reference.whole_levels(levels, weight_scale, bias)


def _spacing(levels, repeat, scale):
    return Spacing(1, None, 0) if levels is None else spacing_of(levels, repeat, scale is not None)


def linear_fire(counts, weight, levels=None, *, bias=None, scale=None, residual=None, residual_scale=None, repeat=None,
                timesteps=checks.MAX_TIMESTEPS, counts_dtype=None):
    """A linear layer and the neurons behind it, in one operation.

    Equal to fire_counts(linear(counts, weight, bias), levels, residual, residual_scale), where channels are the outputs O.

    Args:
        counts: spike counts uint8 [..., K], or values of the dtype of `weight`.
        weight: [O, K] float32, bfloat16, float16 (the current is rounded to that dtype, as a layer alone would), or int8
            (the sum is exact, and bias, levels and residual_scale are int32 on it: see `whole_levels`). What an incoming
            spike is worth is to be multiplied into it.
        levels: ascending, float32 (int32) [T] or [O, T]; None gives currents.
        bias: [O] of the dtype of `weight` (int32), or None.
        scale: float32, a tensor [] or [O]. With levels: rates, scale * (k // m) with m = `repeat`; without: currents times scale.
        residual: added to the current first, in the shape of the result: counts, uint8 or of the dtype of half precision weights,
            with residual_scale, or a current of the dtype of `weight` (int32).
        residual_scale: what a spike of the residual is worth, float32 (int32), [] or [O].
        repeat: how often each level stands in `levels`; 0 bisects the table whatever it is like; None looks (m is 1 for rates).
        timesteps: the largest value in `counts`; a smaller one than 255 may be faster. Larger values give undefined counts.
        counts_dtype: of the counts that are returned: torch.uint8, or for float16 and bfloat16 weights their dtype, which holds
            counts exactly; None is uint8.

    Returns:
        [..., O]: counts of `counts_dtype`; with scale rates of the dtype of `weight` (float32 for int8); without levels currents of it
        (int32 for int8).

    Raises:
        TypeError, ValueError: a dtype, shape, device or level table that does not fit.
        RuntimeError: an input requires a gradient.
    """
    shape = arguments.linear(counts, weight)
    checks.timesteps(timesteps)
    arguments.synapse(counts, weight, bias, levels, scale, residual, residual_scale, counts_dtype, shape)
    checks.no_gradient(counts=counts, weight=weight, bias=bias, residual=residual)
    repeat, line, reach = _spacing(levels, repeat, scale)
    return dispatch.call("linear_fire", counts, weight, bias, levels, scale, residual, residual_scale, repeat, timesteps, line, reach,
                    counts_dtype)


def conv2d_fire(counts, weight, levels=None, *, bias=None, scale=None, residual=None, residual_scale=None, stride=1,
                padding=0, dilation=1, groups=1, repeat=None, timesteps=checks.MAX_TIMESTEPS, counts_dtype=None):
    """A convolution and the neurons behind it, in one operation.

    Equal to fire_counts(conv2d(counts, weight, bias, stride, padding, dilation, groups), levels, residual, residual_scale).

    Args:
        counts: spike counts uint8 [N, C, H, W], or values of the dtype of `weight`; padding is with 0.
        weight: [O, C / groups, R, S], of the dtypes of `linear_fire`.
        stride, padding, dilation: a number, or two for height and width.
        groups: a divisor of C and O.
        levels, bias, scale, residual, residual_scale, repeat, timesteps, counts_dtype: as in `linear_fire`.

    Returns:
        [N, O, H', W'], channels last in memory; dtypes as in `linear_fire`.

    Raises:
        TypeError, ValueError: a dtype, shape, device or level table that does not fit.
        RuntimeError: an input requires a gradient.
    """
    stride, dilation = arguments.pair("stride", stride, 1), arguments.pair("dilation", dilation, 1)
    padding = arguments.pair("padding", padding, 0)
    shape = arguments.convolution(counts, weight, stride, padding, dilation, groups)
    checks.timesteps(timesteps)
    arguments.synapse(counts, weight, bias, levels, scale, residual, residual_scale, counts_dtype, shape)
    checks.no_gradient(counts=counts, weight=weight, bias=bias, residual=residual)
    repeat, line, reach = _spacing(levels, repeat, scale)
    return dispatch.call("conv2d_fire", counts, weight, bias, levels, scale, residual, residual_scale, stride, padding, dilation,
                    groups, repeat, timesteps, line, reach, counts_dtype)


def _pool2d(name, counts, kernel_size, stride, padding, dilation, ceil_mode):
    checks.tensor("counts", counts, (torch.uint8, *HALVES))
    kernel = arguments.pair("kernel_size", kernel_size, 1)
    stride = kernel if stride is None else arguments.pair("stride", stride, 1)
    padding, dilation = arguments.pair("padding", padding, 0), arguments.pair("dilation", dilation, 1)
    if counts.dim() != 4:
        raise ValueError(f"counts: expected [N, C, H, W], got {tuple(counts.shape)}")
    if any(2 * pad > taps for pad, taps in zip(padding, kernel)):
        raise ValueError(f"padding: expected at most half of the kernel {kernel}, got {padding}")
    sizes = pooled(counts.shape[2:], kernel, stride, padding, dilation, ceil_mode)
    if min(sizes) < 1:
        raise ValueError(f"counts: expected at least the size of the kernel {kernel} with padding {padding} and "
                         f"dilation {dilation}, got {tuple(counts.shape)}")
    return dispatch.call(name, counts, kernel, stride, padding, dilation, sizes)


def max_pool2d(counts, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
    """Max pooling of spike counts, which is that of sorted spikes in every time-step (12).

    Args:
        counts: uint8 [N, C, H, W], or whole numbers >= 0 of float16 or bfloat16.
        kernel_size, stride, padding, dilation, ceil_mode: as of torch.nn.functional.max_pool2d.

    Returns:
        [N, C, H', W'] of the dtype of counts, channels last in memory.

    Raises:
        TypeError, ValueError: a dtype, shape or geometry that does not fit.
    """
    return _pool2d("max_pool2d", counts, kernel_size, stride, padding, dilation, ceil_mode)


def sum_pool2d(counts, kernel_size, stride=None, padding=0):
    """The spikes of each window together: average pooling of spike counts without its division.

    Args:
        counts: uint8 [N, C, H, W], or whole numbers of float16 or bfloat16; those of a window sum up to at most 255, else uint8
            sums are modulo 256 and floating ones may be rounded.
        kernel_size, stride, padding: as of torch.nn.functional.avg_pool2d; beyond the borders there is no spike.

    Returns:
        [N, C, H', W'] of the dtype of counts, channels last in memory.

    Raises:
        TypeError, ValueError: a dtype, shape or geometry that does not fit.
    """
    return _pool2d("sum_pool2d", counts, kernel_size, stride, padding, 1, False)
