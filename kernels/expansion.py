"""Spike trains of given counts (7), (13): sorted, or in a given order of the steps."""

import triton
import triton.language as tl

from pcsnn.kernels import common
from pcsnn.kernels.common import channel_of, spike_values


@triton.jit(do_not_specialize=common.UNSPECIALISED)
def expand_spikes_kernel(counts_ptr, out_ptr, order_ptr, amplitude_ptr, neurons, timesteps,
                         stride, stride_multiplier, stride_shift, channels, channel_multiplier, channel_shift,
                         BLOCK: tl.constexpr, LARGE: tl.constexpr, AMPLITUDE_ROWS: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    inside = lane < neurons - start
    silent = timesteps - tl.load(counts_ptr + start + lane, mask=inside, other=0).to(tl.int32)
    channel = 0
    if AMPLITUDE_ROWS:
        channel = channel_of(start, lane, stride, stride_multiplier, stride_shift, channels, channel_multiplier,
                             channel_shift, LARGE)
    spike, silence = spike_values(amplitude_ptr, channel, out_ptr.dtype.element_ty, AMPLITUDE_ROWS)
    out = out_ptr + start
    for step in range(timesteps):
        place = step
        if order_ptr is not None:
            place = tl.load(order_ptr + step).to(tl.int32)
        tl.store(out + lane, tl.where(place >= silent, spike, silence), mask=inside)
        out += neurons


def plan(out, counts, timesteps, order, amplitude):
    """The launch that fills `out` [T, N, ...], bytes or floats, each step in the layout of the dense `counts`, not empty."""
    block = common.block(counts.numel(), out, counts)
    channel, rows = common.channel_arguments(counts, block, amplitude=(amplitude, 1))
    arguments = dict(counts_ptr=counts, out_ptr=out, order_ptr=order, amplitude_ptr=amplitude, neurons=counts.numel(),
                     timesteps=timesteps, **channel)
    return common.Launch(expand_spikes_kernel, triton.cdiv(counts.numel(), block), arguments, dict(BLOCK=block, **rows))


def expand_spikes(counts, timesteps, order, dtype, amplitude):
    """Counts uint8 [N, ...] -> spikes [T, N, ...] of `dtype`, each step laid out like `counts`.

    order: None or int64 [T], step x shows place order[x] of the sorted train; amplitude None, [] or [C].
    """
    out = common.steps_like(counts, timesteps, dtype)
    if out.numel():
        order, amplitude = (None if table is None else table.contiguous() for table in (order, amplitude))
        plan(common.as_bytes(out), common.as_dense(counts), timesteps, order, amplitude)()
    return out
