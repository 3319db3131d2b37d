"""Convolutions and linear layers as implicit products of matrices on tensor cores.

Rows are output pixels, columns the output channels of a group, the inner dimension runs over the taps of the kernel and
the input channels of the group; channels are last in memory. A linear layer is a convolution of images of one pixel.
"""

import functools

import torch
import triton
import triton.language as tl

from pcsnn.kernels import epilogue, geometry, tiles
from pcsnn.kernels.epilogue import finish
from pcsnn.kernels.geometry import first_tap, within
from pcsnn.kernels.launch import Launch
from pcsnn.tensors.memo import remembered

RUN_BELOW = 32  # input channels: fewer are read in runs along a row of the kernel, more tap after tap
MAX_UNSHIFTED = 127  # counts up to here are int8 as they are
PIECE, WHOLE_PIECE = 16, 32  # sums that a thread searches at a time; whole numbers on a line take fewer registers each
PIXELS, TAPS, RUNS = (
    0,
    1,
    2,
)  # what a step of the inner dimension is part of: the output's own input pixel, a tap, a run


@triton.jit(do_not_specialize=(*geometry.UNSPECIALISED, *epilogue.UNSPECIALISED, "steps"))
def product_kernel(
    counts_ptr,
    weight_ptr,
    shift_ptr,
    rows,
    inputs,
    outputs,
    group_inputs,
    group_outputs,
    part_size,
    steps,
    row_tiles,
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
    INNER: tl.constexpr,
    STAGES: tl.constexpr,
    MODE: tl.constexpr,
    PARTS: tl.constexpr,
    KERNEL_WIDTH: tl.constexpr,
    RUN: tl.constexpr,
    PIXEL: tl.constexpr,
    PADDED: tl.constexpr,
    CHUNKED: tl.constexpr,
    EVEN_INNER: tl.constexpr,
    EVEN_COLUMNS: tl.constexpr,
    LARGE: tl.constexpr,
    PIECES: tl.constexpr,
    WIDE: tl.constexpr,
    LINE: tl.constexpr,
    STEPS: tl.constexpr,
    STAIRS: tl.constexpr,
    LEVELS_ROWS: tl.constexpr,
    LINE_ROWS: tl.constexpr,
    SCALE_ROWS: tl.constexpr,
    RESIDUAL_SCALE_ROWS: tl.constexpr,
):
    """weight [O, R, S, C / groups], in MODE 2 [O, R, run filled up to steps with zeros].

    MODE: 0, 1 or 2, see above. PARTS: taps or runs, the inner of two loops in one; part_size: elements of a weight for
    each.
    RUN: of a run without zeros; PIXEL: inputs of a pixel, where there are runs, which tells what is aligned. PADDED:
    taps may lie outside the image. CHUNKED: a part takes several steps. EVEN_INNER: steps end where parts do;
    EVEN_COLUMNS: tiles end where columns do. Rows and columns beyond the last are read as the last one, which costs no
    mask.
    """
    dtype: tl.constexpr = weight_ptr.dtype.element_ty
    wide: tl.constexpr = tl.int64 if LARGE else tl.int32
    total_dtype: tl.constexpr = tl.int32 if dtype == tl.int8 else tl.float32
    if MODE == 2:
        inputs = PIXEL
    program = tl.program_id(0)
    column_tile = program % column_tiles
    row_tile = program // column_tiles % row_tiles
    group = program // column_tiles // row_tiles
    row = row_tile.to(wide) * ROWS + tl.arange(0, ROWS)
    column = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    known = column if EVEN_COLUMNS else tl.minimum(column, group_outputs - 1)
    lane = tl.arange(0, INNER)
    known_row = tl.minimum(row, rows - 1)
    if MODE == 0:
        first = known_row * inputs + group * group_inputs
    else:
        y, x, first = first_tap(
            known_row, inputs, height, width, out_plane, out_width, stride_h, stride_w, padding_h, padding_w
        )
        if MODE != 2:
            first += group * group_inputs
    if MODE == 2:
        place = (x * inputs)[:, None] + lane[None, :]  # in a row of the image
        end = width * inputs
        if not EVEN_INNER:
            end = tl.minimum(end, tl.maximum(x * inputs + RUN, 0))[:, None]
    # Pointers, to which a step adds one number: sums of offsets the compiler would take apart and multiply again at
    # each step.
    sources = counts_ptr + first[:, None] + lane[None, :]
    weights = weight_ptr + ((group * group_outputs + known).to(wide) * (PARTS * part_size))[:, None] + lane[None, :]
    total = tl.zeros((ROWS, COLUMNS), total_dtype)
    for step in tl.range(0, steps, num_stages=STAGES):
        part = step % PARTS
        inner = step // PARTS * INNER if CHUNKED else 0
        live = (lane < part_size - inner)[None, :]
        if MODE == 0:
            a = tl.load(sources + inner) if EVEN_INNER else tl.load(sources + inner, mask=live, other=0)
        elif MODE == 1:
            down, right = part // KERNEL_WIDTH * dilation_h, part % KERNEL_WIDTH * dilation_w
            taps = sources + ((down * width + right).to(wide) * inputs + inner)
            if PADDED:
                seen = (within(y + down, height) & within(x + right, width))[:, None]
                a = tl.load(taps, mask=seen if EVEN_INNER else seen & live, other=0)
            else:
                a = tl.load(taps) if EVEN_INNER else tl.load(taps, mask=live, other=0)
        else:
            down = part * dilation_h
            seen = within(y + down, height)[:, None] & within(place + inner, end)
            a = tl.load(sources + ((down * width).to(wide) * inputs + inner), mask=seen, other=0)
        if MODE == 2 or EVEN_INNER:
            b = tl.load(weights + (part * part_size + inner))
        else:
            b = tl.load(weights + (part * part_size + inner), mask=live, other=0)
        if shift_ptr is not None:  # uint8 - 128, of the padding too
            a = (a ^ 128).to(tl.int8, bitcast=True)
        total = tl.dot(a.to(dtype), tl.trans(b), total, out_dtype=total_dtype)
    finish(
        total,
        row,
        column_tile * COLUMNS,
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
        dtype,
        PIECES,
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


# ---- launch ---------------------------------------------------------------------------------------------------------
def _runs(weight, inner):
    """weight [O, C, R, S] as [O, R, S * C, and zeros up to a multiple of `inner`]."""
    run = weight.shape[1] * weight.shape[3]
    packed = weight.new_zeros((*weight.shape[:3:2], triton.cdiv(run, inner) * inner))
    packed[..., :run] = weight.permute(0, 2, 3, 1).flatten(2)
    return packed


def _shift(weight):
    """What taking 128 from every count takes from the sums, [O]."""
    return remembered(weight, "shift", lambda: weight.flatten(1).sum(1, dtype=torch.int32) * 128)


def _packed(weight, inner):
    """The weight as product_kernel reads it; inner: of the tile, where it is read in runs, or None."""
    if inner is None:
        return remembered(weight, "channels last", lambda: geometry.channels_last(weight))
    return remembered(weight, ("runs", inner), lambda: _runs(weight, inner))


class Kind:
    """What tells how a product on tensor cores is computed, and in which tiles it may be."""

    def __init__(self, out, counts, weight, stride, padding, dilation, groups):
        outputs, self.group_inputs, *kernel = (*weight.shape, 1, 1)[:4]
        self.height, self.width = kernel
        self.rows, self.columns, self.groups = out.numel() // outputs, outputs // groups, groups
        self.itemsize = weight.dtype.itemsize
        self.geometry = (*stride, *padding, *dilation)
        self.padded = any(padding)
        if kernel == [1, 1] and (*stride, *padding) == (1, 1, 0, 0):
            self.mode = PIXELS
        elif (
            groups == 1
            and self.group_inputs < RUN_BELOW
            and (dilation[1] == 1 or self.width == 1)
            and self.group_inputs * counts.shape[3] < 2**31
        ):
            self.mode = RUNS
        else:
            self.mode = TAPS
        self.parts, self.run = (
            (self.height, self.group_inputs * self.width)
            if self.mode == RUNS
            else (self.height * self.width, self.group_inputs)
        )

    def pick(self):
        return tiles.pick(self.itemsize, self.rows, self.columns, self.run, self.parts, self.groups)

    def candidates(self):
        return tiles.candidates(self.itemsize, self.run)

    def name(self):
        """One for all products that are timed alike, those of up to twice the rows among them."""
        numbers = (
            self.itemsize,
            triton.next_power_of_2(self.rows),
            self.columns,
            self.groups,
            self.group_inputs,
            self.height,
            self.width,
            *self.geometry,
        )
        return " ".join(map(str, numbers))


def plan(out, counts, weight, kind, tile, timesteps, behind):
    """The launch of a product; behind: the Part of what stands behind the sum, and the geometry."""
    computed = behind.constants["LINE"] == 1  # levels are those of a line
    chunks = triton.cdiv(kind.run, tile.inner)
    whole = weight.dtype == torch.int8
    piece = WHOLE_PIECE if whole and computed else PIECE
    row_tiles, column_tiles = triton.cdiv(kind.rows, tile.rows), triton.cdiv(kind.columns, tile.columns)
    shifted = whole and timesteps > MAX_UNSHIFTED
    inner = tile.inner if kind.mode == RUNS else None
    packed = _packed(weight, inner)
    derived = dict(weight_ptr=("weight", functools.partial(_packed, inner=inner)), shift_ptr=("weight", _shift))
    arguments = dict(
        weight_ptr=packed,
        shift_ptr=_shift(weight) if shifted else None,
        counts_ptr=counts.view(torch.int8) if whole and not shifted else counts,
        group_inputs=kind.group_inputs,
        group_outputs=kind.columns,
        steps=kind.parts * chunks,
        part_size=chunks * tile.inner if kind.mode == RUNS else kind.group_inputs,
        row_tiles=row_tiles,
        column_tiles=column_tiles,
    )
    # Whole numbers beyond the end of a run meet weights of zero; infinities must not.
    constants = dict(
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        INNER=tile.inner,
        STAGES=tile.stages,
        MODE=kind.mode,
        PARTS=kind.parts,
        KERNEL_WIDTH=kind.width,
        RUN=kind.run if kind.mode == RUNS else 0,
        PIXEL=kind.group_inputs if kind.mode == RUNS else 0,
        PADDED=kind.padded,
        CHUNKED=chunks > 1,
        EVEN_COLUMNS=kind.columns % tile.columns == 0,
        EVEN_INNER=kind.run % tile.inner == 0 or (kind.mode == RUNS and counts.dtype == torch.uint8),
        PIECES=max(tile.rows * tile.columns // tile.threads // piece, 1),
        LARGE=geometry.large(kind.rows + tile.rows, out, counts, packed),
    )
    # So that two programs of 256 threads share a multiprocessor; searches of tables take more.
    limited = tile.threads == 256 and computed and not behind.constants["WIDE"]
    return Launch(
        product_kernel,
        kind.groups * row_tiles * column_tiles,
        behind.arguments | arguments,
        behind.constants | constants,
        tile.threads,
        tile.stages,
        behind.derived | derived,
        dict(STAGES=tiles.AMD_STAGES),
        {90: 128} if limited else {},
    )
