"""Where the taps of a convolution lie in memory, channels last."""

import torch
import triton
import triton.language as tl

# Recompiling for an argument's value pays for what addresses are multiples of, the numbers of channels.
UNSPECIALISED = (
    "rows",
    "height",
    "width",
    "out_plane",
    "out_width",
    "stride_h",
    "stride_w",
    "padding_h",
    "padding_w",
    "dilation_h",
    "dilation_w",
    "row_tiles",
    "column_tiles",
)


@triton.jit
def first_tap(row, inputs, height, width, out_plane, out_width, stride_h, stride_w, padding_h, padding_w):
    """Where the kernel's first tap lies for output pixels `row` [ROWS]: y, x, and its offset before any channel, of the
    dtype of `row`."""
    image = row // out_plane
    place = (row - image * out_plane).to(tl.int32)
    down = place // out_width
    y = down * stride_h - padding_h
    x = (place - down * out_width) * stride_w - padding_w
    return y, x, ((image * height + y) * width + x) * inputs


@triton.jit
def within(place, size):
    """Whether 0 <= place < size, in one comparison."""
    return place.to(tl.uint32) < size.to(tl.uint32)


def arguments(out, counts, stride, padding, dilation):
    """What first_tap and the taps behind it take, of counts [N, C, H, W] and out [N, O, H', W']."""
    return dict(
        rows=out.numel() // out.shape[1],
        inputs=counts.shape[1],
        outputs=out.shape[1],
        height=counts.shape[2],
        width=counts.shape[3],
        out_plane=out.shape[2] * out.shape[3],
        out_width=out.shape[3],
        stride_h=stride[0],
        stride_w=stride[1],
        padding_h=padding[0],
        padding_w=padding[1],
        dilation_h=dilation[0],
        dilation_w=dilation[1],
    )


def large(rows, *tensors):
    """Whether an offset, or one of `rows` rows, may leave 32 bits."""
    return rows > 2**31 or any(tensor.numel() >= 2**31 for tensor in tensors)


def channels_last(tensor):
    """`tensor` with its channels last in memory, and strides that say so even where a dimension of one element would
    let them say otherwise."""
    if tensor.dim() != 4:
        return tensor.contiguous()
    last = tensor.contiguous(memory_format=torch.channels_last)
    _, channels, height, width = last.shape
    strides = (height * width * channels, 1, width * channels, channels)
    return last if last.stride() == strides else last.as_strided(last.shape, strides)
