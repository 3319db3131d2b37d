"""Spike trains of given counts (7), (13): sorted, or in a given order of the steps."""

import triton
import triton.language as tl

from pcsnn.kernels import common
from pcsnn.kernels.common import channel_of, place, spike_values
from pcsnn.kernels.launch import Launch, run

_UNSPECIALISED = ("rows", "units", "channels", "column_tiles", "timesteps")


@triton.jit(do_not_specialize=_UNSPECIALISED)
def expand_spikes_kernel(counts_ptr, out_ptr, order_ptr, amplitude_ptr, neurons, timesteps, rows, units, channels, column_tiles,
                         ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNIT: tl.constexpr, AXIS: tl.constexpr, LARGE: tl.constexpr,
                         EVEN: tl.constexpr, VECTOR: tl.constexpr, AMPLITUDE_ROWS: tl.constexpr):
    start, offset, inside, row, column = place(rows, units, column_tiles, ROWS, COLUMNS, UNIT, LARGE, EVEN, VECTOR)
    silent = timesteps - tl.load(counts_ptr + start + offset, mask=inside, other=0).to(tl.int32)
    channel = channel_of(row, column, channels, ROWS, AXIS, EVEN)
    spike, silence = spike_values(amplitude_ptr, channel, out_ptr.dtype.element_ty, AMPLITUDE_ROWS)
    out = out_ptr + start
    for step in range(timesteps):
        shown = step
        if order_ptr is not None:
            shown = tl.load(order_ptr + step).to(tl.int32)
        tl.store(out + offset, tl.where(shown >= silent, spike, silence), mask=inside)
        out += neurons


def plan(out, counts, timesteps, order, amplitude):
    """The launch that fills `out` [T, N, ...], bytes or floats, each step in the layout of the dense `counts`, not empty."""
    rows = common.row_constants(amplitude=(amplitude, 1))
    wide = 16 // out.element_size()
    tiles = common.tiles(counts, any(rows.values()), wide, wide)
    arguments = dict(counts_ptr=counts, out_ptr=out, order_ptr=order, amplitude_ptr=amplitude, neurons=counts.numel(),
                     timesteps=timesteps, **tiles.arguments())
    return Launch(expand_spikes_kernel, tiles.programs, arguments, dict(**tiles.constants(), **rows), tiles.threads)


def expand_spikes(counts, timesteps, order, dtype, amplitude):
    """Counts uint8 [N, ...] -> spikes [T, N, ...] of `dtype`, each step laid out like `counts`.

    order: None or int64 [T], step x shows place order[x] of the sorted train; amplitude None, [] or [C].
    """
    out = common.steps_like(counts, timesteps, dtype)
    if out.numel():
        order, amplitude = common.contiguous(order, amplitude)
        run(plan, dict(out=common.as_bytes(out), counts=common.as_dense(counts), order=order, amplitude=amplitude),
            timesteps=timesteps)
    return out
