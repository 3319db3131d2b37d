"""Sorted spikes of neurons under T currents (5)-(9): summed in time order, searched, written from the count; and spike
trains of given counts (7), (13): sorted, or in a given order of the steps. Binary spikes, or integers (22)."""

import torch
import triton
import triton.language as tl

from pcsnn.kernels import common, variants
from pcsnn.kernels.common import channel_of, place, search, spike_values
from pcsnn.kernels.launch import Launch, run
from pcsnn.tensors.shapes import steps_like

__all__ = ["expand_spikes", "fire_spikes"]

SPIKES = (torch.uint8, torch.float32, torch.float16, torch.bfloat16, torch.float64)  # bool is written as uint8
VECTOR = 16  # bytes of the currents, side by side in a thread


@triton.jit
def integer_spikes(above, spike_levels, spike):
    """What a step sends of counts that are `above` those it is silent at: 0..spike_levels, in the dtype of `spike`,
    what one of value 1 is worth."""
    sent = tl.minimum(tl.maximum(above, 0), spike_levels)
    if spike.dtype.is_floating():
        wide: tl.constexpr = tl.float64 if spike.dtype == tl.float64 else tl.float32
        return (sent.to(wide) * spike.to(wide)).to(spike.dtype)
    else:
        return sent.to(spike.dtype)


@triton.jit(do_not_specialize=(*common.UNSPECIALISED, "spike_levels"))
def fire_spikes_kernel(
    current_ptr,
    out_ptr,
    levels_ptr,
    line_ptr,
    amplitude_ptr,
    neurons,
    time_stride,
    rows,
    units,
    channels,
    column_tiles,
    timesteps,
    spike_levels,
    repeat,
    distinct,
    reach,
    level_stride,
    channel_stride,
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
    AMPLITUDE_ROWS: tl.constexpr,
    UNROLL: tl.constexpr,
):
    dtype: tl.constexpr = tl.float64 if current_ptr.dtype.element_ty == tl.float64 else tl.float32
    start, offset, inside, row, column = place(rows, units, column_tiles, ROWS, COLUMNS, UNIT, LARGE, EVEN, VECTOR)
    channel = channel_of(row, column, channels, ROWS, AXIS, EVEN)
    if AXIS == 1:  # what the compiler then knows the alignment of
        channels = units * UNIT
        if LEVELS_ROWS:
            level_stride, channel_stride = channels, 1
    total = tl.zeros((ROWS, COLUMNS), dtype)
    step_ptr = current_ptr + start
    for first in range(0, timesteps, UNROLL):
        # Past the last step zeros are added, which leaves every sum as it is: none is ever -0.
        for later in tl.static_range(UNROLL):
            total += tl.load(
                step_ptr + offset, mask=inside & (tl.full((1, 1), first + later, tl.int32) < timesteps), other=0
            ).to(dtype)
            step_ptr += time_stride
    full = timesteps if spike_levels is None else timesteps * spike_levels
    reached = search(
        total,
        levels_ptr,
        line_ptr,
        channel,
        channels,
        full,
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
        True,
        steps=timesteps,
    )
    silent = timesteps - repeat * reached
    spike, silence = spike_values(amplitude_ptr, channel, out_ptr.dtype.element_ty, AMPLITUDE_ROWS)
    out = out_ptr + start
    if spike_levels is None:
        for step in range(timesteps):
            tl.store(out + offset, tl.where(step >= silent, spike, silence), mask=inside)
            out += neurons
    else:
        above = repeat * reached - full
        for _ in range(timesteps):
            above += spike_levels
            tl.store(out + offset, integer_spikes(above, spike_levels, spike), mask=inside)
            out += neurons


def _unroll(current, unit):
    """Steps loaded before they are added: enough bytes in flight, few enough registers at 16 neurons a thread; `unit`:
    of the rows, whose elements are loaded one by one where they are not aligned."""
    return min({2: 8, 4: 4, 8: 2}[current.element_size()], 8 if unit >= common.NARROW else 4)


