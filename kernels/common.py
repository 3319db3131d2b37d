"""What the kernels share: memory layout, configurations, the launch, the channel of a neuron, the search."""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from pcsnn.kernels.launch import THREADS, Part
from pcsnn.levels.spacing import probes
from pcsnn.tensors.memo import remembered

FULL = 512  # programs that fill a large GPU several times over; smaller ones where larger ones give fewer
NARROW = 4  # neurons a thread, at least: 128-bit loads of float32 all the same
NARROWEST = 128  # columns of a tile, at least, where a plane has as many
WIDEST = 2048
SCANNED = 32  # levels that are compared one after the other: neighbours share their loads, which a bisection gathers


# ---- memory layout --------------------------------------------------------------------------------------------------
def _extent(tensor):
    return [(stride, size) for size, stride in zip(tensor.shape, tensor.stride()) if size != 1]


def is_dense(tensor):
    """Whether the elements fill their memory once and without gaps, in whatever order of the dimensions."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(_extent(tensor)):
        if stride != expected:
            return False
        expected *= size
    return True


def in_layout_of(tensor, other):
    """`tensor`, or its copy where its elements do not lie in memory in the order of those of the dense `other`."""
    if _extent(tensor) == _extent(other):
        return tensor
    return torch.empty_like(other, dtype=tensor.dtype).copy_(tensor)


def as_dense(tensor):
    """`tensor`, or its copy where it is not dense."""
    return tensor if is_dense(tensor) else torch.empty_like(tensor).copy_(tensor)


def contiguous(*tables):
    """Tables as they are, or their copies where they are not contiguous; None stays."""
    return [table if table is None or table.is_contiguous() else table.contiguous() for table in tables]


def as_bytes(tensor):
    return tensor.view(torch.uint8) if tensor.dtype == torch.bool else tensor


# ---- how programs share the neurons ---------------------------------------------------------------------------------
class Tiles(NamedTuple):
    """Dense neurons [N, C, ...] as a matrix in memory, [rows, columns], and how programs share it.

    The channel is the column where neighbours differ in it (AXIS 1), row % channels where a plane of pixels has one
    (AXIS 0); without tables by channel there is one row (AXIS -1).
    """

    rows: int
    columns: int
    channels: int
    axis: int
    tile_rows: int
    tile_columns: int
    threads: int
    large: bool  # whether an offset within a tile, or a row, may leave 32 bits
    vector: (
        int  # neighbours of a thread; else the compiler takes those of the narrowest element, and wide ones lie apart
    )

    @property
    def column_tiles(self):
        return triton.cdiv(self.columns, self.tile_columns)

    @property
    def programs(self):
        return triton.cdiv(self.rows, self.tile_rows) * self.column_tiles

    def arguments(self):
        """Columns are units * UNIT, so that the compiler knows what rows are aligned to."""
        return dict(
            rows=self.rows, units=self.columns // self.unit, channels=self.channels, column_tiles=self.column_tiles
        )

    def constants(self):
        return dict(
            ROWS=self.tile_rows,
            COLUMNS=self.tile_columns,
            UNIT=self.unit,
            AXIS=self.axis,
            LARGE=self.large,
            EVEN=self.columns % self.tile_columns == 0,
            VECTOR=min(self.vector, self.tile_columns),
        )

    @property
    def unit(self):
        return math.gcd(self.columns, 16)


def tiles(step, by_channel, neurons_a_thread, vector, threads=THREADS):
    """The Tiles of the dense `step` [N, C, ...], not empty; fewer neurons a thread, or threads, where there are few of
    them or their rows are not aligned. vector: neurons that lie side by side in a thread, at most."""
    neurons = step.numel()
    channels, inner = (step.shape[1], step.stride(1)) if by_channel else (1, neurons)
    axis = -1 if not by_channel else 1 if inner == 1 else 0
    columns = channels if axis == 1 else inner
    rows = neurons // columns
    if columns % NARROW:  # elements are read one by one, and their addresses take registers
        neurons_a_thread = min(neurons_a_thread, NARROW)
    while neurons < FULL * threads * neurons_a_thread and neurons_a_thread > NARROW:
        neurons_a_thread //= 2
    if neurons < FULL * threads * neurons_a_thread:
        threads = THREADS
    block = threads * neurons_a_thread
    width = _width(columns, block) if by_channel else block
    height = max(block // width, 1)
    large = max(rows, columns) + height * columns > 2**31
    return Tiles(rows, columns, channels, axis, height, width, threads, large, vector)


def _width(columns, block):
    """Columns of a tile: a power of two that wastes an eighth at most, or the least waste of those wide enough for wide
    loads."""
    most = min(triton.next_power_of_2(columns), block, WIDEST)
    candidates = [most >> shift for shift in range(most.bit_length()) if most >> shift >= min(most, NARROWEST)]
    waste = {width: triton.cdiv(columns, width) * width / columns for width in candidates}
    return next((width for width in candidates if waste[width] <= 1.125), min(candidates, key=waste.get))


def row_constants(**tables):
    """NAME_ROWS, whether a table has one row a channel: name -> (tensor or None, its number of dimensions when it
    has)."""
    return {
        f"{name.upper()}_ROWS": table is not None
        and table.dim() == dims
        and table.shape[-1 if name == "line" else 0] > 1
        for name, (table, dims) in tables.items()
    }


def _transposed(levels):
    return remembered(levels, "transposed", lambda: levels.t().contiguous())


def search_method(levels, line, repeat, reach, by_columns=False):
    """The Part of `search` that suits a table: a computed level (23), a scan of few levels, or a bisection of all or of
    those near a line.

    by_columns: levels are read transposed, neighbours of one level side by side.
    """
    timesteps, repeat = levels.shape[-1], max(repeat, 1)
    if levels.numel() >= 2**31:
        raise ValueError(f"levels: expected fewer than 2^31 values on a GPU, got shape {tuple(levels.shape)}")
    arguments = dict(
        levels_ptr=levels,
        line_ptr=None,
        timesteps=timesteps,
        repeat=repeat,
        distinct=timesteps // repeat,
        reach=reach,
        level_stride=1,
        channel_stride=timesteps,
    )
    constants = dict(LINE=0, STEPS=0, STAIRS=repeat > 1, LEVELS_ROWS=False, LINE_ROWS=False)
    if line is not None and reach == 0:
        computed = dict(LINE=1) | row_constants(line=(line, 2))
        return Part(arguments | dict(levels_ptr=None, line_ptr=line), constants | computed, {})
    constants |= row_constants(levels=(levels, 2))
    derived = {}
    if by_columns and constants["LEVELS_ROWS"]:
        arguments |= dict(levels_ptr=_transposed(levels), level_stride=levels.shape[0], channel_stride=1)
        derived = dict(levels_ptr=("levels", _transposed))
    if timesteps // repeat <= SCANNED:
        constants |= dict(STEPS=-1)
    elif line is None:
        constants |= dict(STEPS=timesteps.bit_length())
    else:
        arguments |= dict(line_ptr=line)
        constants |= dict(LINE=2, STEPS=probes(reach)) | row_constants(line=(line, 2))
    return Part(arguments, constants, derived)


# Recompiling for an argument's value (1, multiples of 16) pays for row lengths only, and those UNIT tells of.
UNSPECIALISED = (
    "rows",
    "units",
    "channels",
    "column_tiles",
    "timesteps",
    "repeat",
    "distinct",
    "reach",
    "level_stride",
    "channel_stride",
)


# ---- inside the kernels ---------------------------------------------------------------------------------------------
# x + ROUND - ROUND is x rounded to a whole number, 0 <= x < 2^22, and the low bits of x + ROUND are that number.
_ROUND = tl.constexpr(12582912.0)
_ROUND_BITS = tl.constexpr(0x4B400000)
_FLOAT_MAX = tl.constexpr(3.4028234663852886e38)


@triton.jit
def place(
    rows,
    units,
    column_tiles,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    UNIT: tl.constexpr,
    LARGE: tl.constexpr,
    EVEN: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """(start, offset [ROWS, COLUMNS], inside, row [ROWS], column [COLUMNS]) of this program's tile of
    [rows, units * UNIT];
    EVEN: tiles end where columns do."""
    wide: tl.constexpr = tl.int64 if LARGE else tl.int32
    columns = units * UNIT
    row_tile, column_tile = tl.program_id(0) // column_tiles, tl.program_id(0) % column_tiles
    row = row_tile.to(wide) * ROWS + tl.arange(0, ROWS)
    column = column_tile.to(wide) * COLUMNS + tl.arange(0, COLUMNS)
    start = row_tile.to(tl.int64) * ROWS * columns + column_tile.to(tl.int64) * COLUMNS
    offset = tl.arange(0, COLUMNS)[None, :]
    if ROWS > 1:
        offset = offset + (tl.arange(0, ROWS).to(wide) * columns)[:, None]
    offset = tl.max_contiguous(offset, [1, VECTOR])
    inside = (row < rows)[:, None]
    if not EVEN:
        inside = inside & (column < columns)[None, :]
    return start, offset, inside, row, column


@triton.jit
def channel_of(row, column, channels, ROWS: tl.constexpr, AXIS: tl.constexpr, EVEN: tl.constexpr):
    """Channels of a tile, beyond the last one 0: [1, COLUMNS], [ROWS, 1], or a number where it has one only."""
    if AXIS == 1:
        channel = column.to(tl.int32)
        return (channel if EVEN else tl.where(channel < channels, channel, 0))[None, :]
    elif AXIS == 0:
        channel = (row % channels).to(tl.int32)
        return tl.sum(channel) if ROWS == 1 else channel[:, None]
    else:
        return 0


@triton.jit
def load_row(table, channel, BY_CHANNEL: tl.constexpr):
    """A table's value for each channel, or the one for all."""
    return tl.load(table + channel) if BY_CHANNEL else tl.load(table)


