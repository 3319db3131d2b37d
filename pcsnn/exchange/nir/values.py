"""Values of a network as nodes of NIR hold them: arrays of whole shapes, weights without groups."""

from dataclasses import dataclass, replace

import torch
from torch.nn.modules.utils import _pair


@dataclass(frozen=True)
class Value:
    """A value of the network in NIR: the sum of the outputs of `sources`, times `scale` [] or [C]; shape [C, ...]."""

    sources: tuple
    shape: tuple
    scale: torch.Tensor | None = None

    def times(self, factor):
        return replace(self, scale=factor if self.scale is None else self.scale * factor)


def full(values, shape):
    """[] or [C] as an array [C, ...]."""
    values = values.reshape(-1, *[1] * (len(shape) - 1)) if values.dim() else values
    return values.expand(shape).contiguous().numpy()


def weights(module, scale):
    """The weight of a synapse that takes in what its inputs are worth, [] or [C]; without groups."""
    weight = _dense(module.weight.detach(), getattr(module, "groups", 1))
    if scale is None:
        return weight
    if scale.dim():
        scale = scale.view(1, -1, *[1] * (weight.dim() - 2))
    return (weight.double() * scale.double()).to(weight.dtype)


def _dense(weight, groups):
    """[O, C / groups, ...] as [O, C, ...] with zeros: NIR's own shapes, and those who read it, know no groups."""
    if groups == 1:
        return weight
    parts = weight.unflatten(0, (groups, -1)).unbind(0)
    blocks = weight.new_zeros(groups, len(parts[0]), groups, *weight.shape[1:])
    for group, part in enumerate(parts):
        blocks[group, :, group] = part
    return blocks.flatten(2, 3).flatten(0, 1)


def channel_affine(norm):
    """(factor [C], bias [C]) of a batch norm in evaluation mode."""
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight
    bias = -norm.running_mean * factor
    return factor, bias if norm.bias is None else bias + norm.bias


def reaches_over(value, shape, kernel, stride, padding):
    """Whether rounding sizes up makes windows that end beyond the padded image."""
    return any(
        (after - 1) * step + taps > before + 2 * pad
        for before, after, taps, step, pad in zip(
            value.shape[1:], shape[1:], _pair(kernel), _pair(stride or kernel), padding
        )
    )
