"""Pooling of spike counts. The names are those of `pcsnn.functional`."""

import torch
from torch import Tensor

from pcsnn.operators import arguments, dispatch
from pcsnn.operators.arguments import Size
from pcsnn.tensors import checks
from pcsnn.tensors.shapes import HALVES, convolved, pooled


def _check(counts, kernel, stride, padding, dilation, sizes):
    checks.tensor("counts", counts, (torch.uint8, *HALVES))
    arguments.image(counts)
    arguments.pairs(1, kernel=kernel, stride=stride, dilation=dilation, sizes=sizes)
    arguments.pairs(0, padding=padding)
    window = counts.shape[2:], kernel, stride, padding, dilation
    for size, least, most in zip(sizes, convolved(*window), convolved(*window, up=True)):
        if most < 1:
            arguments.too_small(counts, kernel, padding, dilation)
        checks.integer("sizes", size, max(least, 1), most)


def _out(counts, kernel, stride, padding, dilation, sizes):
    return torch.empty(
        (*counts.shape[:2], *sizes), dtype=counts.dtype, device=counts.device, memory_format=torch.channels_last
    )


for _name in ("max_pool2d", "sum_pool2d"):
    dispatch.define(
        f"{_name}(Tensor counts, int[2] kernel, int[2] stride, int[2] padding, int[2] dilation, int[2] sizes) "
        "-> Tensor",
        _check,
        _out,
    )


def _pool2d(name, counts, kernel_size, stride, padding, dilation, ceil_mode):
    checks.tensor("counts", counts, (torch.uint8, *HALVES))
    kernel = arguments.pair("kernel_size", kernel_size, 1)
    stride = kernel if stride is None else arguments.pair("stride", stride, 1)
    padding, dilation = arguments.pair("padding", padding, 0), arguments.pair("dilation", dilation, 1)
    arguments.image(counts)
    if any(2 * pad > taps for pad, taps in zip(padding, kernel)):
        raise ValueError(f"padding: expected at most half of the kernel {kernel}, got {padding}")
    sizes = pooled(counts.shape[2:], kernel, stride, padding, dilation, ceil_mode)
    if min(sizes) < 1:
        raise ValueError(
            f"counts: expected at least the size of the kernel {kernel} with padding {padding} and "
            f"dilation {dilation}, got {tuple(counts.shape)}"
        )
    return dispatch.call(name, counts, kernel, stride, padding, dilation, sizes)


def max_pool2d(
    counts: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Max pooling of spike counts, which is that of sorted spikes in every time-step (12).

    Args:
        counts: uint8 [N, C, H, W], or whole numbers >= 0 of float16 or bfloat16.
        kernel_size, stride, padding, dilation, ceil_mode: as of torch.nn.functional.max_pool2d.

    Returns:
        [N, C, H', W'] of the dtype of counts, channels last in memory.

    Raises:
        TypeError, ValueError: a dtype, shape or geometry that does not fit.
    """
    return _pool2d("max_pool2d", counts, kernel_size, stride, padding, dilation, ceil_mode)


def sum_pool2d(counts: Tensor, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> Tensor:
    """The spikes of each window together: average pooling of spike counts without its division.

    Args:
        counts: uint8 [N, C, H, W], or whole numbers of float16 or bfloat16; those of a window sum up to at most 255,
            else uint8 sums are modulo 256 and floating ones may be rounded.
        kernel_size, stride, padding: as of torch.nn.functional.avg_pool2d; beyond the borders there is no spike.

    Returns:
        [N, C, H', W'] of the dtype of counts, channels last in memory.

    Raises:
        TypeError, ValueError: a dtype, shape or geometry that does not fit.
    """
    return _pool2d("sum_pool2d", counts, kernel_size, stride, padding, 1, False)