@triton.jit
def load_line(line, channel, channels, BY_CHANNEL: tl.constexpr):
    """first, step and float32 1 / step of each channel, or those for all, of a line [3, channels] or [3]."""
    stride = channels if BY_CHANNEL else 1
    first = load_row(line, channel, BY_CHANNEL)
    step = load_row(line + stride, channel, BY_CHANNEL)
    inverse = load_row(line + 2 * stride, channel, BY_CHANNEL)
    return first, step, inverse.to(tl.float32, bitcast=True)


@triton.jit
def _nearest(value, first, inverse, steps, most, SUMMED: tl.constexpr):
    """The whole number 0..most nearest to (mean - first) * inverse, float32 and _ROUND more; 0 for NaN.

    A channel that never fires has first = inf: its levels are near for an infinite value only.
    """
    offset = -(first.to(tl.float32) * inverse)
    if first.dtype != tl.int32:
        offset = tl.maximum(offset, -_FLOAT_MAX)
    if value.dtype == tl.float64:  # what float32 would round to infinity is not
        value = tl.where((value > _FLOAT_MAX) & (value < float("inf")), _FLOAT_MAX, value)
    if SUMMED:
        inverse = inverse / steps.to(tl.float32)
    position = tl.math.fma(value.to(tl.float32), inverse, offset)
    position = tl.minimum(tl.maximum(position, 0.0), most.to(tl.float32))
    return position + _ROUND


