"""Spike counts and firing rates of neurons under a mean current (10), with or without a residual branch."""

import torch
import triton
import triton.language as tl

from pcsnn.kernels import common, variants
from pcsnn.kernels.common import channel_of, load_row, place, search
from pcsnn.kernels.launch import Launch, run

__all__ = ["fire_counts", "fire_rates", "fire_rates_"]

COMPUTED, SCANNED, GATHERED = 32, 16, 4  # neurons a thread, where there are enough, by how their levels are found
THREADS = 256
VECTOR = 16  # bytes of the current, side by side in a thread
SIDE_BY_SIDE = 4  # neurons, where levels are scanned for counts


def _per_thread(current, steps, counts, by_columns):
    """(neurons a thread, neighbours among them, threads), the fastest on an H200: 2^27 neurons, float32 and
    bfloat16."""
    neighbours, halves = VECTOR // current.element_size(), current.element_size() == 2
    if steps > 0:
        return GATHERED, neighbours, THREADS
    if not counts:
        return SCANNED if steps < 0 else COMPUTED, neighbours, THREADS
    if steps < 0:
        return SCANNED, SIDE_BY_SIDE, THREADS if halves else THREADS // 2
    if halves:
        return COMPUTED // 2 if by_columns else COMPUTED, neighbours, THREADS // 2
    return COMPUTED // 4, neighbours, THREADS


@triton.jit(do_not_specialize=(*common.UNSPECIALISED, "turn", "low"))
def fire_mean_kernel(
    current_ptr,
    out_ptr,
    levels_ptr,
    line_ptr,
    scale_ptr,
    residual_ptr,
    residual_scale_ptr,
    rows,
    units,
    channels,
    column_tiles,
    timesteps,
    repeat,
    distinct,
    reach,
    level_stride,
    channel_stride,
    turn,
    low,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    UNIT: tl.constexpr,
    AXIS: tl.constexpr,
    LARGE: tl.constexpr,
    EVEN: tl.constexpr,
    VECTOR: tl.constexpr,
    LINE: tl.constexpr,
    STEPS: tl.constexpr,
    STAIRS: tl.constexpr,
    LEVELS_ROWS: tl.constexpr,
    LINE_ROWS: tl.constexpr,
    SCALE_ROWS: tl.constexpr,
    RESIDUAL_SCALE_ROWS: tl.constexpr,
    SIGNED: tl.constexpr,
):
    dtype: tl.constexpr = tl.float64 if current_ptr.dtype.element_ty == tl.float64 else tl.float32
    start, offset, inside, row, column = place(rows, units, column_tiles, ROWS, COLUMNS, UNIT, LARGE, EVEN, VECTOR)
    channel = channel_of(row, column, channels, ROWS, AXIS, EVEN)
    if AXIS == 1:  # what the compiler then knows the alignment of
        channels = units * UNIT
        if LEVELS_ROWS:
            level_stride, channel_stride = channels, 1
    mean = tl.load(current_ptr + start + offset, mask=inside, other=0).to(dtype)
    if residual_ptr is not None:
        branch = tl.load(residual_ptr + start + offset, mask=inside, other=0).to(dtype)
        if residual_scale_ptr is not None:
            branch = branch * load_row(residual_scale_ptr, channel, RESIDUAL_SCALE_ROWS).to(dtype)
        mean = mean + branch
    reached = search(
        mean,
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
        LINE,
        STEPS,
        STAIRS,
        LEVELS_ROWS,
        LINE_ROWS,
        False,
    )
    if scale_ptr is None:
        tl.store(out_ptr + start + offset, (reached * repeat).to(tl.uint8), mask=inside)
    else:
        if SIGNED:
            reached = tl.abs(reached - turn) - low
        rates = reached.to(dtype) * load_row(scale_ptr, channel, SCALE_ROWS).to(dtype)
        tl.store(out_ptr + start + offset, rates.to(out_ptr.dtype.element_ty), mask=inside)


def plan(out, current, levels, scale, residual, residual_scale, repeat, turn=0, low=0, line=None, reach=0):
    """The launch that fills `out` [N, ...]; current, residual and out dense and alike in layout, tables contiguous, not
    empty."""
    tables = common.row_constants(
        levels=(levels, 2), line=(line, 2), scale=(scale, 1), residual_scale=(residual_scale, 1)
    )
    by_channel, by_columns = any(tables.values()), current.dim() > 1 and current.stride(1) == 1
    method = common.search_method(levels, line, repeat, reach, by_columns)
    per_thread = _per_thread(current, method.constants["STEPS"], scale is None, by_channel and by_columns)
    tiles = common.tiles(current, by_channel, *per_thread)
    arguments = dict(
        current_ptr=current,
        out_ptr=out,
        scale_ptr=scale,
        residual_ptr=residual,
        residual_scale_ptr=residual_scale,
        turn=turn,
        low=low,
        **method.arguments,
        **tiles.arguments(),
    )
    constants = dict(
        **method.constants,
        **tiles.constants(),
        SIGNED=bool(turn or low),
        **common.row_constants(scale=(scale, 1), residual_scale=(residual_scale, 1)),
    )
    return Launch(fire_mean_kernel, tiles.programs, arguments, constants, tiles.threads, derived=method.derived)


