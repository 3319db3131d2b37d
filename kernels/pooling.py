"""The largest spike count (12), or the sum of the counts, of each window, channels last."""

import torch
import triton
import triton.language as tl

from pcsnn.kernels import common, variants
from pcsnn.kernels.geometry import within
from pcsnn.kernels.launch import THREADS, Launch, run
from pcsnn.tensors.shapes import HALVES

__all__ = ["max_pool2d", "sum_pool2d"]


# What addresses are multiples of, the number of channels, pays for being compiled for.
@triton.jit(
    do_not_specialize=(
        "height",
        "width",
        "rows",
        "columns",
        "across",
        "along",
        "stride_h",
        "stride_w",
        "padding_h",
        "padding_w",
        "dilation_h",
        "dilation_w",
    )
)
def pool2d_kernel(
    counts_ptr,
    out_ptr,
    channels,
    height,
    width,
    rows,
    columns,
    across,
    along,
    stride_h,
    stride_w,
    padding_h,
    padding_w,
    dilation_h,
    dilation_w,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    SUM: tl.constexpr,
    EVEN: tl.constexpr,
    LARGE: tl.constexpr,
):
    """EVEN: tiles end where channels do; LARGE: an offset within an image may leave 32 bits."""
    dtype: tl.constexpr = counts_ptr.dtype.element_ty
    wide: tl.constexpr = tl.int64 if LARGE else tl.int32
    image = tl.program_id(0) // (across * along)
    part = tl.program_id(0) % (across * along)
    place = part // across * PIXELS + tl.arange(0, PIXELS)
    channel = part % across * CHANNELS + tl.arange(0, CHANNELS)
    inside = (place < rows * columns)[:, None]
    if not EVEN:
        inside = inside & (channel < channels)[None, :]
    top = place // columns * stride_h - padding_h
    left = place % columns * stride_w - padding_w
    counts = counts_ptr + image.to(tl.int64) * height * width * channels
    first = ((top.to(wide) * width + left) * channels)[:, None] + channel[None, :]
    joined = tl.zeros([PIXELS, CHANNELS], dtype if dtype == tl.uint8 else tl.float32)
    for tap in tl.static_range(KERNEL_H * KERNEL_W):
        down, right = tap // KERNEL_W * dilation_h, tap % KERNEL_W * dilation_w
        valid = (within(top + down, height) & within(left + right, width))[:, None] & inside
        value = tl.load(counts + (first + (down * width + right).to(wide) * channels), mask=valid, other=0).to(
            joined.dtype
        )
        joined = joined + value if SUM else tl.maximum(joined, value)
    out = out_ptr + image.to(tl.int64) * rows * columns * channels
    tl.store(out + (place.to(wide) * channels)[:, None] + channel[None, :], joined.to(dtype), mask=inside)


def plan(out, counts, kernel, stride, padding, dilation, sums):
    """The launch that fills `out` [N, C, H', W'] from counts [N, C, H, W], uint8 or whole numbers >= 0 of half
    precision, both channels last, not empty; sums: whether to add."""
    batch, channels, rows, columns = out.shape
    wide = min(triton.next_power_of_2(channels), 128)
    a_thread = 16 if channels % 16 == 0 else common.NARROW  # addresses of single elements take many registers
    pixels = max(1, min(a_thread * THREADS // wide, THREADS))
    along, across = triton.cdiv(rows * columns, pixels), triton.cdiv(channels, wide)
    arguments = dict(
        counts_ptr=counts,
        out_ptr=out,
        channels=channels,
        height=counts.shape[2],
        width=counts.shape[3],
        rows=rows,
        columns=columns,
        across=across,
        along=along,
        stride_h=stride[0],
        stride_w=stride[1],
        padding_h=padding[0],
        padding_w=padding[1],
        dilation_h=dilation[0],
        dilation_w=dilation[1],
    )
    margin = 2 * (padding[0] * counts.shape[3] + padding[1]) * channels
    large = max(counts[0].numel() + margin, out[0].numel() + pixels * channels) >= 2**31
    return Launch(
        pool2d_kernel,
        batch * along * across,
        arguments,
        dict(
            KERNEL_H=kernel[0],
            KERNEL_W=kernel[1],
            PIXELS=pixels,
            CHANNELS=wide,
            SUM=sums,
            EVEN=channels % wide == 0,
            LARGE=large,
        ),
    )


def _pool2d(counts, kernel, stride, padding, dilation, sizes, sums):
    out = torch.empty(
        (*counts.shape[:2], *sizes), dtype=counts.dtype, device=counts.device, memory_format=torch.channels_last
    )
    if out.numel():
        counts = counts.contiguous(memory_format=torch.channels_last)
        run(
            plan,
            dict(out=out, counts=counts),
            kernel=tuple(kernel),
            stride=tuple(stride),
            padding=tuple(padding),
            dilation=tuple(dilation),
            sums=sums,
        )
    return out


def max_pool2d(*arguments):
    """Counts [N, C, H, W] -> [N, C, *sizes] of their dtype, channels last; beyond the borders there is no spike."""
    return _pool2d(*arguments, False)


def sum_pool2d(*arguments):
    """The same for the sum of each window, of bytes modulo 256."""
    return _pool2d(*arguments, True)


# ---- for offline compilation ----------------------------------------------------------------------------------------
def launches():
    """Each dtype and operation, of channels that are and are not aligned."""
    found = []
    for dtype in (torch.uint8, *HALVES):
        for operation in __all__:
            for channels in (1, 17, 64, 512):
                counts, out = (
                    variants.empty(dtype, 8, channels, side, side).to(memory_format=torch.channels_last)
                    for side in (112, 56)
                )
                launch = plan(out, counts, (3, 3), (2, 2), (1, 1), (1, 1), operation == "sum_pool2d")
                found.append(variants.Variant(operation, dtype, dtype, f"{channels} channels", "3x3", launch))
    return found