def _neurons_a_thread(out):
    """16 bytes of what is stored, or 8 of bytes, which leaves more loads in flight."""
    return min(16 // out.element_size(), 8)


def _integers(spike_levels):
    """D as the kernels take it: None, and so another kernel, of binary spikes."""
    return None if spike_levels == 1 else spike_levels


def plan(out, current, levels, amplitude, repeat, line=None, reach=0, spike_levels=1):
    """The launch that fills `out` [T, N, ...], bytes or floats; steps of it and of `current` dense and alike in layout,
    tables contiguous."""
    step = current.select(0, 0)
    time_stride = current.stride(0) if current.shape[0] > 1 else step.numel()
    tables = common.row_constants(levels=(levels, 2), line=(line, 2), amplitude=(amplitude, 1))
    method = common.search_method(levels, line, repeat, reach, step.dim() > 1 and step.stride(1) == 1)
    tiles = common.tiles(step, any(tables.values()), _neurons_a_thread(out), VECTOR // current.element_size())
    arguments = dict(
        method.arguments,
        current_ptr=current,
        out_ptr=out,
        amplitude_ptr=amplitude,
        neurons=step.numel(),
        time_stride=time_stride,
        timesteps=current.shape[0],
        spike_levels=_integers(spike_levels),
        **tiles.arguments(),
    )
    constants = dict(
        **method.constants,
        **tiles.constants(),
        UNROLL=_unroll(current, tiles.unit),
        **common.row_constants(amplitude=(amplitude, 1)),
    )
    return Launch(fire_spikes_kernel, tiles.programs, arguments, constants, tiles.threads, derived=method.derived)


def fire_spikes(current, levels, amplitude, out_dtype, repeat, line=None, reach=0, spike_levels=1):
    """Currents [T, N, ...] float -> sorted spikes [T, N, ...] of 0..spike_levels, of `out_dtype`, each step laid out
    like that of `current`.

    levels [T D] or [C, T D] on the mean current, D = spike_levels; amplitude None, [] or [C]. Any stride over time, 0
    too, runs without a copy.
    """
    step = current.select(0, 0)
    out = steps_like(step, current.shape[0], out_dtype)
    if not out.numel():
        return out
    if not common.is_dense(step):
        current = steps_like(step, current.shape[0], current.dtype).copy_(current)
    levels, amplitude, line = common.contiguous(levels, amplitude, line)
    run(
        plan,
        dict(out=common.as_bytes(out), current=current, levels=levels, amplitude=amplitude, line=line),
        repeat=repeat,
        reach=reach,
        spike_levels=spike_levels,
    )
    return out


_EXPANSION_UNSPECIALISED = ("rows", "units", "channels", "column_tiles", "timesteps", "spike_levels")


@triton.jit(do_not_specialize=_EXPANSION_UNSPECIALISED)
def expand_spikes_kernel(
    counts_ptr,
    out_ptr,
    order_ptr,
    amplitude_ptr,
    neurons,
    timesteps,
    spike_levels,
    rows,
    units,
    channels,
    column_tiles,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    UNIT: tl.constexpr,
    AXIS: tl.constexpr,
    LARGE: tl.constexpr,
    EVEN: tl.constexpr,
    VECTOR: tl.constexpr,
    AMPLITUDE_ROWS: tl.constexpr,
):
    start, offset, inside, row, column = place(rows, units, column_tiles, ROWS, COLUMNS, UNIT, LARGE, EVEN, VECTOR)
    counts = tl.load(counts_ptr + start + offset, mask=inside, other=0).to(tl.int32)
    silent = timesteps - counts
    channel = channel_of(row, column, channels, ROWS, AXIS, EVEN)
    spike, silence = spike_values(amplitude_ptr, channel, out_ptr.dtype.element_ty, AMPLITUDE_ROWS)
    out = out_ptr + start
    for step in range(timesteps):
        shown = step
        if order_ptr is not None:
            shown = tl.load(order_ptr + step).to(tl.int32)
        if spike_levels is None:
            tl.store(out + offset, tl.where(shown >= silent, spike, silence), mask=inside)
        else:
            above = counts - (timesteps - 1 - shown) * spike_levels
            tl.store(out + offset, integer_spikes(above, spike_levels, spike), mask=inside)
        out += neurons


def plan_expansion(out, counts, timesteps, order, amplitude, spike_levels=1):
    """The launch that fills `out` [T, N, ...], bytes or floats, each step in the layout of the dense `counts`, not
    empty."""
    rows = common.row_constants(amplitude=(amplitude, 1))
    wide = 16 // out.element_size()
    tiles = common.tiles(counts, any(rows.values()), wide, wide)
    arguments = dict(
        counts_ptr=counts,
        out_ptr=out,
        order_ptr=order,
        amplitude_ptr=amplitude,
        neurons=counts.numel(),
        timesteps=timesteps,
        spike_levels=_integers(spike_levels),
        **tiles.arguments(),
    )
    return Launch(expand_spikes_kernel, tiles.programs, arguments, dict(**tiles.constants(), **rows), tiles.threads)


def expand_spikes(counts, timesteps, order, dtype, amplitude, spike_levels=1):
    """Counts uint8 [N, ...] -> spikes [T, N, ...] of 0..spike_levels, of `dtype`, each step laid out like `counts`.

    order: None or int64 [T], step x shows place order[x] of the sorted train; amplitude None, [] or [C].
    """
    out = steps_like(counts, timesteps, dtype)
    if out.numel():
        order, amplitude = common.contiguous(order, amplitude)
        run(
            plan_expansion,
            dict(out=common.as_bytes(out), counts=common.as_dense(counts), order=order, amplitude=amplitude),
            timesteps=timesteps,
            spike_levels=spike_levels,
        )
    return out


# ---- for offline compilation ----------------------------------------------------------------------------------------
_SPIKE_LEVELS = 15  # of integer spikes


def _fired(dtype, output, size, layout, form, amplitude=False, spike_levels=1):
    levels, scale, line, reach = variants.tables(size, layout, form)
    steps = levels.shape[-1] // spike_levels
    launch = plan(
        variants.neurons(output, size, layout, steps),
        variants.neurons(dtype, size, layout, steps),
        levels,
        scale if amplitude else None,
        1,
        line,
        reach,
        spike_levels,
    )
    form = f"{layout} {form}{' with amplitude' if amplitude else ''}{' integers' if spike_levels > 1 else ''}"
    return variants.Variant("fire_spikes", dtype, output, size, form, launch)


def _expanded(output, size, layout, full=False, spike_levels=1):
    scale = variants.tables(size, layout, "line")[1]
    steps = variants.TIMESTEPS // spike_levels
    launch = plan_expansion(
        variants.neurons(output, size, layout, steps),
        variants.neurons(torch.uint8, size, layout),
        steps,
        variants.empty(torch.int64, steps) if full else None,
        scale if full and output.is_floating_point else None,
        spike_levels,
    )
    form = f"{layout}{' in order' if full else ''}{' integers' if spike_levels > 1 else ''}"
    return variants.Variant("expand_spikes", torch.uint8, output, size, form, launch)


def launches():
    """Each pair of dtypes at the widest; other layouts, sizes and ways to search with some of them."""
    found = []
    for dtype in variants.CURRENTS:
        found += [_fired(dtype, output, "wide", "flat", "line") for output in SPIKES]
        found += [_fired(dtype, torch.uint8, "wide", "last", form) for form in ("line", "bisected")]
        found += [_fired(dtype, torch.uint8, size, "planes", "line") for size in ("narrow", "odd")]
        for layout, form in (("flat", "line"), ("last", "bisected")):
            found.append(_fired(dtype, torch.uint8, "wide", layout, form, False, _SPIKE_LEVELS))
    for output in SPIKES:
        found += [_expanded(output, size, "flat") for size in ("wide", "narrow", "odd")]
        found += [
            _expanded(output, "wide", "last", full=True),
            _fired(torch.float32, output, "wide", "last", "line", output != torch.uint8),
            _fired(torch.float32, output, "narrow", "flat", "line"),
            _fired(torch.float32, output, "wide", "last", "line", output != torch.uint8, _SPIKE_LEVELS),
            _fired(torch.float32, output, "odd", "flat", "line", False, _SPIKE_LEVELS),
            _expanded(output, "wide", "flat", False, _SPIKE_LEVELS),
            _expanded(output, "odd", "last", True, _SPIKE_LEVELS),
        ]
    found += [_expanded(torch.uint8, "large", layout) for layout in variants.LAYOUTS]
    return [*found, _fired(torch.float32, torch.uint8, "large", "planes", "line")]
