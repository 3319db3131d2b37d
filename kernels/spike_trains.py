"""Sorted spikes of neurons under T currents (5)-(9): summed in time order, searched, written from the count."""

import triton
import triton.language as tl

from pcsnn.kernels import common
from pcsnn.kernels.common import channel_of, search, spike_values


@triton.jit(do_not_specialize=common.UNSPECIALISED)
def fire_spikes_kernel(current_ptr, out_ptr, levels_ptr, amplitude_ptr, neurons, time_stride,
                       timesteps, repeat, stride, stride_multiplier, stride_shift, channels, channel_multiplier,
                       channel_shift, BLOCK: tl.constexpr, UNROLL: tl.constexpr, STEPS: tl.constexpr, LARGE: tl.constexpr,
                       LEVELS_ROWS: tl.constexpr, AMPLITUDE_ROWS: tl.constexpr):
    dtype: tl.constexpr = tl.float64 if current_ptr.dtype.element_ty == tl.float64 else tl.float32
    start = tl.program_id(0).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    inside = lane < neurons - start
    total = tl.zeros((BLOCK,), dtype)
    row = current_ptr + start
    for first in range(0, timesteps, UNROLL):
        # Past the last step zeros are added, which leaves every sum as it is: none is ever -0.
        for offset in tl.static_range(UNROLL):
            present = tl.where(first + offset < timesteps, neurons - start, 0)
            total += tl.load(row + lane, mask=lane < present, other=0).to(dtype)
            row += time_stride
    channel = 0
    if LEVELS_ROWS or AMPLITUDE_ROWS:
        channel = channel_of(start, lane, stride, stride_multiplier, stride_shift, channels, channel_multiplier,
                             channel_shift, LARGE)
    levels = levels_ptr
    if LEVELS_ROWS:
        levels = levels_ptr + channel.to(tl.int64) * timesteps
    silent = timesteps - search(total, levels, timesteps, repeat, STEPS, True) * repeat
    spike, silence = spike_values(amplitude_ptr, channel, out_ptr.dtype.element_ty, AMPLITUDE_ROWS)
    out = out_ptr + start
    for step in range(timesteps):
        tl.store(out + lane, tl.where(step >= silent, spike, silence), mask=inside)
        out += neurons


def _unroll(current):
    """Steps loaded before they are added: enough bytes in flight, few enough registers at 16 neurons a thread."""
    return {2: 8, 4: 4, 8: 2}[current.element_size()]


def plan(out, current, levels, amplitude, repeat):
    """The launch that fills `out` [T, N, ...], bytes or floats; steps of it and of `current` dense and alike in layout."""
    step = current.select(0, 0)
    time_stride = current.stride(0) if current.shape[0] > 1 else step.numel()
    block = common.block(step.numel(), out, current, stride=time_stride)
    channel, rows = common.channel_arguments(step, block, levels=(levels, 2), amplitude=(amplitude, 1))
    searched, steps = common.search_arguments(levels, repeat)
    arguments = dict(current_ptr=current, out_ptr=out, levels_ptr=levels, amplitude_ptr=amplitude, neurons=step.numel(),
                     time_stride=time_stride, **searched, **channel)
    constants = dict(BLOCK=block, UNROLL=_unroll(current), **steps, **rows)
    return common.Launch(fire_spikes_kernel, triton.cdiv(step.numel(), block), arguments, constants)


def fire_spikes(current, levels, amplitude, out_dtype, repeat):
    """Currents [T, N, ...] float -> sorted spikes [T, N, ...] of `out_dtype`, each step laid out like that of `current`.

    levels [T] or [C, T] on the mean current; amplitude None, [] or [C]. Any stride over time, 0 too, runs without a copy.
    """
    step = current.select(0, 0)
    out = common.steps_like(step, current.shape[0], out_dtype)
    if not out.numel():
        return out
    if not common.is_dense(step):
        current = common.steps_like(step, current.shape[0], current.dtype).copy_(current)
    amplitude = None if amplitude is None else amplitude.contiguous()
    plan(common.as_bytes(out), current, levels.contiguous(), amplitude, repeat)()
    return out
