"""How often the elements of a value take part in a synapse or a pool, with strides, padding, groups and borders."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from pcsnn.graph import taxonomy

_BEHIND_BIAS = ("stride", "padding", "dilation", "groups")  # arguments of F.conv2d and its like
_BEHIND_BIAS_TRANSPOSED = ("stride", "padding", "output_padding", "groups", "dilation")


def options_of(function, args, kwargs):
    """The arguments behind the bias of a call of F.conv2d and its like, by name."""
    names = _BEHIND_BIAS_TRANSPOSED if "transpose" in function.__name__ else _BEHIND_BIAS
    given = {name: args[3 + place] if len(args) > 3 + place else kwargs.get(name) for place, name in enumerate(names)}
    return {name: value for name, value in given.items() if value is not None}


def through_module(module, plane, connected=None):
    """Sum over the elements of `plane` of each times its fan-out through a convolution or linear layer.

    connected: 1 where the layer's weight connects, else 0, of its shape and the dtype of `plane`; None: everywhere.
    """
    if isinstance(module, nn.Linear):
        return _through_linear(plane, module.weight, connected)
    transposed = isinstance(module, taxonomy.TRANSPOSED_CONVOLUTIONS)
    plane, ones, channels = _one_channel(plane, module.weight, module.groups, transposed, connected)
    if transposed:
        function = getattr(F, f"conv_transpose{plane.dim() - 2}d")
        out = function(
            plane, ones, None, module.stride, module.padding, module.output_padding, module.groups, module.dilation
        )
    else:
        out = module._conv_forward(plane, ones, None)  # with its padding mode; others may run the module meanwhile
    return out.sum().item() * channels


def through_function(function, plane, weight, options, connected=None):
    """The same through F.conv2d and its like, or F.linear; `options`: its arguments behind the bias, by name."""
    if function is F.linear:
        return _through_linear(plane, weight, connected)
    transposed = "transpose" in function.__name__
    plane, ones, channels = _one_channel(plane, weight, options.get("groups", 1), transposed, connected)
    return function(plane, ones, None, **options).sum().item() * channels


def _through_linear(plane, weight, connected):
    if connected is None:
        return plane.sum().item() * weight.shape[0]
    return (plane.reshape(-1, weight.shape[1]).sum(0) * connected.sum(0)).sum().item()


def _one_channel(plane, weight, groups, transposed, connected=None):
    """A convolution of ones, from one input to one output channel in each group: all channels of a group have the same
    targets and images are alike, so that they are summed before. Where not all weights connect, from all input channels
    by the number of output channels that each of their weights connects to.

    Returns (plane [1, groups or C, ...], weight [groups or C, 1 or C / groups, ...], output channels of a group).
    """
    plane = plane.sum(0, keepdim=True)
    if connected is not None:
        targets = connected.sum(1, keepdim=True) if transposed else connected.unflatten(0, (groups, -1)).sum(1)
        return plane, targets, 1
    plane = plane.unflatten(1, (groups, -1)).sum(2)
    channels = weight.shape[1] if transposed else weight.shape[0] // groups
    return plane, torch.ones(groups, 1, *weight.shape[2:], dtype=plane.dtype, device=plane.device), channels


def _each(value, dimensions):
    return list(value) if isinstance(value, (tuple, list)) else [value] * dimensions


def windows(lengths, sizes, kernel, stride, padding, dilation):
    """Which places each window of a pool covers: for each dimension bool [size, length]. No place is beyond borders."""
    dimensions = len(lengths)
    kernel = _each(kernel, dimensions)
    stride = kernel if stride in (None, (), []) else _each(stride, dimensions)
    covered = []
    padding, dilation = _each(padding, dimensions), _each(dilation, dimensions)
    for length, size, taps, step, pad, spread in zip(lengths, sizes, kernel, stride, padding, dilation):
        cover = torch.zeros(size, length, dtype=torch.bool)
        for window in range(size):
            for tap in range(taps):
                place = window * step - pad + tap * spread
                if 0 <= place < length:
                    cover[window, place] = True
        covered.append(cover)
    return covered


def adaptive_windows(lengths, sizes):
    """The same for an adaptive pool: window i covers floor(i length / size) to ceil((i + 1) length / size)."""
    covered = []
    for length, size in zip(lengths, sizes):
        cover = torch.zeros(size, length, dtype=torch.bool)
        for window in range(size):
            cover[window, window * length // size : -(-(window + 1) * length // size)] = True
        covered.append(cover)
    return covered


def through_windows(cover, plane):
    """Sum over the elements of `plane` [..., lengths] of each times the number of windows that cover it."""
    for dimension, places in enumerate(reversed(cover)):
        shape = [-1] + [1] * dimension
        plane = plane * places.sum(0).double().reshape(shape).to(plane.device)
    return plane.sum().item()


def windows_less_one(cover, value):
    """Sum over all windows, one for each element of `value`, of the places they cover, less one each."""
    places = math.prod(int(dimension.sum()) for dimension in cover)
    channels = value.numel() // math.prod(len(dimension) for dimension in cover)
    return places * channels - value.numel()


def copies(cover):
    """Whether each window is one place, and each place one window."""
    return all(
        places.shape[0] == places.shape[1] and bool(places.diagonal().all()) and int(places.sum()) == len(places)
        for places in cover
    )