@triton.jit
def _on_line(value, first, step, inverse, steps, distinct, SUMMED: tl.constexpr, BOUNDED: tl.constexpr):
    """Distinct levels of a line (23) that are reached: the nearest one is computed, and one comparison tells."""
    if value.dtype == tl.int32:
        bits = _nearest(value, first, inverse, steps, distinct - 1, SUMMED).to(tl.int32, bitcast=True)
        start = first - _ROUND_BITS * step  # modulo 2^32, as all of it
        reached = value >= start + bits * step
        guess = bits & 255
        if BOUNDED:
            return guess + reached.to(tl.int32)
        return guess + tl.where(
            reached, tl.where(step == 0, distinct, 1), 0
        )  # all levels of a silent channel are 2^31 - 1
    else:
        near = _nearest(value, first, inverse, steps, distinct - 1, SUMMED)
        level = tl.math.fma(near - _ROUND, step, first)
        if SUMMED and value.dtype == tl.float64:
            level = level.to(tl.float64) * steps.to(tl.float64)
        elif SUMMED:
            level = level * steps.to(tl.float32)
        return (near.to(tl.int32, bitcast=True) & 255) + (value >= level.to(value.dtype)).to(tl.int32)


@triton.jit
def _level(levels, row, x, level_stride, steps, dtype: tl.constexpr, SUMMED: tl.constexpr):
    level = tl.load(levels + (row + x * level_stride)).to(dtype)
    return level * steps.to(dtype) if SUMMED else level


