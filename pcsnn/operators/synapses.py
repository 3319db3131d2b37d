"""Synapses with the neurons behind them in one operation: counts in, counts out. Names are those of `pcsnn.functional`."""

from pcsnn.levels.spacing import Spacing, spacing_of
from pcsnn.operators import arguments, dispatch
from pcsnn.tensors import checks


def _spacing(levels, repeat, scale):
    return Spacing(1, None, 0) if levels is None else spacing_of(levels, repeat, scale is not None)


def linear_fire(
    counts,
    weight,
    levels=None,
    *,
    bias=None,
    scale=None,
    residual=None,
    residual_scale=None,
    repeat=None,
    timesteps=checks.MAX_TIMESTEPS,
    counts_dtype=None,
):
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
    return dispatch.call(
        "linear_fire",
        counts,
        weight,
        bias,
        levels,
        scale,
        residual,
        residual_scale,
        repeat,
        timesteps,
        line,
        reach,
        counts_dtype,
    )


def conv2d_fire(
    counts,
    weight,
    levels=None,
    *,
    bias=None,
    scale=None,
    residual=None,
    residual_scale=None,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    repeat=None,
    timesteps=checks.MAX_TIMESTEPS,
    counts_dtype=None,
):
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
    return dispatch.call(
        "conv2d_fire",
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
        timesteps,
        line,
        reach,
        counts_dtype,
    )