def _fire(out, current, levels, scale, residual, residual_scale, repeat, turn, low, line, reach):
    if residual is not None:
        residual = common.in_layout_of(residual, current)
    levels, scale, residual_scale, line = common.contiguous(levels, scale, residual_scale, line)
    run(
        plan,
        dict(
            out=out,
            current=current,
            levels=levels,
            scale=scale,
            residual=residual,
            residual_scale=residual_scale,
            line=line,
        ),
        repeat=repeat,
        turn=turn,
        low=low,
        reach=reach,
    )


def fire_counts(current, levels, residual, residual_scale, repeat, line=None, reach=0):
    """Mean current [N, ...] float -> spike counts uint8 [N, ...] in its layout; levels [T] or [C, T].

    residual: None, of the dtype of current, or uint8 counts worth residual_scale [] or [C] each.
    """
    out = torch.empty_like(current, dtype=torch.uint8)
    if out.numel():
        _fire(out, common.as_dense(current), levels, None, residual, residual_scale, repeat, 0, 0, line, reach)
    return out


def fire_rates(current, levels, scale, residual, residual_scale, repeat, turn=0, low=0, line=None, reach=0):
    """Mean current [N, ...] float -> scale * (|k // repeat - turn| - low), in its dtype and layout; scale [] or [C],
    else as fire_counts."""
    out = torch.empty_like(current)
    if out.numel():
        _fire(out, common.as_dense(current), levels, scale, residual, residual_scale, repeat, turn, low, line, reach)
    return out


def fire_rates_(current, levels, scale, residual, residual_scale, repeat, turn=0, low=0, line=None, reach=0):
    """As fire_rates, written over `current`."""
    if not current.numel():
        return
    dense = common.as_dense(current)
    _fire(dense, dense, levels, scale, residual, residual_scale, repeat, turn, low, line, reach)
    if dense is not current:
        current.copy_(dense)
    elif not current.is_inference():
        torch.autograd.graph.increment_version(current)


# ---- for offline compilation ----------------------------------------------------------------------------------------
def _variant(operation, dtype, size, layout, form, residual_dtype=None, signed=False):
    levels, scale, line, reach = variants.tables(size, layout, form)
    as_rates = operation == "fire_rates"
    output = dtype if as_rates else torch.uint8
    residual = None if residual_dtype is None else variants.neurons(residual_dtype, size, layout)
    launch = plan(
        variants.neurons(output, size, layout),
        variants.neurons(dtype, size, layout),
        levels,
        scale if as_rates else None,
        residual,
        scale if residual_dtype == torch.uint8 else None,
        1,
        *((3, 2) if signed else (0, 0)),
        line,
        reach,
    )
    extra = " signed" if signed else {None: "", torch.uint8: " with counts"}.get(residual_dtype, " with a current")
    return variants.Variant(operation, dtype, output, size, f"{layout} {form}{extra}", launch)


def launches():
    """Each dtype, layout and way to search at the widest; other sizes with lines and bisected."""
    found = []
    for dtype in variants.CURRENTS:
        for layout in variants.LAYOUTS:
            found += [_variant("fire_counts", dtype, "wide", layout, form) for form in variants.FORMS]
            found += [_variant("fire_rates", dtype, "wide", layout, form) for form in ("line", "bisected")]
        found += [
            _variant("fire_rates", dtype, "wide", "last", "line", torch.uint8),
            _variant("fire_rates", dtype, "wide", "last", "line", dtype),
            _variant("fire_counts", dtype, "wide", "planes", "line", torch.uint8),
            _variant("fire_rates", dtype, "wide", "last", "bisected", signed=True),
        ]
        for size in ("narrow", "odd"):
            found += [
                _variant("fire_counts", dtype, size, "last", "line"),
                _variant("fire_rates", dtype, size, "planes", "bisected"),
            ]
    found += [_variant("fire_counts", torch.float32, "large", layout, "line") for layout in variants.LAYOUTS]
    return [*found, _variant("fire_rates", torch.float16, "large", "last", "bisected")]
