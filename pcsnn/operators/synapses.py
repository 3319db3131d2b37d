"""Synapses with the neurons behind them in one operation: counts in, counts out. Names are those of
`pcsnn.functional`."""

import torch
from torch import Tensor

from pcsnn.cpu import synapses
from pcsnn.levels.spacing import Spacing, spacing_of
from pcsnn.operators import arguments, dispatch
from pcsnn.operators.arguments import Size
from pcsnn.tensors import checks
from pcsnn.tensors.shapes import HALVES, convolved, fused_dtype


def _check_synapse(counts, weight, bias, levels, scale, residual, residual_scale, counts_dtype, shape):
    """Everything but the synapse's own shapes; shape: of the result."""
    whole = weight.dtype == torch.int8
    outputs = 1, weight.shape[0]  # of a neuron: channels are outputs
    checks.tensor("counts", counts, (torch.uint8,) if whole else (torch.uint8, weight.dtype))
    if bias is not None:
        checks.tensor("bias", bias, (torch.int32 if whole else weight.dtype,))
        if bias.shape != weight.shape[:1]:
            raise ValueError(f"bias: expected [{weight.shape[0]}], got shape {tuple(bias.shape)}")
    if levels is not None:
        checks.level_table(levels, outputs, torch.int32 if whole else torch.float32)
    if scale is not None:
        checks.per_layer_or_channel("scale", scale, outputs, (torch.float32,))
    current = torch.int32 if whole else weight.dtype
    worths = (torch.int32 if whole else torch.float32,)
    arguments.branch(residual, residual_scale, current, shape, "the result", outputs, worths, HALVES)
    if counts_dtype not in (None, torch.uint8) and (counts_dtype != weight.dtype or weight.dtype not in HALVES):
        raise TypeError(
            "counts_dtype: expected torch.uint8, or the dtype of float16 or bfloat16 weights, got "
            f"{counts_dtype} with weights of {weight.dtype}"
        )
    checks.same_device(
        counts=counts,
        weight=weight,
        bias=bias,
        levels=levels,
        scale=scale,
        residual=residual,
        residual_scale=residual_scale,
    )


def _check_neurons(levels, repeat, timesteps, line, reach):
    checks.timesteps(timesteps)
    if levels is not None:
        arguments.spaced(levels, repeat, line, reach)


def _spacing(levels, repeat, scale):
    return Spacing(1, None, 0) if levels is None else spacing_of(levels, repeat, scale is not None)


def _check_linear(counts, weight):
    """Shapes of a linear layer; returns that of its result."""
    checks.tensor("weight", weight, arguments.WEIGHT_DTYPES)
    checks.tensor("counts", counts, None, 1)
    if weight.dim() != 2 or 0 in weight.shape or counts.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"weight: expected [O, {counts.shape[-1]}] for counts {tuple(counts.shape)}, got {tuple(weight.shape)}"
        )
    return (*counts.shape[:-1], weight.shape[0])


def _check_linear_fire(
    counts,
    weight,
    bias,
    levels,
    scale,
    residual,
    residual_scale,
    repeat,
    timesteps,
    line=None,
    reach=0,
    counts_dtype=None,
):
    _check_synapse(
        counts, weight, bias, levels, scale, residual, residual_scale, counts_dtype, _check_linear(counts, weight)
    )
    _check_neurons(levels, repeat, timesteps, line, reach)


def _linear_out(
    counts,
    weight,
    bias,
    levels,
    scale,
    residual,
    residual_scale,
    repeat,
    timesteps,
    line=None,
    reach=0,
    counts_dtype=None,
):
    dtype = fused_dtype(weight, levels, scale, counts_dtype)
    return counts.new_empty((*counts.shape[:-1], weight.shape[0]), dtype=dtype)


_LINEAR = (
    "linear_fire(Tensor counts, Tensor weight, Tensor? bias, Tensor? levels, Tensor? scale, Tensor? residual, "
    "Tensor? residual_scale, int repeat, int timesteps, Tensor? line=None, int reach=0, "
    "ScalarType? counts_dtype=None) -> Tensor"
)
dispatch.define(_LINEAR, _check_linear_fire, _linear_out)
dispatch.define_part(f"_{_LINEAR}", synapses.linear_fire, synapses.is_not_in_cpp)


