"""Spike counts and firing rates of neurons under a mean current (10), with or without a residual branch."""

import torch
import triton
import triton.language as tl

from pcsnn.kernels import common
from pcsnn.kernels.common import channel_of, search


@triton.jit(do_not_specialize=(*common.UNSPECIALISED, "turn", "low"))
def fire_mean_kernel(current_ptr, out_ptr, levels_ptr, scale_ptr, residual_ptr, residual_scale_ptr, neurons, turn, low,
                     timesteps, repeat, stride, stride_multiplier, stride_shift, channels, channel_multiplier, channel_shift,
                     BLOCK: tl.constexpr, STEPS: tl.constexpr, LARGE: tl.constexpr, LEVELS_ROWS: tl.constexpr,
                     SCALE_ROWS: tl.constexpr, RESIDUAL_SCALE_ROWS: tl.constexpr, SIGNED: tl.constexpr):
    dtype: tl.constexpr = tl.float64 if current_ptr.dtype.element_ty == tl.float64 else tl.float32
    start = tl.program_id(0).to(tl.int64) * BLOCK
    lane = tl.arange(0, BLOCK)
    inside = lane < neurons - start
    mean = tl.load(current_ptr + start + lane, mask=inside, other=0).to(dtype)
    channel = 0
    if LEVELS_ROWS or SCALE_ROWS or RESIDUAL_SCALE_ROWS:
        channel = channel_of(start, lane, stride, stride_multiplier, stride_shift, channels, channel_multiplier,
                             channel_shift, LARGE)
    if residual_ptr is not None:
        branch = tl.load(residual_ptr + start + lane, mask=inside, other=0).to(dtype)
        if residual_scale_ptr is not None:
            if RESIDUAL_SCALE_ROWS:
                branch = branch * tl.load(residual_scale_ptr + channel).to(dtype)
            else:
                branch = branch * tl.load(residual_scale_ptr).to(dtype)
        mean = mean + branch
    levels = levels_ptr
    if LEVELS_ROWS:
        levels = levels_ptr + channel.to(tl.int64) * timesteps
    groups = search(mean, levels, timesteps, repeat, STEPS, False)
    if scale_ptr is None:
        tl.store(out_ptr + start + lane, (groups * repeat).to(tl.uint8), mask=inside)
    else:
        if SIGNED:
            groups = tl.abs(groups - turn) - low
        if SCALE_ROWS:
            scale = tl.load(scale_ptr + channel).to(dtype)
        else:
            scale = tl.load(scale_ptr).to(dtype)
        tl.store(out_ptr + start + lane, (groups.to(dtype) * scale).to(out_ptr.dtype.element_ty), mask=inside)


def plan(out, current, levels, scale, residual, residual_scale, repeat, turn=0, low=0):
    """The launch that fills `out` [N, ...]; current, residual and out dense and alike in layout, not empty."""
    block = common.block(current.numel(), out, current, residual)
    channel, rows = common.channel_arguments(current, block, levels=(levels, 2), scale=(scale, 1),
                                             residual_scale=(residual_scale, 1))
    searched, steps = common.search_arguments(levels, repeat)
    arguments = dict(current_ptr=current, out_ptr=out, levels_ptr=levels, scale_ptr=scale, residual_ptr=residual,
                     residual_scale_ptr=residual_scale, neurons=current.numel(), turn=turn, low=low, **searched, **channel)
    return common.Launch(fire_mean_kernel, triton.cdiv(current.numel(), block), arguments, dict(BLOCK=block, SIGNED=bool(turn or low), **steps, **rows))


def _fire(out, current, levels, scale, residual, residual_scale, repeat, *balance):
    if residual is not None:
        residual = common.in_layout_of(residual, current)
    tables = [None if table is None else table.contiguous() for table in (levels, scale, residual_scale)]
    plan(out, current, tables[0], tables[1], residual, tables[2], repeat, *balance)()


def fire_counts(current, levels, residual, residual_scale, repeat):
    """Mean current [N, ...] float -> spike counts uint8 [N, ...] in its layout; levels [T] or [C, T].

    residual: None, of the dtype of current, or uint8 counts worth residual_scale [] or [C] each.
    """
    out = torch.empty_like(current, dtype=torch.uint8)
    if out.numel():
        _fire(out, common.as_dense(current), levels, None, residual, residual_scale, repeat)
    return out


def fire_rates(current, levels, scale, residual, residual_scale, repeat, turn=0, low=0):
    """Mean current [N, ...] float -> scale * (|k // repeat - turn| - low), in its dtype and layout; scale [] or [C], else as
    fire_counts."""
    out = torch.empty_like(current)
    if out.numel():
        _fire(out, common.as_dense(current), levels, scale, residual, residual_scale, repeat, turn, low)
    return out


def fire_rates_(current, levels, scale, residual, residual_scale, repeat, turn=0, low=0):
    """As fire_rates, written over `current`."""
    if not current.numel():
        return
    dense = common.as_dense(current)
    _fire(dense, dense, levels, scale, residual, residual_scale, repeat, turn, low)
    if dense is not current:
        current.copy_(dense)
