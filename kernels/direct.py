"""Convolutions of groups with few channels, depthwise ones above all: each sum in a thread of its own, without tensor
cores."""

import triton
import triton.language as tl

from pcsnn.kernels import epilogue, geometry
from pcsnn.kernels.epilogue import fire
from pcsnn.kernels.geometry import first_tap, within
from pcsnn.kernels.launch import Launch
from pcsnn.kernels.tiles import PROGRAMS
from pcsnn.tensors.memo import remembered

COLUMNS = 128  # of a program, at most
NEURONS = 4096  # of a program; half of them where they would not fill a GPU


@triton.jit(do_not_specialize=(*geometry.UNSPECIALISED, *epilogue.UNSPECIALISED, "taps"))
def direct_kernel(
    counts_ptr,
    weight_ptr,
    rows,
    inputs,
    outputs,
    group_inputs,
    group_outputs,
    taps,
    column_tiles,
    height,
    width,
    out_plane,
    out_width,
    stride_h,
    stride_w,
    padding_h,
    padding_w,
    dilation_h,
    dilation_w,
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
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    KERNEL_WIDTH: tl.constexpr,
    EVEN_COLUMNS: tl.constexpr,
    DEPTHWISE: tl.constexpr,
    LARGE: tl.constexpr,
    WIDE: tl.constexpr,
    LINE: tl.constexpr,
    STEPS: tl.constexpr,
    STAIRS: tl.constexpr,
    LEVELS_ROWS: tl.constexpr,
    LINE_ROWS: tl.constexpr,
    SCALE_ROWS: tl.constexpr,
    RESIDUAL_SCALE_ROWS: tl.constexpr,
):
    """weight [R, S, C / groups, O]; columns are output channels of whatever group. DEPTHWISE: groups of one channel."""
    dtype: tl.constexpr = weight_ptr.dtype.element_ty
    wide: tl.constexpr = tl.int64 if LARGE else tl.int32
    total_dtype: tl.constexpr = tl.int32 if dtype == tl.int8 else tl.float32
    program = tl.program_id(0)
    row = (program // column_tiles).to(wide) * ROWS + tl.arange(0, ROWS)
    column = program % column_tiles * COLUMNS + tl.arange(0, COLUMNS)
    known = column < outputs
    inside = (row < rows)[:, None]
    if not EVEN_COLUMNS:
        inside = inside & known[None, :]
    y, x, first = first_tap(
        tl.minimum(row, rows - 1), inputs, height, width, out_plane, out_width, stride_h, stride_w, padding_h, padding_w
    )
    source = column if DEPTHWISE else column // group_outputs * group_inputs  # neighbours, as the compiler sees
    sources = first[:, None] + source[None, :]
    total = tl.zeros((ROWS, COLUMNS), total_dtype)
    for tap in range(taps):
        down, right = tap // KERNEL_WIDTH * dilation_h, tap % KERNEL_WIDTH * dilation_w
        seen = (within(y + down, height) & within(x + right, width))[:, None]
        if not EVEN_COLUMNS:
            seen = seen & known[None, :]
        offset = sources + (down * width + right).to(wide) * inputs
        for inner in range(1 if DEPTHWISE else group_inputs):
            a = tl.load(counts_ptr + (offset + inner), mask=seen, other=0).to(total_dtype)
            weights = weight_ptr + (tap * group_inputs + inner) * outputs + column
            b = tl.load(weights) if EVEN_COLUMNS else tl.load(weights, mask=known, other=0)
            total += a * b.to(total_dtype)[None, :]
    channel = (column if EVEN_COLUMNS else tl.minimum(column, outputs - 1))[None, :]
    fire(
        total,
        (row * outputs)[:, None] + column[None, :],
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
        dtype,
        WIDE,
        LINE,
        STEPS,
        STAIRS,
        LEVELS_ROWS,
        LINE_ROWS,
        SCALE_ROWS,
        RESIDUAL_SCALE_ROWS,
    )


def _outputs_last(weight):
    return remembered(weight, "outputs last", lambda: weight.permute(2, 3, 1, 0).contiguous())


def _columns(outputs):
    """Of a program: a power of two that wastes an eighth at most, or the widest of those that waste least."""
    most = min(triton.next_power_of_2(outputs), COLUMNS)
    widths = [width for width in (most, most // 2, most // 4) if width]
    waste = {width: triton.cdiv(outputs, width) * width / outputs for width in widths}
    return next((width for width in widths if waste[width] <= 1.125), min(widths, key=waste.get))


def plan(out, counts, weight, groups, behind):
    """The launch of such a convolution; behind: the Part of what stands behind the sum, and the geometry."""
    outputs, group_inputs, height, width = weight.shape
    columns = _columns(outputs)
    enough = behind.arguments["rows"] * outputs >= PROGRAMS * NEURONS
    rows = (NEURONS if enough else NEURONS // 2) // columns
    packed = _outputs_last(weight)
    column_tiles = triton.cdiv(outputs, columns)
    arguments = dict(
        counts_ptr=counts,
        weight_ptr=packed,
        group_inputs=group_inputs,
        group_outputs=outputs // groups,
        taps=height * width,
        column_tiles=column_tiles,
    )
    constants = dict(
        ROWS=rows,
        COLUMNS=columns,
        KERNEL_WIDTH=width,
        EVEN_COLUMNS=outputs % columns == 0,
        DEPTHWISE=weight.shape[1] == 1 and outputs == groups,
        LARGE=geometry.large(behind.arguments["rows"] + rows, out, counts, packed),
    )
    programs = triton.cdiv(behind.arguments["rows"], rows) * column_tiles
    return Launch(
        direct_kernel,
        programs,
        behind.arguments | arguments,
        behind.constants | constants,
        derived=behind.derived | dict(weight_ptr=("weight", _outputs_last)),
    )
