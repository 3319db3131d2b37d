"""torch's convolution of channels-last images, also where it would crash."""

import torch
import torch.nn.functional as F

from pcsnn.tensors.arithmetic import per_channel
from pcsnn.tensors.shapes import beyond_borders, convolved, laid_out


def crashes(weight, options):
    """Whether torch would."""
    return weight.dim() == 4 and beyond_borders(weight.shape[2:], *options[:3])


def convolution(x, weight, bias, stride, padding, dilation, groups):
    """torch's convolution of channels-last images, also where it would crash: windows that see nothing but padding are
    left out, and are the bias."""
    weight = laid_out(weight, torch.channels_last)
    options = stride, padding, dilation, groups
    if not crashes(weight, options):
        return F.conv2d(x, weight, bias, *options)
    shape = (len(x), len(weight), *convolved(x.shape[2:], weight.shape[2:], *options[:3]))
    out = x.new_zeros(()) if bias is None else per_channel(bias, 4)
    out = out.expand(shape).contiguous(memory_format=torch.channels_last)
    borders, inner = [], [slice(None), slice(None)]
    for size, count, taps, step, pad, spread in zip(x.shape[2:], shape[2:], weight.shape[2:], *options[:3]):
        reach = spread * (taps - 1)
        first = max(0, -((reach - pad) // step))  # of the windows that reach the image
        last = min(count - 1, (pad + size - 1) // step)
        if first > last:
            return out
        borders = [pad - first * step, (last * step - pad) + reach - (size - 1), *borders]
        inner.append(slice(first, last + 1))
    x = laid_out(F.pad(x, borders), torch.channels_last)  # cut where a border is below zero
    out[tuple(inner)] = F.conv2d(x, weight, bias, stride, 0, dilation, groups)
    return out
