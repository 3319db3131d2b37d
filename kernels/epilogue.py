"""What neurons make of the sums of a synapse: bias, residual, search, and counts, rates or currents written."""

import torch
import triton
import triton.language as tl

from pcsnn.kernels import common
from pcsnn.kernels.common import load_row, search
from pcsnn.kernels.launch import Part
from pcsnn.tensors.memo import remembered

UNSPECIALISED = ("timesteps", "repeat", "distinct", "reach", "level_stride", "channel_stride")
_INT32 = 2**31 - 1
_MOST_COUNTS = 255


@triton.jit
def fire(
    total,
    place,
    inside,
    channel,
    outputs,
    out_ptr,
    bias_ptr,
    residual_ptr,
    residual_scale_ptr,
    scale_ptr,
    levels_ptr,
    line_ptr,
    timesteps,
    repeat,
    distinct,
    reach,
    level_stride,
    channel_stride,
    DTYPE: tl.constexpr,
    WIDE: tl.constexpr,
    LINE: tl.constexpr,
    STEPS: tl.constexpr,
    STAIRS: tl.constexpr,
    LEVELS_ROWS: tl.constexpr,
    LINE_ROWS: tl.constexpr,
    SCALE_ROWS: tl.constexpr,
    RESIDUAL_SCALE_ROWS: tl.constexpr,
):
    """What neurons make of the sums `total` [ROWS, COLUMNS], float32 or int32, written at `place` where `inside`.

    channel [1, COLUMNS]: the outputs that columns are, none beyond the last. DTYPE: of the weights; WIDE: with bias and
    residual int32 may not hold the sums, or they may be 2^31 - 1.
    """
    value = total
    if WIDE:
        value = value.to(tl.int64)
    if bias_ptr is not None:
        value += tl.load(bias_ptr + channel).to(value.dtype)
    if DTYPE != tl.int8:
        value = value.to(DTYPE).to(tl.float32)  # as a layer alone would round it
    if residual_ptr is not None:
        branch = tl.load(residual_ptr + place, mask=inside, other=0).to(value.dtype)
        if residual_scale_ptr is not None:
            branch *= load_row(residual_scale_ptr, channel, RESIDUAL_SCALE_ROWS).to(value.dtype)
        value += branch
    if LINE > 0 or STEPS != 0:
        if WIDE:  # no level is beyond int32, and none that is reached is 2^31 - 1
            value = tl.minimum(tl.maximum(value, -(2**31)), 2**31 - 2).to(tl.int32)
        reached = search(
            value,
            levels_ptr,
            line_ptr,
            channel,
            outputs,
            timesteps,
            repeat,
            distinct,
            reach,
            level_stride,
            channel_stride,
            LINE,
            STEPS,
            STAIRS,
            LEVELS_ROWS,
            LINE_ROWS,
            False,
            True,
        )
        if scale_ptr is None:
            result = reached * repeat if STAIRS else reached
            if out_ptr.dtype.element_ty != tl.uint8:
                result = result.to(tl.float32)
        else:
            result = reached.to(tl.float32) * load_row(scale_ptr, channel, SCALE_ROWS)
    else:
        result = value
        if scale_ptr is not None:
            result = value.to(tl.float32) * load_row(scale_ptr, channel, SCALE_ROWS)
        elif WIDE:  # currents are cut to int32
            result = tl.minimum(tl.maximum(value, -(2**31)), 2**31 - 1)
    tl.store(out_ptr + place, result.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def finish(
    total,
    row,
    first_column,
    group,
    rows,
    outputs,
    group_outputs,
    shift_ptr,
    out_ptr,
    bias_ptr,
    residual_ptr,
    residual_scale_ptr,
    scale_ptr,
    levels_ptr,
    line_ptr,
    timesteps,
    repeat,
    distinct,
    reach,
    level_stride,
    channel_stride,
    DTYPE: tl.constexpr,
    PIECES: tl.constexpr,
    EVEN_COLUMNS: tl.constexpr,
    WIDE: tl.constexpr,
    LINE: tl.constexpr,
    STEPS: tl.constexpr,
    STAIRS: tl.constexpr,
    LEVELS_ROWS: tl.constexpr,
    LINE_ROWS: tl.constexpr,
    SCALE_ROWS: tl.constexpr,
    RESIDUAL_SCALE_ROWS: tl.constexpr,
):
    """What `fire` makes of sums [ROWS, COLUMNS] of a group, PIECES of the columns one after the other for the sake of
    registers."""
    COLUMNS: tl.constexpr = total.shape[1]
    if PIECES > 1:
        left, right = tl.split(tl.permute(tl.reshape(total, (total.shape[0], 2, COLUMNS // 2)), (0, 2, 1)))
        for half in tl.static_range(2):
            finish(
                left if half == 0 else right,
                row,
                first_column + half * (COLUMNS // 2),
                group,
                rows,
                outputs,
                group_outputs,
                shift_ptr,
                out_ptr,
                bias_ptr,
                residual_ptr,
                residual_scale_ptr,
                scale_ptr,
                levels_ptr,
                line_ptr,
                timesteps,
                repeat,
                distinct,
                reach,
                level_stride,
                channel_stride,
                DTYPE,
                PIECES // 2,
                EVEN_COLUMNS,
                WIDE,
                LINE,
                STEPS,
                STAIRS,
                LEVELS_ROWS,
                LINE_ROWS,
                SCALE_ROWS,
                RESIDUAL_SCALE_ROWS,
            )
        return
    column = first_column + tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None]
    known = column
    if not EVEN_COLUMNS:
        inside = inside & (column < group_outputs)[None, :]
        known = tl.minimum(column, group_outputs - 1)
    channel = (group * group_outputs + known)[None, :]
    if shift_ptr is not None:
        total += tl.load(shift_ptr + channel)
    fire(
        total,
        (row * outputs)[:, None] + (group * group_outputs + column)[None, :],
        inside,
        channel,
        outputs,
        out_ptr,
        bias_ptr,
        residual_ptr,
        residual_scale_ptr,
        scale_ptr,
        levels_ptr,
        line_ptr,
        timesteps,
        repeat,
        distinct,
        reach,
        level_stride,
        channel_stride,
        DTYPE,
        WIDE,
        LINE,
        STEPS,
        STAIRS,
        LEVELS_ROWS,
        LINE_ROWS,
        SCALE_ROWS,
        RESIDUAL_SCALE_ROWS,
    )


class _Unseen(Exception):
    """Values of a tensor that may not be looked at now."""


def _largest(tensor):
    """The largest magnitude in an int32 tensor, looked up once for each state of it; None where that would wait for the
    GPU at every call, or while a CUDA graph is captured."""

    def look():
        if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
            raise _Unseen
        return tensor.long().abs().max().item()

    if tensor.is_inference() or tensor.is_meta:
        return None
    try:
        return remembered(tensor, "largest", look)
    except _Unseen:
        return None


def is_wide(largest_sum, bias, residual, residual_scale):
    """Whether whole sums up to `largest_sum`, None for others, with what is added to them may reach 2^31 - 1, the level
    that stands for never."""
    if largest_sum is None:
        return False
    if residual is not None and residual_scale is None:
        return True
    parts = [_largest(tensor) for tensor in (bias, residual_scale) if tensor is not None]
    if None in parts:
        return True
    if residual_scale is not None:
        parts[-1] *= _MOST_COUNTS
    return largest_sum + sum(parts) >= _INT32


def plan(out, bias, levels, line, reach, scale, residual, residual_scale, repeat, largest_sum, wide=None):
    """The Part of `fire`. largest_sum: of whole numbers, in magnitude; None for others. wide:
    whether they need more than 32 bits, where it is not to be found from values."""
    if levels is None:
        arguments = dict.fromkeys(UNSPECIALISED, 1) | dict(levels_ptr=None, line_ptr=None)
        constants = dict(LINE=0, STEPS=0, STAIRS=False, LEVELS_ROWS=False, LINE_ROWS=False)
        derived = {}
    else:
        arguments, constants, derived = common.search_method(levels, line, repeat, reach, by_columns=True)
    arguments = arguments | dict(
        out_ptr=out, bias_ptr=bias, scale_ptr=scale, residual_ptr=residual, residual_scale_ptr=residual_scale
    )
    if wide is None:
        wide = is_wide(largest_sum, bias, residual, residual_scale)
    constants = constants | dict(
        WIDE=wide, **common.row_constants(scale=(scale, 1), residual_scale=(residual_scale, 1))
    )
    return Part(arguments, constants, derived)