@triton.jit
def search(
    value,
    levels_ptr,
    line_ptr,
    channel,
    channels,
    timesteps,
    repeat,
    distinct,
    reach,
    level_stride,
    channel_stride,
    LINE: tl.constexpr,
    STEPS: tl.constexpr,
    STAIRS: tl.constexpr,
    LEVELS_ROWS: tl.constexpr,
    LINE_ROWS: tl.constexpr,
    SUMMED: tl.constexpr,
    BOUNDED: tl.constexpr = False,
    steps=1,
):
    """k // repeat with k = #{x : value >= level_x} (10), int32, as a Method says.

    value: a tile of float32, float64, or int32 with int32 levels; SUMMED: it is a sum over `steps`, compared with steps
    times level rounded once; BOUNDED: it is a whole number below 2^31 - 1.
    channel: of `channel_of`. LINE 1: levels of a line; STEPS -1: every level is compared; else STEPS comparisons bisect
    all levels, or with LINE 2 those within `reach` of what a line says; STAIRS: repeat is not 1. NaN gives 0.
    """
    dtype: tl.constexpr = value.dtype
    if LINE > 0:
        first, step, inverse = load_line(line_ptr, channel, channels, LINE_ROWS)
    if LINE == 1:
        return _on_line(value, first, step, inverse, steps, distinct, SUMMED, BOUNDED)
    else:
        row = channel * channel_stride if LEVELS_ROWS else 0
        count = tl.zeros(value.shape, tl.int32)
        if STEPS < 0:
            # Counted in float32: comparing and adding are one instruction each then.
            found = tl.full(value.shape, _ROUND, tl.float32)
            for x in range(0, timesteps, repeat):
                found += (value >= _level(levels_ptr, row, x, level_stride, steps, dtype, SUMMED)).to(tl.float32)
            return found.to(tl.int32, bitcast=True) & 255
        else:
            if LINE == 2:
                near = _nearest(value, first, inverse, steps, timesteps, SUMMED)
                count = tl.maximum((near - _ROUND).to(tl.int32) - reach, 0)
            for part in tl.static_range(STEPS):
                probe = count + (1 << (STEPS - 1 - part))
                level = _level(levels_ptr, row, tl.minimum(probe, timesteps) - 1, level_stride, steps, dtype, SUMMED)
                count = tl.where((probe <= timesteps) & (value >= level), probe, count)
            return count // repeat if STAIRS else count


@triton.jit
def spike_values(amplitude, channel, dtype: tl.constexpr, ROWS: tl.constexpr):
    """What a spike and a silent step are worth, of `dtype`: 1 and 0, times amplitude (0 may become -0 or NaN)."""
    if amplitude is None:
        return tl.full((), 1, dtype), tl.full((), 0, dtype)
    else:
        worth = load_row(amplitude, channel, ROWS)
        wide: tl.constexpr = tl.float64 if dtype == tl.float64 else tl.float32
        spike = worth.to(wide).to(dtype)
        return spike, (spike.to(wide) * 0.0).to(dtype)


INTERPRETED = not isinstance(place, triton.runtime.jit.JITFunction)
