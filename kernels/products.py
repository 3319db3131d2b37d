"""Synapse and neurons in one launch (10), (11): a convolution or linear layer over spike counts, searched in registers.

An implicit product of matrices: rows are output pixels, columns the output channels of a group, the inner dimension runs over
the taps of the kernel and the input channels of the group; channels are last in memory. A linear layer is a convolution of
images of one pixel. Groups of fewer than `DIRECT_BELOW` channels are summed without tensor cores.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch.utils.weak import WeakTensorKeyDictionary

from pcsnn.kernels import common, tuning
from pcsnn.kernels.common import search
from pcsnn.remembered import remembered
from pcsnn.shapes import convolved, fused_dtype

DIRECT_BELOW = 16      # input channels of a group: fewer do not fill a tensor core's inner dimension
FLAT_BELOW = 32        # input channels of a group: fewer are read across taps, more tap after tap
FULL = 128             # programs that fill a large GPU; smaller tiles where larger ones give fewer
DIRECT_COLUMNS = 128   # of a program without tensor cores, at most
DIRECT_NEURONS = 2048  # of such a program
# Levels of a column are few loads for a whole column of neurons, a level for each neuron is a gather.
SCAN_RATHER_THAN_GUESS = 8
SCAN_RATHER_THAN_BISECT = 32
MAX_UNSHIFTED = 127    # counts up to here are int8 as they are


class Tile(NamedTuple):
    """A program's share of a product, and how it is run."""

    rows: int
    columns: int
    inner: int
    threads: int
    stages: int


# By size of a weight in bytes, the largest first; the last one is for few rows. FLAT_TILES: of an inner dimension over taps.
TILES = {
    1: (Tile(128, 64, 64, 256, 3), Tile(64, 64, 64, 256, 3), Tile(64, 32, 64, 128, 3), Tile(16, 32, 64, 128, 3)),
    2: (Tile(128, 64, 32, 256, 3), Tile(64, 64, 32, 256, 3), Tile(64, 32, 32, 128, 3), Tile(16, 32, 64, 128, 3)),
    4: (Tile(64, 32, 16, 128, 3), Tile(32, 32, 16, 128, 2), Tile(16, 16, 32, 128, 2)),
}
FLAT_TILES = {
    1: (Tile(64, 32, 32, 128, 3), Tile(16, 32, 32, 128, 3)),
    2: (Tile(64, 32, 32, 128, 3), Tile(16, 32, 32, 128, 3)),
    4: (Tile(32, 32, 16, 128, 2), Tile(16, 16, 16, 128, 2)),
}


def tile(rows, columns, groups, tiles):
    """The tile for a product of `rows` x `columns` in each group: the largest of `tiles` that leaves no half of it empty and
    makes programs enough, else the last, for few rows, or the one before."""
    *wide, smallest = tiles
    for candidate in wide:
        fits = candidate.rows < 2 * rows and candidate.columns < 2 * columns
        if fits and groups * triton.cdiv(rows, candidate.rows) * triton.cdiv(columns, candidate.columns) >= FULL:
            return candidate
    return smallest if rows <= smallest.rows else wide[-1]


# ---- inside the kernels -----------------------------------------------------------------------------------------------
@triton.jit
def _per_channel(table, channel, ROWS: tl.constexpr):
    """A table's values for the columns: [1, COLUMNS], or the one for all."""
    return tl.load(table + channel)[None, :] if ROWS else tl.load(table)


@triton.jit
def _top_left(row, inputs, height, width, out_plane, out_width, stride_h, stride_w, padding_h, padding_w,
              LARGE: tl.constexpr):
    """Where the kernel's first tap lies for output pixels `row` [ROWS] int64: y, x, and its address before any channel."""
    pixel = row if LARGE else row.to(tl.int32)
    image = pixel // out_plane
    place = (pixel - image * out_plane).to(tl.int32)
    y = place // out_width * stride_h - padding_h
    x = place % out_width * stride_w - padding_w
    return y, x, ((image.to(tl.int64) * height + y) * width + x) * inputs


