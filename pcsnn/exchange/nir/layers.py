"""What stands in a network of torch for each node of a NIR graph, with its shapes checked first."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from pcsnn.exchange.nir import uneven
from pcsnn.exchange.nir.fields import MOST, Metadata, expect, extents, integers, spread, tensor
from pcsnn.exchange.nir.neurons import check_soft_reset, share_at_first, step_thresholds, thresholds
from pcsnn.nn import ChannelScale
from pcsnn.nn.integrate_fire import IntegrateFire

NO_COUNT = "the count of a neuron that leaks does not follow from the mean current"
REFUSED = {
    "LIF": NO_COUNT,
    "CubaLIF": NO_COUNT,
    "LI": "it leaks, and gives a potential and no spikes",
    "CubaLI": "it leaks, and gives a potential and no spikes",
    "I": "it gives a potential and no spikes",
    "Delay": "spikes that come later are lost at the end of T steps",
}
KNOWN = "Input, Output, Affine, Linear, Conv1d, Conv2d, Scale, SumPool2d, AvgPool2d, Flatten, IF, Threshold"


@dataclass
class Layer:
    """A module, the shape [C, ...] of what it gives, and whether it takes [N, C * ...] instead of [N, C, ...]."""

    module: nn.Module
    shape: tuple
    flat: bool = False


class Elementwise(nn.Module):
    """x * scale, a factor for each element [C, ...]."""

    def __init__(self, scale):
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, x):
        return x * self.scale


def layer(node, shape, dt, shift):
    """The Layer of a node that gets [N, *shape]; ValueError, naming it, where it has none."""
    if node.kind in REFUSED:
        node.refuse(f"cannot be read: {REFUSED[node.kind]}; expected IF neurons, or serial=True")
    make = _MAKERS.get(node.kind)
    if make is None:
        node.refuse(f"is of a kind that pcsnn does not know; expected {KNOWN}")
    return make(node, shape, dt, shift) if make in (_fire, _threshold, _levels) else make(node, shape)


def _with_parameters(module, weight, bias):
    module.weight = nn.Parameter(weight)
    module.bias = None if bias is None else nn.Parameter(bias)
    return module


def _affine(node, shape):
    weight = tensor(node, "weight")
    if weight.dim() != 2:
        node.refuse(f"weight: expected [outputs, inputs], got shape {list(weight.shape)}")
    expect(node, shape, weight.shape[1:], "the inputs of its weight")
    bias = _bias(node, weight) if node.kind == "Affine" else None
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    return Layer(_with_parameters(made, weight, bias), (weight.shape[0],))


def _bias(node, weight):
    bias = tensor(node, "bias")
    if bias.shape != weight.shape[:1]:
        node.refuse(f"bias: expected {weight.shape[0]} values, one for each output, got shape {list(bias.shape)}")
    return bias.to(weight.dtype)


def _convolution(node, shape):
    dims = 1 if node.kind == "Conv1d" else 2
    weight = tensor(node, "weight")
    if weight.dim() != dims + 2:
        node.refuse(f"weight: expected {dims + 2} dimensions, [out, in, ...], got shape {list(weight.shape)}")
    (groups,) = integers(node, "groups", 1, 1)
    if weight.shape[0] % groups:
        node.refuse(f"groups: expected a divisor of the {weight.shape[0]} output channels, got {groups}")
    stride, dilation = (integers(node, key, dims, 1) for key in ("stride", "dilation"))
    given = node.fields.get("input_shape")
    spatial = shape[1:] if given is None else integers(node, "input_shape", dims, 1)
    expect(node, shape, (weight.shape[1] * groups, *spatial), "the inputs of its weight and its input_shape")
    if len(shape) != dims + 1:
        node.refuse(f"gets values of shape {list(shape)}; expected {dims + 1} dimensions")
    padding = node.fields.get("padding")
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            node.refuse(f"padding: expected 'same', 'valid' or integers, got {padding!r}")
        if padding == "same" and any(step > 1 for step in stride):
            node.refuse(f"padding: expected integers with a stride of {list(stride)}, got 'same'")
    else:
        padding = integers(node, "padding", dims, 0)
    if padding == "same":
        sizes = tuple(shape[1:])
    else:
        pads = (0,) * dims if padding == "valid" else padding
        sizes = _sizes(node, shape[1:], weight.shape[2:], stride, pads, dilation)
    kind = nn.Conv1d if dims == 1 else nn.Conv2d
    made = kind(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride,
        padding,
        dilation,
        groups,
        device="meta",
    )
    bias = None if node.fields.get("bias") is None else _bias(node, weight)
    return Layer(_with_parameters(made, weight, bias), (weight.shape[0], *sizes))


def _sizes(node, spatial, kernel, stride, padding, dilation):
    """What a window leaves of each dimension."""
    sizes = tuple(
        (size + 2 * pad - spread * (taps - 1) - 1) // step + 1
        for size, taps, step, pad, spread in zip(spatial, kernel, stride, padding, dilation)
    )
    if min(sizes) < 1 or math.prod(sizes) >= MOST:
        node.refuse(
            f"its window of {list(kernel)} leaves nothing of {list(spatial)} with a stride of {list(stride)}, "
            f"a padding of {list(padding)} and a dilation of {list(dilation)}"
        )
    return sizes


def _pool(node, shape):
    if len(shape) != 3:
        node.refuse(f"gets values of shape {list(shape)}; expected [channels, height, width]")
    kernel, stride = (integers(node, key, 2, 1) for key in ("kernel_size", "stride"))
    padding = integers(node, "padding", 2, 0)
    if any(2 * pad > size for pad, size in zip(padding, kernel)):
        node.refuse(f"padding: expected at most half of the window {list(kernel)}, got {list(padding)}")
    sizes = _sizes(node, shape[1:], kernel, stride, padding, (1, 1))
    made = nn.AvgPool2d(kernel, stride, padding, divisor_override=1 if node.kind == "SumPool2d" else None)
    return Layer(made, (shape[0], *sizes))


def _flatten(node, shape):
    if node.fields.get("input_type") is not None:
        expect(node, shape, extents(node, "input_type"), "its input_type")
    first, last = (integers(node, key, 1, -len(shape))[0] for key in ("start_dim", "end_dim"))
    if max(first, last) >= len(shape) or first % len(shape) > last % len(shape):
        node.refuse(f"expected start_dim and end_dim in order among {len(shape)} dimensions, got {first} and {last}")
    first, last = first % len(shape), last % len(shape)
    return Layer(
        nn.Flatten(first + 1, last + 1), (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])
    )


def _scale(node, shape):
    scale = spread(node, "scale", shape)
    common = _common(scale)
    if common is None:
        return Layer(Elementwise(torch.from_numpy(np.array(scale, np.float64))), shape)
    rounded = common.to(torch.float32)
    if torch.equal(rounded.double(), common):
        return Layer(ChannelScale(rounded), shape)
    return Layer(Elementwise(common.reshape(-1, *[1] * (len(shape) - 1)) if common.dim() else common), shape)


def _common(values):
    """[C, ...] as one value [] or one for each channel [C], where it is so; else None."""
    flat = values.reshape(values.shape[0], -1)
    if (flat == flat[:, :1]).all():
        return torch.tensor(flat[0, 0] if (flat == flat[0, 0]).all() else flat[:, 0].copy(), dtype=torch.float64)
    return None


def _neuron(node, shape, threshold, shift, levels=None):
    common = _common(threshold)
    if common is not None:
        return Layer(IntegrateFire(common, shift, levels=levels), shape)
    return Layer(IntegrateFire(torch.from_numpy(threshold.flatten()), shift, levels=levels), shape, flat=True)


def _fire(node, shape, dt, shift):
    threshold, of_current, silent = thresholds(node, shape, dt)
    check_soft_reset(node, shape)
    first = share_at_first(node, shape, threshold, silent) if shift is None else shift
    levels = node.metadata.get("quantization_levels")
    if levels is not None:
        (levels,) = integers(Metadata(node, node.metadata), "quantization_levels", 1, 1)
    return _neuron(node, shape, of_current, first, levels)


def _threshold(node, shape, dt, shift):
    """A step: one spike at every time-step while the current is above the threshold, the staircase of one level."""
    return _neuron(node, shape, step_thresholds(node, shape), 0.0, 1)


def _levels(node, shape, dt, shift):
    return Layer(uneven.levels_place(node, shape, dt), shape)


def _pass(node, shape):
    return Layer(nn.Identity(), shape)


_MAKERS = {
    "Affine": _affine,
    "Linear": _affine,
    "Conv1d": _convolution,
    "Conv2d": _convolution,
    "Scale": _scale,
    "SumPool2d": _pool,
    "AvgPool2d": _pool,
    "Flatten": _flatten,
    "IF": _fire,
    "Threshold": _threshold,
    "Pass": _pass,
    uneven.KIND: _levels,
}