def linear_fire(
    counts: Tensor,
    weight: Tensor,
    levels: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    residual: Tensor | None = None,
    residual_scale: Tensor | None = None,
    repeat: int | None = None,
    timesteps: int = checks.MAX_TIMESTEPS,
    counts_dtype: torch.dtype | None = None,
) -> Tensor:
    """A linear layer and the neurons behind it, in one operation.

    Equal to fire_counts(linear(counts, weight, bias), levels, residual, residual_scale), where channels are the outputs
    O.

    Args:
        counts: spike counts uint8 [..., K], or values of the dtype of `weight`.
        weight: [O, K] float32, bfloat16, float16 (the current is rounded to that dtype, as a layer alone would), or
            int8 (the sum is exact, and bias, levels and residual_scale are int32 on it: see `whole_levels`). What an
            incoming spike is worth is to be multiplied into it.
        levels: ascending, float32 (int32) [T] or [O, T]; None gives currents.
        bias: [O] of the dtype of `weight` (int32), or None.
        scale: float32, a tensor [] or [O]. With levels: rates, scale * (k // m) with m = `repeat`; without: currents
            times scale.
        residual: added to the current first, in the shape of the result: counts, uint8 or of the dtype of half
            precision weights, with residual_scale, or a current of the dtype of `weight` (int32).
        residual_scale: what a spike of the residual is worth, float32 (int32), [] or [O].
        repeat: how often each level stands in `levels`; 0 bisects the table whatever it is like; None looks (m is 1 for
            rates).
        timesteps: the largest value in `counts`; a smaller one than 255 may be faster. Larger values give undefined
            counts.
        counts_dtype: of the counts that are returned: torch.uint8, or for float16 and bfloat16 weights their dtype,
            which holds counts exactly; None is uint8.

    Returns:
        [..., O]: counts of `counts_dtype`; with scale rates of the dtype of `weight` (float32 for int8); without levels
        currents of it (int32 for int8).

    Raises:
        TypeError, ValueError: a dtype, shape, device or level table that does not fit.
        RuntimeError: an input requires a gradient.
    """
    shape = _check_linear(counts, weight)
    checks.timesteps(timesteps)
    _check_synapse(counts, weight, bias, levels, scale, residual, residual_scale, counts_dtype, shape)
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


def _check_convolution(counts, weight, stride, padding, dilation, groups):
    """Shapes of a convolution whose numbers are pairs in range; returns that of its result."""
    arguments.kernel(weight, groups)
    checks.tensor("counts", counts)
    if counts.dim() != 4 or counts.shape[1] != weight.shape[1] * groups:
        raise ValueError(
            f"counts: expected [N, {weight.shape[1] * groups}, H, W] for weight {tuple(weight.shape)} in "
            f"{groups} groups, got {tuple(counts.shape)}"
        )
    sizes = convolved(counts.shape[2:], weight.shape[2:], stride, padding, dilation)
    if min(sizes) < 1:
        arguments.too_small(counts, weight.shape[2:], padding, dilation)
    return (counts.shape[0], weight.shape[0], *sizes)


def _check_conv2d_fire(
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
    line=None,
    reach=0,
    counts_dtype=None,
):
    arguments.pairs(1, stride=stride, dilation=dilation)
    arguments.pairs(0, padding=padding)
    shape = _check_convolution(counts, weight, stride, padding, dilation, groups)
    _check_synapse(counts, weight, bias, levels, scale, residual, residual_scale, counts_dtype, shape)
    _check_neurons(levels, repeat, timesteps, line, reach)


def _conv2d_out(
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
    line=None,
    reach=0,
    counts_dtype=None,
):
    sizes = convolved(counts.shape[2:], weight.shape[2:], stride, padding, dilation)
    return torch.empty(
        (counts.shape[0], weight.shape[0], *sizes),
        dtype=fused_dtype(weight, levels, scale, counts_dtype),
        device=counts.device,
        memory_format=torch.channels_last,
    )


_CONV2D = (
    "conv2d_fire(Tensor counts, Tensor weight, Tensor? bias, Tensor? levels, Tensor? scale, Tensor? residual, "
    "Tensor? residual_scale, int[2] stride, int[2] padding, int[2] dilation, int groups, int repeat, int timesteps, "
    "Tensor? line=None, int reach=0, ScalarType? counts_dtype=None) -> Tensor"
)
dispatch.define(_CONV2D, _check_conv2d_fire, _conv2d_out)
dispatch.define_part(f"_{_CONV2D}", synapses.conv2d_fire, synapses.is_not_in_cpp)


def conv2d_fire(
    counts: Tensor,
    weight: Tensor,
    levels: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    residual: Tensor | None = None,
    residual_scale: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    repeat: int | None = None,
    timesteps: int = checks.MAX_TIMESTEPS,
    counts_dtype: torch.dtype | None = None,
) -> Tensor:
    """A convolution and the neurons behind it, in one operation.

    Equal to fire_counts(conv2d(counts, weight, bias, stride, padding, dilation, groups), levels, residual,
    residual_scale).

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
    shape = _check_convolution(counts, weight, stride, padding, dilation, groups)
    checks.timesteps(timesteps)
    _check_synapse(counts, weight, bias, levels, scale, residual, residual_scale, counts_dtype, shape)
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
