"""The largest spike count (12), or the sum of the counts, of each window: bytes, channels last."""

import torch
import triton
import triton.language as tl

from pcsnn.kernels import common
from pcsnn.kernels.launch import THREADS, Launch


@triton.jit
def pool2d_kernel(counts_ptr, out_ptr, channels, height, width, rows, columns, stride_h, stride_w, padding_h, padding_w,
                  dilation_h, dilation_w, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, PIXELS: tl.constexpr,
                  CHANNELS: tl.constexpr, SUM: tl.constexpr):
    across, along = tl.cdiv(channels, CHANNELS), tl.cdiv(rows * columns, PIXELS)
    image = tl.program_id(0) // (across * along)
    part = tl.program_id(0) % (across * along)
    place = part // across * PIXELS + tl.arange(0, PIXELS)
    channel = part % across * CHANNELS + tl.arange(0, CHANNELS)
    inside = (place < rows * columns)[:, None] & (channel < channels)[None, :]
    top = place // columns * stride_h - padding_h
    left = place % columns * stride_w - padding_w
    counts = counts_ptr + image.to(tl.int64) * height * width * channels
    joined = tl.zeros([PIXELS, CHANNELS], tl.uint8)
    for tap in tl.static_range(KERNEL_H * KERNEL_W):
        y, x = top + tap // KERNEL_W * dilation_h, left + tap % KERNEL_W * dilation_w
        valid = ((y >= 0) & (y < height) & (x >= 0) & (x < width))[:, None] & inside
        address = (y.to(tl.int64) * width + x)[:, None] * channels + channel[None, :]
        value = tl.load(counts + address, mask=valid, other=0)
        joined = joined + value if SUM else tl.maximum(joined, value)
    out = out_ptr + image.to(tl.int64) * rows * columns * channels
    tl.store(out + place.to(tl.int64)[:, None] * channels + channel[None, :], joined, mask=inside)


def plan(out, counts, kernel, stride, padding, dilation, sums):
    """The launch that fills `out` uint8 [N, C, H', W']; counts uint8 [N, C, H, W], both channels last, not empty;
    sums: whether to add."""
    batch, channels, rows, columns = out.shape
    wide = min(triton.next_power_of_2(channels), 128)
    a_thread = 16 if channels % 16 == 0 else common.NARROW  # addresses of single bytes take many registers
    pixels = max(1, min(a_thread * THREADS // wide, THREADS))
    programs = batch * triton.cdiv(rows * columns, pixels) * triton.cdiv(channels, wide)
    arguments = dict(counts_ptr=counts, out_ptr=out, channels=channels, height=counts.shape[2], width=counts.shape[3],
                     rows=rows, columns=columns, stride_h=stride[0], stride_w=stride[1], padding_h=padding[0],
                     padding_w=padding[1], dilation_h=dilation[0], dilation_w=dilation[1])
    return Launch(pool2d_kernel, programs, arguments,
                         dict(KERNEL_H=kernel[0], KERNEL_W=kernel[1], PIXELS=pixels, CHANNELS=wide, SUM=sums))


def _pool2d(counts, kernel, stride, padding, dilation, sizes, sums):
    out = torch.empty((*counts.shape[:2], *sizes), dtype=torch.uint8, device=counts.device, memory_format=torch.channels_last)
    if out.numel():
        plan(out, counts.contiguous(memory_format=torch.channels_last), kernel, stride, padding, dilation, sums)()
    return out


def max_pool2d(*arguments):
    """Counts uint8 [N, C, H, W] -> [N, C, *sizes], channels last; beyond the borders there is no spike."""
    return _pool2d(*arguments, False)


def sum_pool2d(*arguments):
    """The same for the sum of each window, modulo 256."""
    return _pool2d(*arguments, True)
