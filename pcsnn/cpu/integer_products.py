"""Products of int8 weights and spike counts on the CPU: oneDNN's, reached through torch, or csrc/products.cpp's.

The sum over weights is a whole number that float32 holds where it stays below 2^24, so that oneDNN may return it as
float32; or it is requantised, and comes back in bytes.

On processors with AVX2 and no VNNI oneDNN widens every pair of products to 32 bits. Counts are small, so that
csrc/products.cpp adds several pairs in 16 bits first, and takes oneDNN's place where weights and T allow it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from pcsnn.cpu.convolution import convolution, crashes
from pcsnn.cpu.lines import FLOAT32_EXACT
from pcsnn.tensors.arithmetic import LARGEST_PAIR_SUM
from pcsnn.tensors.shapes import laid_out

BLOCK, QUAD = 16, 4  # outputs and inputs side by side in the weights of csrc/products.cpp
DEPTHS = (8, 4)  # quads of inputs whose products it adds in 16 bits; with two it is no faster than oneDNN


class Layer(NamedTuple):
    """A convolution, or a linear layer as one of images of one column."""

    weight: torch.Tensor  # int8 [O, C / groups, R, S] or [O, C]
    options: tuple  # stride, padding, dilation, groups
    known: Callable  # known(key, make): what was made of the weight before


def multiplies_in_pairs():
    """Whether this processor's widest product of bytes is AVX2's, in pairs."""
    return torch.ops.pcsnn.cpu_capability() == "avx2" and not torch.cpu._is_vnni_supported()


def depth_of(weight, timesteps):
    """How many quads of products of counts up to `timesteps` add up in 16 bits, of DEPTHS; None: fewer."""
    outputs, inputs = weight.shape[:2]
    pairs = weight.movedim(1, -1).int().abs().reshape(outputs, -1, inputs // 2, 2).sum(-1)
    for depth in DEPTHS:
        if inputs % (QUAD * depth) == 0:
            lanes = pairs.view(outputs, -1, inputs // (QUAD * depth), depth, QUAD // 2).sum(3)
            if timesteps * int(lanes.amax()) <= LARGEST_PAIR_SUM:
                return depth
    return None


def blocks(weight):
    """Weights [O, C, R, S] as csrc/products.cpp reads them, [O / BLOCK, R, S, C / QUAD, BLOCK, QUAD]."""
    outputs, inputs, *kernel = weight.shape
    split = weight.reshape(outputs // BLOCK, BLOCK, inputs // QUAD, QUAD, *kernel)
    return split.permute(0, 4, 5, 2, 1, 3).contiguous()


def _own_product(known, weight, options, timesteps):
    """(blocks, depth) for csrc/products.cpp, or None where oneDNN is faster or the only one that can."""
    if (
        weight.dim() != 4
        or options[-1] != 1
        or len(weight) % BLOCK
        or weight.shape[1] % (QUAD * DEPTHS[-1])
        or not multiplies_in_pairs()
    ):
        return None
    depth = depth_of(weight, timesteps)
    return None if depth is None else (known("blocks", lambda: blocks(weight)), depth)


def convolve(x, layer, dtype, timesteps, line=None, steps=None):
    """An int8 convolution of counts up to `timesteps`: float32 sums, or bytes, clipped at `steps`, of a line
    (factor, start) for each channel."""
    weight, options, known = layer
    stride, padding, dilation, groups = options
    own = known(("own product", options, timesteps), lambda: _own_product(known, weight, options, timesteps))
    if own is not None:
        packed, depth = own
        return torch.ops.pcsnn._products(
            x,
            packed,
            *(line or (None, None)),
            len(weight),
            weight.shape[2:],
            stride,
            padding,
            dilation,
            steps or 0,
            depth,
        )
    packed, ones, zeros = known(("packed", options), lambda: _pack(weight, options))
    factor, start = line or (ones, None)
    attribute, limits = ("none", []) if steps is None else ("hardtanh", [0.0, float(steps)])
    return torch.ops.onednn.qconv2d_pointwise.default(
        x, 1.0, 0, packed, factor, zeros, start, stride, padding, dilation, groups, 1.0, 0, dtype, attribute, limits, ""
    )


def _pack(weight, options):
    """The weight as oneDNN wants it, and scales and zero points that change nothing."""
    stride, padding, dilation, groups = options
    ones = torch.ones(len(weight))
    kernel = laid_out(as_kernel(weight), torch.channels_last)
    packed = torch.ops.onednn.qconv_prepack(kernel, ones, 1.0, 0, stride, padding, dilation, groups, None)
    return packed, ones, torch.zeros(len(weight), dtype=torch.int32)


def as_kernel(weight):
    """The weight of a linear layer as that of a 1x1 convolution."""
    return weight if weight.dim() == 4 else weight[:, :, None, None]


def _largest(weight):
    """The largest magnitude in int8 weights, and of the sum of those of a channel."""
    magnitudes = weight.flatten(1).int().abs()
    return int(magnitudes.amax()), int(magnitudes.sum(1).amax())


def bounds(layer):
    """The largest magnitude in the weights of a layer, and of the sum of those of a channel."""
    return layer.known("largest", lambda: _largest(layer.weight))


def fits_one_product(layer, timesteps):
    """Whether oneDNN multiplies counts up to `timesteps` at once, and float32 holds the sums."""
    most, total = bounds(layer)
    return (
        total * timesteps < FLOAT32_EXACT
        and 2 * timesteps * most <= LARGEST_PAIR_SUM
        and not crashes(layer.weight, layer.options)
    )


def sums(x, layer, timesteps):
    """Exact sums over int8 weights: float32 where that holds them and one product is enough, else float64."""
    if fits_one_product(layer, timesteps):
        return convolve(x, layer, torch.float32, timesteps)
    if 15 * bounds(layer)[1] < FLOAT32_EXACT and not crashes(layer.weight, layer.options):  # in two halves of four bits
        high, low = (convolve(part, layer, torch.float32, 15).double() for part in (x >> 4, x & 15))
        return high.mul_(16).add_(low)
    return convolution(x.double(), as_kernel(layer.weight).double(), None, *layer.options)
