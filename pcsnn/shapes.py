"""Sizes and dtypes of what the fused operators return, for every backend."""

import torch

HALVES = (torch.float16, torch.bfloat16)  # dtypes in which layers on a GPU pass on counts, exactly

def convolved(sizes, kernel, stride, padding, dilation):
    """The size of what a convolution makes, dimension by dimension."""
    return [(size + 2 * pad - spread * (taps - 1) - 1) // step + 1
            for size, taps, step, pad, spread in zip(sizes, kernel, stride, padding, dilation)]


def fused_dtype(weight, levels, scale, counts_dtype=None):
    """What a fused operator returns: counts, rates, or currents."""
    if levels is not None and scale is None:
        return torch.uint8 if counts_dtype is None else counts_dtype
    if weight.dtype == torch.int8:
        return torch.int32 if scale is None else torch.float32
    return weight.dtype