@triton.jit
def _store(total, start, lane, channel, inside, out_ptr, bias_ptr, levels_ptr, scale_ptr, residual_ptr, residual_scale_ptr,
           outputs, timesteps, repeat, DTYPE: tl.constexpr, SCAN: tl.constexpr, STEPS: tl.constexpr, LEVELS_ROWS: tl.constexpr,
           SCALE_ROWS: tl.constexpr, RESIDUAL_SCALE_ROWS: tl.constexpr):
    """What neurons make of the sums `total` [ROWS, COLUMNS], float32 or int32, written for output pixels
    start (int64) + lane [ROWS] and output channels `channel` [COLUMNS], where `inside`. DTYPE: of the weights."""
    WHOLE: tl.constexpr = DTYPE == tl.int8
    known = tl.minimum(channel, outputs - 1)
    first = start * outputs
    place = lane[:, None] * outputs + channel[None, :]
    value = total
    if WHOLE and (bias_ptr is not None or residual_ptr is not None):
        value = value.to(tl.int64)
    if bias_ptr is not None:
        value += tl.load(bias_ptr + known)[None, :].to(value.dtype)
    if not WHOLE:
        value = value.to(DTYPE).to(tl.float32)  # as a layer alone would round it
    if residual_ptr is not None:
        branch = tl.load(residual_ptr + first + place, mask=inside, other=0).to(value.dtype)
        if residual_scale_ptr is not None:
            branch *= _per_channel(residual_scale_ptr, known, RESIDUAL_SCALE_ROWS).to(value.dtype)
        value += branch
    if levels_ptr is not None:
        if value.dtype == tl.int64:  # no level is beyond int32
            value = tl.minimum(tl.maximum(value, -(2**31)), 2**31 - 1).to(tl.int32)
        if SCAN:
            groups = tl.zeros(value.shape, tl.int32)
            for x in range(0, timesteps, repeat):
                groups += (value >= _per_channel(levels_ptr + x, known * timesteps, LEVELS_ROWS)).to(tl.int32)
        else:
            levels = levels_ptr
            if LEVELS_ROWS:
                levels = levels_ptr + known[None, :].to(tl.int64) * timesteps
            groups = search(value, levels, timesteps, repeat, STEPS, False)
        if scale_ptr is None:
            tl.store(out_ptr + first + place, (groups * repeat).to(tl.uint8), mask=inside)
        else:
            rates = groups.to(tl.float32) * _per_channel(scale_ptr, known, SCALE_ROWS)
            tl.store(out_ptr + first + place, rates.to(out_ptr.dtype.element_ty), mask=inside)
    else:
        if scale_ptr is not None:
            value = value.to(tl.float32) * _per_channel(scale_ptr, known, SCALE_ROWS)
        tl.store(out_ptr + first + place, value.to(out_ptr.dtype.element_ty), mask=inside)


# Recompiling for an argument's value pays for what addresses are multiples of.
_UNSPECIALISED = ("rows", "height", "width", "out_plane", "out_width", "taps", "kernel_width", "stride_h", "stride_w",
                  "padding_h", "padding_w", "dilation_h", "dilation_w", "row_tiles", "column_tiles", "timesteps", "repeat")


