"""How often the elements of a value take part in a synapse or a pool: strides, padding, groups and borders included."""

import math

import torch
from torch import nn
from torch.func import functional_call

from pcsnn.convert import operations as ops


def through_module(module, plane):
    """Sum over the elements of `plane` of each times its fan-out through a convolution, a linear layer or a batch norm."""
    if isinstance(module, nn.Linear):
        return plane.sum().item() * module.out_features
    if isinstance(module, ops.BATCH_NORMS):
        return plane.sum().item()
    # One output channel of each group, its weights all one: the other channels of the group see the same.
    weight, channels = _ones(module.weight, module.groups, isinstance(module, ops.TRANSPOSED_CONVOLUTIONS))
    state = {"weight": weight.to(plane.device)}
    if module.bias is not None:
        state["bias"] = torch.zeros(module.groups, dtype=plane.dtype, device=plane.device)
    return functional_call(module, state, (plane,)).sum().item() * channels


def through_function(function, plane, weight, options):
    """The same through F.conv2d and its like, or F.linear; `options`: its arguments behind the bias, by name."""
    if function is torch.nn.functional.linear:
        return plane.sum().item() * weight.shape[0]
    ones, channels = _ones(weight, options.get("groups", 1), "transpose" in function.__name__)
    return function(plane, ones.to(plane.device), None, **options).sum().item() * channels


def _ones(weight, groups, transposed):
    """(weights of one output channel a group, all one; how many output channels a group has)."""
    if transposed:
        return torch.ones(weight.shape[0], 1, *weight.shape[2:], dtype=torch.float64), weight.shape[1]
    return torch.ones(groups, *weight.shape[1:], dtype=torch.float64), weight.shape[0] // groups


def _each(value, dimensions):
    return list(value) if isinstance(value, (tuple, list)) else [value] * dimensions


def windows(lengths, sizes, kernel, stride, padding, dilation):
    """Which places each window of a pool covers: for each dimension bool [size, length]. Beyond the borders is nothing."""
    dimensions = len(lengths)
    kernel = _each(kernel, dimensions)
    stride = kernel if stride in (None, (), []) else _each(stride, dimensions)
    covered = []
    for length, size, taps, step, pad, spread in zip(lengths, sizes, kernel, stride, _each(padding, dimensions),
                                                     _each(dilation, dimensions)):
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
            cover[window, window * length // size:-(-(window + 1) * length // size)] = True
        covered.append(cover)
    return covered


def through_windows(cover, plane):
    """Sum over the elements of `plane` [..., lengths] of each times the number of windows that cover it."""
    for dimension, places in enumerate(reversed(cover)):
        shape = [-1] + [1] * dimension
        plane = plane * places.sum(0).double().reshape(shape).to(plane.device)
    return plane.sum().item()


def covered_places(cover):
    """How many places all windows of one channel cover, those covered twice counted twice."""
    return math.prod(int(places.sum()) for places in cover)
