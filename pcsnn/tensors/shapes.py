"""Sizes, strides and dtypes of what the fused operators take and return, for every backend."""

import torch

HALVES = (torch.float16, torch.bfloat16)  # dtypes in which layers on a GPU pass on counts, exactly


def convolved(sizes, kernel, stride, padding, dilation, up=False):
    """The size of what a convolution makes, dimension by dimension; up: the last window may reach too far."""
    reach = [
        size + 2 * pad - spread * (taps - 1) - 1 for size, taps, pad, spread in zip(sizes, kernel, padding, dilation)
    ]
    return [(-(-far // step) if up else far // step) + 1 for far, step in zip(reach, stride)]


def pooled(sizes, kernel, stride, padding, dilation, ceil_mode):
    """The size of what pooling makes, dimension by dimension, as torch has it."""
    found = convolved(sizes, kernel, stride, padding, dilation, ceil_mode)
    if not ceil_mode:
        return found
    # a window must start within the input or its left padding
    return [
        length - 1 if (length - 1) * step >= size + pad else length
        for length, size, step, pad in zip(found, sizes, stride, padding)
    ]


def beyond_borders(kernel, stride, padding, dilation):
    """Whether some windows of a convolution see nothing but padding, and are more than one place apart: oneDNN's
    convolutions of channels-last images crash then (torch 2.13, images one or two pixels wide)."""
    return any(
        step > 1 and pad > spread * (taps - 1) for taps, step, pad, spread in zip(kernel, stride, padding, dilation)
    )


def image_layout(network):
    """The memory format in which a network holds weights best for images: channels last, unless torch would crash."""
    odd = any(
        isinstance(module, torch.nn.Conv2d)
        and not isinstance(module.padding, str)
        and beyond_borders(module.kernel_size, module.stride, module.padding, module.dilation)
        for module in network.modules()
    )
    return torch.contiguous_format if odd else torch.channels_last


def laid_out(value, layout):
    """`value` in a memory format, with the strides of a new tensor, which are ambiguous where a size is 1 or 0."""
    value = value.contiguous(memory_format=layout)
    if min(value.shape, default=1) > 1:
        return value
    order = (1, 3, 2, 0) if layout == torch.channels_last else range(value.dim() - 1, -1, -1)
    strides, step = [0] * value.dim(), 1
    for d in order:
        strides[d] = step
        step *= value.shape[d] if layout == torch.channels_last else max(value.shape[d], 1)
    return value if value.stride() == tuple(strides) else value.as_strided(value.shape, strides)


def steps_like(step, timesteps, dtype):
    """An empty [T, N, ...] whose every step is laid out in memory like `step` [N, ...]."""
    layout = torch.empty_like(step, dtype=dtype)
    return torch.empty_strided(
        (timesteps, *layout.shape), (max(layout.numel(), 1), *layout.stride()), dtype=dtype, device=step.device
    )


def fused_dtype(weight, levels, scale, counts_dtype=None):
    """What a fused operator returns: counts, rates, or currents."""
    if levels is not None and scale is None:
        return torch.uint8 if counts_dtype is None else counts_dtype
    if weight.dtype == torch.int8:
        return torch.int32 if scale is None else torch.float32
    return weight.dtype


def split_heads(x, heads):
    """[..., tokens, heads * width] -> [..., heads, tokens, width]."""
    return x.unflatten(-1, (heads, x.shape[-1] // heads)).transpose(-3, -2)


def join_heads(x):
    """[..., heads, tokens, width] -> [..., tokens, heads * width]."""
    return x.transpose(-3, -2).flatten(-2)


def keys_first(queries, keys, width, out_width, cost=1):
    """Whether Q (K^T V) takes fewer multiplications than (Q K^T) V, one of the former counting as `cost` of those."""
    return (queries + keys) * width * out_width * cost < queries * keys * (width + out_width)