@triton.jit(do_not_specialize=_UNSPECIALISED)
def product_kernel(counts_ptr, weight_ptr, out_ptr, shift_ptr, bias_ptr, levels_ptr, scale_ptr, residual_ptr,
                   residual_scale_ptr, rows, inputs, outputs, group_inputs, group_outputs, height, width, out_plane,
                   out_width, taps, kernel_width, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w,
                   row_tiles, column_tiles, timesteps, repeat,
                   ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, POINTWISE: tl.constexpr,
                   FLAT: tl.constexpr, LARGE: tl.constexpr, SCAN: tl.constexpr, STEPS: tl.constexpr, LEVELS_ROWS: tl.constexpr,
                   SCALE_ROWS: tl.constexpr, RESIDUAL_SCALE_ROWS: tl.constexpr):
    """weight [O, R, S, C / groups]. POINTWISE: output pixels are input pixels. FLAT: an inner step spans several taps."""
    dtype: tl.constexpr = weight_ptr.dtype.element_ty
    total_dtype: tl.constexpr = tl.int32 if dtype == tl.int8 else tl.float32
    program = tl.program_id(0)
    column_tile = program % column_tiles
    row_tile = program // column_tiles % row_tiles
    group = program // column_tiles // row_tiles
    start = row_tile.to(tl.int64) * ROWS
    row_lane = tl.arange(0, ROWS)
    row = start + row_lane
    row_inside = (row < rows)[:, None]
    column = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    column_inside = column < group_outputs
    channel = group * group_outputs + column
    lane = tl.arange(0, INNER)
    size = taps * group_inputs
    weights = weight_ptr + channel.to(tl.int64)[:, None] * size
    if POINTWISE:
        sources = counts_ptr + start * inputs + group * group_inputs + row_lane[:, None] * inputs
    else:
        y, x, first = _top_left(row, inputs, height, width, out_plane, out_width, stride_h, stride_w, padding_h, padding_w,
                                LARGE)
        sources = counts_ptr + first[:, None] + group * group_inputs
    chunks = tl.cdiv(group_inputs, INNER)
    steps = tl.cdiv(size, INNER) if FLAT else taps * chunks
    total = tl.zeros((ROWS, COLUMNS), total_dtype)
    for step in range(steps):
        if FLAT:  # [INNER]
            k = step * INNER + lane
            tap = k // group_inputs
            inner = k - tap * group_inputs
            live = (k < size)[None, :]
            down, right = (tap // kernel_width * dilation_h)[None, :], (tap % kernel_width * dilation_w)[None, :]
        else:     # one tap
            tap = step // chunks
            inner = (step - tap * chunks) * INNER + lane
            k = tap * group_inputs + inner
            live = (inner < group_inputs)[None, :]
            down, right = tap // kernel_width * dilation_h, tap % kernel_width * dilation_w
        if POINTWISE:
            a = tl.load(sources + inner[None, :], mask=row_inside & live, other=0)
        else:
            below, beside = y[:, None] + down, x[:, None] + right
            seen = row_inside & (below >= 0) & (below < height) & (beside >= 0) & (beside < width)
            tap_offset = (down.to(tl.int64) * width + right) * inputs
            a = tl.load(sources + tap_offset + inner[None, :], mask=seen & live, other=0)
        b = tl.load(weights + k[None, :], mask=column_inside[:, None] & live, other=0)
        if shift_ptr is not None:  # uint8 - 128, of the padding too
            a = (a ^ 128).to(tl.int8, bitcast=True)
        total = tl.dot(a.to(dtype), tl.trans(b), total, input_precision="ieee", out_dtype=total_dtype)
    if shift_ptr is not None:
        total += tl.load(shift_ptr + channel, mask=column_inside, other=0)[None, :]
    inside = row_inside & column_inside[None, :]
    _store(total, start, row_lane, channel, inside, out_ptr, bias_ptr, levels_ptr, scale_ptr, residual_ptr,
           residual_scale_ptr, outputs, timesteps, repeat, dtype, SCAN, STEPS, LEVELS_ROWS, SCALE_ROWS, RESIDUAL_SCALE_ROWS)


@triton.jit(do_not_specialize=_UNSPECIALISED)
def direct_kernel(counts_ptr, weight_ptr, out_ptr, bias_ptr, levels_ptr, scale_ptr, residual_ptr,
                  residual_scale_ptr, rows, inputs, outputs, group_inputs, group_outputs, height, width, out_plane,
                  out_width, taps, kernel_width, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w,
                  row_tiles, column_tiles, timesteps, repeat,
                  ROWS: tl.constexpr, COLUMNS: tl.constexpr, LARGE: tl.constexpr, SCAN: tl.constexpr, STEPS: tl.constexpr,
                  LEVELS_ROWS: tl.constexpr, SCALE_ROWS: tl.constexpr, RESIDUAL_SCALE_ROWS: tl.constexpr):
    """weight [R, S, C / groups, O]; columns are output channels of whatever group."""
    dtype: tl.constexpr = weight_ptr.dtype.element_ty
    total_dtype: tl.constexpr = tl.int32 if dtype == tl.int8 else tl.float32
    program = tl.program_id(0)
    start = (program // column_tiles).to(tl.int64) * ROWS
    row_lane = tl.arange(0, ROWS)
    row = start + row_lane
    column = program % column_tiles * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < outputs)[None, :]
    y, x, first = _top_left(row, inputs, height, width, out_plane, out_width, stride_h, stride_w, padding_h, padding_w, LARGE)
    sources = counts_ptr + first[:, None] + (column // group_outputs * group_inputs)[None, :]
    weights = weight_ptr + column
    total = tl.zeros((ROWS, COLUMNS), total_dtype)
    for tap in range(taps):
        down, right = tap // kernel_width * dilation_h, tap % kernel_width * dilation_w
        seen = (y + down >= 0) & (y + down < height) & (x + right >= 0) & (x + right < width)
        tap_sources = sources + (down.to(tl.int64) * width + right) * inputs
        for inner in range(group_inputs):
            a = tl.load(tap_sources + inner, mask=inside & seen[:, None], other=0).to(total_dtype)
            b = tl.load(weights, mask=column < outputs, other=0).to(total_dtype)
            total += a * b[None, :]
            weights += outputs
    _store(total, start, row_lane, column, inside, out_ptr, bias_ptr, levels_ptr, scale_ptr, residual_ptr,
           residual_scale_ptr, outputs, timesteps, repeat, dtype, SCAN, STEPS, LEVELS_ROWS, SCALE_ROWS, RESIDUAL_SCALE_ROWS)


# ---- launch -----------------------------------------------------------------------------------------------------------
_packed = WeakTensorKeyDictionary()


def _of_weight(weight, make):
    """make(weight), once for each state of the weight."""
    return remembered(_packed, weight, make, lambda: make(weight))


def _channels_last(tensor):
    return tensor.contiguous(memory_format=torch.channels_last if tensor.dim() == 4 else torch.contiguous_format)


def _outputs_last(weight):
    return weight.permute(2, 3, 1, 0).contiguous()


def _shift(weight):
    """What taking 128 from every count takes from the sums, [O]."""
    return weight.flatten(1).sum(1, dtype=torch.int32) * 128


def _is_flat(kernel, group_inputs):
    """Whether the inner dimension of a product runs over taps and channels alike."""
    return kernel != [1, 1] and group_inputs < FLAT_BELOW


def _tiles(weight, flat):
    return (FLAT_TILES if flat else TILES)[weight.dtype.itemsize]


def _product(whole, weight, counts, kernel, rows, groups, pixels, timesteps, share):
    """Kernel, tile, columns, groups of tiles, and what else it takes, of a sum on tensor cores."""
    outputs, group_inputs = weight.shape[:2]
    flat = _is_flat(kernel, group_inputs)
    share = share or tile(rows, outputs // groups, groups, _tiles(weight, flat))
    shifted = whole and timesteps > MAX_UNSHIFTED
    arguments = dict(weight_ptr=_of_weight(weight, _channels_last), shift_ptr=_of_weight(weight, _shift) if shifted else None,
                     counts_ptr=counts.view(torch.int8) if whole and not shifted else counts)
    constants = dict(INNER=share.inner, POINTWISE=pixels, FLAT=flat)
    return product_kernel, share, outputs // groups, groups, arguments, constants


def _is_direct(group_inputs, groups):
    return groups > 1 and group_inputs < DIRECT_BELOW


def _direct(weight, counts):
    """The same of one without them."""
    outputs = weight.shape[0]
    columns = min(triton.next_power_of_2(outputs), DIRECT_COLUMNS)
    share = Tile(DIRECT_NEURONS // columns, columns, 0, common.THREADS, None)
    return direct_kernel, share, outputs, 1, dict(weight_ptr=_of_weight(weight, _outputs_last), counts_ptr=counts), {}


def _search_arguments(levels, repeat):
    if levels is None:
        return dict(timesteps=1, repeat=1), dict(SCAN=False, STEPS=0)
    searched, steps = common.search_arguments(levels, repeat)
    scanned = searched["timesteps"] // searched["repeat"] <= (SCAN_RATHER_THAN_GUESS if repeat else SCAN_RATHER_THAN_BISECT)
    return searched, dict(SCAN=True, STEPS=0) if scanned else dict(SCAN=False, **steps)


def plan(out, counts, weight, bias, levels, scale, residual, residual_scale, stride, padding, dilation, groups, repeat,
         timesteps, share=None):
    """The launch that fills `out` [N, O, H', W'], not empty, from counts [N, C, H, W] and weight [O, C / groups, R, S], or
    [O, C] of one pixel. counts, residual and out have their channels last in memory; tables are contiguous. share: the Tile,
    where it is not to be chosen here.
    """
    inputs, height, width = counts.shape[1:]
    outputs, group_inputs, *kernel = (*weight.shape, 1, 1)[:4]
    rows, taps = out.numel() // outputs, kernel[0] * kernel[1]
    whole = weight.dtype == torch.int8
    if whole and taps * group_inputs * timesteps * 128 >= 2**31:
        raise ValueError(f"weight: expected at most {(2**24 - 1) // timesteps} int8 weights an output with counts up to "
                         f"{timesteps}, for a sum that int32 holds, got {taps * group_inputs}")
    if _is_direct(group_inputs, groups):
        kernel_function, share, columns, tile_groups, arguments, constants = _direct(weight, counts)
    else:
        pixels = kernel == [1, 1] and (*stride, *padding) == (1, 1, 0, 0)
        kernel_function, share, columns, tile_groups, arguments, constants = _product(
            whole, weight, counts, kernel, rows, groups, pixels, timesteps, share)
    row_tiles, column_tiles = triton.cdiv(rows, share.rows), triton.cdiv(columns, share.columns)
    searched, search = _search_arguments(levels, repeat)
    arguments |= dict(out_ptr=out, bias_ptr=bias, levels_ptr=levels, scale_ptr=scale, residual_ptr=residual,
                      residual_scale_ptr=residual_scale, rows=rows, inputs=inputs, outputs=outputs, group_inputs=group_inputs,
                      group_outputs=outputs // groups, height=height, width=width, out_plane=out.shape[2] * out.shape[3],
                      out_width=out.shape[3], taps=taps, kernel_width=kernel[1], stride_h=stride[0], stride_w=stride[1],
                      padding_h=padding[0], padding_w=padding[1], dilation_h=dilation[0], dilation_w=dilation[1],
                      row_tiles=row_tiles, column_tiles=column_tiles, **searched)
    constants |= dict(ROWS=share.rows, COLUMNS=share.columns, LARGE=rows + share.rows > 2**31, **search,
                      **common.row_constants(levels=(levels, 2), scale=(scale, 1), residual_scale=(residual_scale, 1)))
    return common.Launch(kernel_function, tile_groups * row_tiles * column_tiles, arguments, constants, share.threads,
                         share.stages)


def _tuned(out, counts, weight, bias, levels, scale, residual, residual_scale, stride, padding, dilation, groups, repeat,
           timesteps):
    """The fastest tile for whole numbers, whose sums are the same in every order; None leaves it to `plan`."""
    outputs, group_inputs, *kernel = (*weight.shape, 1, 1)[:4]
    if weight.dtype != torch.int8 or _is_direct(group_inputs, groups):
        return None
    rows = triton.next_power_of_2(out.numel() // outputs)  # tiles are alike for sizes alike
    tables = [None if table is None else (table.dtype, table.dim()) for table in (levels, scale, residual, residual_scale)]
    key = (out.device, rows, outputs, group_inputs, *kernel, stride, padding, dilation, groups, repeat, timesteps > MAX_UNSHIFTED,
           None if levels is None else levels.shape[-1], *tables)
    return tuning.fastest(key, _tiles(weight, _is_flat(kernel, group_inputs)), lambda share: plan(
        out, counts, weight, bias, levels, scale, residual, residual_scale, stride, padding, dilation, groups, repeat, timesteps,
        share), tuning.allowed(out))


def _launch(*arguments):
    plan(*arguments, _tuned(*arguments))()


def _contiguous(*tables):
    return [None if table is None else table.contiguous() for table in tables]


def conv2d_fire(counts, weight, bias, levels, scale, residual, residual_scale, stride, padding, dilation, groups, repeat,
                timesteps):
    """Input [N, C, H, W] -> counts, rates or currents [N, O, H', W'] of neurons behind a convolution, channels last.

    counts: uint8 up to `timesteps`, or of the dtype of weight [O, C / groups, R, S] float32, float16 or bfloat16; int8 weights
    take counts. bias [O], levels [T] or [O, T], scale and residual_scale [] or [O], residual [N, O, H', W'], each or None.
    ValueError: sums over int8 weights that int32 may not hold.
    """
    sizes = convolved(counts.shape[2:], weight.shape[2:], stride, padding, dilation)
    out = torch.empty((counts.shape[0], weight.shape[0], *sizes), dtype=fused_dtype(weight, levels, scale), device=counts.device,
                      memory_format=torch.channels_last)
    if out.numel():
        residual = None if residual is None else _channels_last(residual)
        bias, levels, scale, residual_scale = _contiguous(bias, levels, scale, residual_scale)
        _launch(out, _channels_last(counts), weight, bias, levels, scale, residual, residual_scale, tuple(stride),
                tuple(padding), tuple(dilation), groups, repeat, timesteps)
    return out


def linear_fire(counts, weight, bias, levels, scale, residual, residual_scale, repeat, timesteps):
    """Input [..., K] -> counts, rates or currents [..., O] of neurons behind a linear layer; weight [O, K], else as
    conv2d_fire."""
    out = counts.new_empty((*counts.shape[:-1], weight.shape[0]), dtype=fused_dtype(weight, levels, scale))
    if out.numel():
        counts, residual, bias, levels, scale, residual_scale = _contiguous(counts, residual, bias, levels, scale,
                                                                            residual_scale)
        rows = out.numel() // out.shape[-1]
        pixels = [None if x is None else x.view(rows, x.shape[-1], 1, 1) for x in (out, counts, residual)]
        _launch(pixels[0], pixels[1], weight, bias, levels, scale, pixels[2], residual_scale, (1, 1), (0, 0), (1, 1), 1, repeat,
                timesteps)
    return out
